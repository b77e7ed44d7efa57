"""Simulated people who get their pages from a real server, and report to it what they do.

They are those of :mod:`pipeline.site.visits`, with three differences. The page of home and the one
beside a video come over HTTP, and so do the results of a search. What they do is reported when it
has happened: a click at once, a watch when it ends. And how often they come follows from how they
were served (:mod:`pipeline.living.returning`).
"""

import heapq
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from features.durations import HOUR_S
from pipeline.living import oracle
from pipeline.living.client import Client, RefusedError
from pipeline.living.config import LiveConfig
from pipeline.living.returning import Returning
from pipeline.site import behaviour as site_behaviour
from pipeline.site import choices as site_choices
from pipeline.site import events as site_events
from pipeline.site import pages as site_pages
from pipeline.site import satisfaction as site_satisfaction
from pipeline.site import visits as site_visits
from pipeline.site import world as site_world

Columns = dict[str, np.ndarray]
Report = tuple[int, int, dict[str, Any]]  # When it is due, its number, the event.
MAX_EVENTS = 500
_RESULTS = 10  # That somebody looks at after a search.
_SEARCHING_S = (5, 41)
_STATE, _RETURNING, _OWN = "state.", "returning.", "own."
_OWN_ARRAYS = ("_next_time", "_actions_left", "_device")


class Visitors(site_visits.Visits):
    """The people of a world, at a server.

    Attributes:
        returning: What they think of the site.
        happened: Tables of what happened since :meth:`drain`, rows of the world: ``impressions``,
            ``watches``, ``searches``, ``feedback`` as :mod:`pipeline.site.events` has them, and
            ``looks``: ``user``, ``time``, ``value`` and ``best``, of home pages that were compared
            with the best ones, expected seconds.
        answers: How often the server answered from which release and rung.
        until_s: Moment up to which their time has passed, Unix seconds.
    """

    def __init__(self, world: site_world.World, client: Client, config: LiveConfig) -> None:
        """Starts before the first visit."""
        super().__init__(world, np.arange(world.config.users))
        self.returning = Returning(config, world.config.users)
        self.happened: dict[str, list[Columns]] = {}
        self.answers: dict[str, int] = {}
        self.until_s = world.config.start_s
        self._visits_per_day = config.visits_per_day
        self._config = config
        self._client = client
        self._tables = site_events.Tables(world)
        self._user_ids = site_events.user_ids(world)
        self._video_ids = site_events.video_ids(world)
        self._row_of = {video_id: row for row, video_id in enumerate(self._video_ids)}
        _, self._words, self._channel_ids, _ = site_world.names(world)
        self._page_ids = [""] * world.config.users
        self._due: list[Report] = []
        self._num_reports = 0

    # ---- time passes -------------------------------------------------------------------------

    def begin_hour(self, hour_start_s: int) -> None:
        """Decides who comes within the hour."""
        seed = self._world.config.seed
        if hour_start_s % (24 * HOUR_S) == 0:
            self.returning.new_day(np.random.default_rng([seed, 13, hour_start_s]))
        self._start_sessions(np.random.default_rng([seed, 14, hour_start_s]), hour_start_s)

    def act(self, from_s: int, until_s: int) -> int:
        """Lets everybody who is about to act within some seconds do so at their beginning.

        Returns how many did.
        """
        self.until_s = until_s
        due = (self._actions_left > 0) & (self._next_time < until_s)
        rows = np.flatnonzero(due)
        if not len(rows):
            return 0
        rows = rows[np.argsort(self._next_time[rows], kind="stable")]
        seed = self._world.config.seed
        self._opinions = np.random.default_rng([seed, 12, from_s])
        rng = np.random.default_rng([seed, 11, from_s])
        self._next_time[rows] = from_s
        self._act(rng, self._hours.at(from_s), rows)
        self._take_in()
        self.returning.end_visit(rows[self._actions_left[rows] == 0], rng)
        return len(rows)

    def report(self, until_s: int) -> int:
        """Reports to the server all that has happened up to a moment; returns how much it was."""
        events = []
        while self._due and self._due[0][0] <= until_s:
            events.append(heapq.heappop(self._due)[2])
        for first in range(0, len(events), MAX_EVENTS):
            self._client.post("/v1/events", {"events": events[first : first + MAX_EVENTS]})
        return len(events)

    def drain(self) -> dict[str, Columns]:
        """Returns the tables of :attr:`happened`, and empties them."""
        taken = {
            table: {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
            for table, parts in self.happened.items()
        }
        self.happened = {}
        return taken

    def drain_answers(self) -> dict[str, int]:
        """Returns :attr:`answers`, and counts from 0 again."""
        taken, self.answers = self.answers, {}
        return taken

    def _eagerness(self) -> np.ndarray:
        return self.returning.eagerness()

    # ---- what they see -----------------------------------------------------------------------

    def _page(
        self, rng: np.random.Generator, moment: site_choices.Moment, policy: site_pages.Policy
    ) -> site_pages.Page:
        is_home = policy is site_pages.HOME
        last = self.state.last_video(moment.rows)
        questions = [
            self._question(row, policy.page_size, None if is_home else int(video))
            for row, video in zip(moment.rows.tolist(), last.tolist(), strict=True)
        ]
        videos = np.full((len(questions), policy.page_size), -1, np.int64)
        for place, answer in enumerate(self._client.each(self._answer, questions)):
            rows = self._rows(answer["items"])[: policy.page_size]
            videos[place, : len(rows)] = rows
            self._page_ids[int(moment.rows[place])] = answer["page_id"]
            key = f"{answer['release_id']} {answer['rung']}"
            self.answers[key] = self.answers.get(key, 0) + 1
        if is_home:
            self._look(rng, moment, videos)
        return site_pages.Page(
            videos=videos,
            sources=np.zeros(videos.shape, np.uint8),
            scores=np.zeros(videos.shape),
        )

    def _question(self, row: int, k: int, beside: int | None) -> tuple[str, dict[str, Any]]:
        device = site_world.DEVICES[int(self._device[row])]
        body = {"user_id": self._user_ids[row], "k": k, "context": {"device": device}}
        if beside is None:
            return "/v1/recommendations", body
        return "/v1/related", {**body, "video_id": self._video_ids[beside]}

    def _answer(self, question: tuple[str, dict[str, Any]]) -> Mapping[str, Any]:
        path, body = question
        try:
            answer: Mapping[str, Any] = self._client.post(path, body)
        except RefusedError as error:
            if error.status != 404 or "video_id" not in body:
                raise
            # The video is so new that the server does not have it: nothing stands beside it.
            return {"items": [], "page_id": "", "release_id": "", "rung": "no_such_video"}
        return answer

    def _rows(self, items: list[dict[str, Any]]) -> list[int]:
        return [self._row_of[item["video_id"]] for item in items]

    def _look(
        self, rng: np.random.Generator, moment: site_choices.Moment, videos: np.ndarray
    ) -> None:
        """Compares some of the pages with the best ones."""
        chosen = np.flatnonzero(rng.random(len(moment.rows)) < self._config.oracle_pages)
        if not len(chosen):
            return
        some = moment.take(chosen)
        value, best = oracle.values(some, videos[chosen], policy=site_pages.HOME)
        self._keep("looks", {"user": some.users, "time": some.time, "value": value, "best": best})

    def _go(self, rng: np.random.Generator, moment: site_choices.Moment, action: str) -> np.ndarray:
        if action != "search":
            return super()._go(rng, moment, action)
        topic = site_choices.draw_topics(moment, rng, 1)[:, 0]
        self._search(rng, moment, topic)
        results = self._results(topic, moment)
        start = moment.time + rng.integers(*_SEARCHING_S, len(moment.time))
        follows = rng.random(len(start)) < self._world.behaviour.search_follow
        showing = site_pages.showing(moment, results, policy=site_pages.HOME)
        logit, attention = site_behaviour.click_parts(self._world, showing)
        chance = site_behaviour.sigmoid(self._world.behaviour.click_bias + logit) * attention
        key = np.where(results >= 0, np.log(chance) + rng.gumbel(size=results.shape), -np.inf)
        video = np.take_along_axis(results, key.argmax(axis=1)[:, None], axis=1)[:, 0]
        watches = follows & (video >= 0)
        device = self._device[moment.rows]
        seconds = self._watch_times(rng, moment.users, np.maximum(video, 0), device) * watches
        self._record(
            moment.take(watches),
            video[watches],
            time=start[watches],
            watch_time=seconds[watches],
            source=action,
        )
        return start + np.ceil(seconds).astype(np.int64)

    def _results(self, topic: np.ndarray, moment: site_choices.Moment) -> np.ndarray:
        """Returns what the server finds for the words that were just searched, int64 [N, 10]."""
        latest = self.log.latest("searches")
        results = np.full((len(topic), _RESULTS), -1, np.int64)
        queries = self._tables.events("searches", latest)["query"].to_pylist()
        questions = list(zip(moment.rows.tolist(), queries, strict=True))
        for place, items in enumerate(self._client.each(self._ask_for_words, questions)):
            rows = self._rows(items)[:_RESULTS]
            results[place, : len(rows)] = rows
        return results

    def _ask_for_words(self, question: tuple[int, str]) -> list[dict[str, Any]]:
        row, query = question
        body = {"q": query, "user_id": self._user_ids[row], "k": _RESULTS}
        items: list[dict[str, Any]] = self._client.get("/v1/search", **body)["items"]
        return items

    # ---- what they do ------------------------------------------------------------------------

    def _take_in(self) -> None:
        """Takes what has just been done out of the log, and has it reported when it is due."""
        for table, columns in self.log.drain().items():
            self._keep(table, columns)
            if table == "watches":
                self._take_in_watches(columns)
            elif table == "searches":
                self._take_in_searches(columns)
            elif table == "feedback":
                self._take_in_feedback(columns)
            else:
                _, first, page = np.unique(columns["page"], return_index=True, return_inverse=True)
                clicks = np.bincount(page, weights=columns["clicked"])
                self.returning.saw_nothing(columns["user"][first[clicks == 0]])

    def _keep(self, table: str, columns: Columns) -> None:
        self.happened.setdefault(table, []).append(columns)

    def _take_in_watches(self, columns: Columns) -> None:
        users, videos = columns["user"], columns["video"]
        thought = site_satisfaction.satisfaction(self._world, users, videos)
        self.returning.watched(users, thought)
        for i in range(len(users)):
            user, start = int(users[i]), int(columns["time"][i])
            source = site_events.WATCH_SOURCES[int(columns["source"][i])]
            seconds = float(columns["watch_time_s"][i])
            common = {
                "user_id": self._user_ids[user],
                "video_id": self._video_ids[int(videos[i])],
                "device": site_world.DEVICES[int(columns["device"][i])],
            }
            if source in site_behaviour.SURFACES:
                common["page_id"] = self._page_ids[user]
                self._plan("click", start, common)
            watched = {"watch_time_s": seconds, "completed": bool(columns["completed"][i])}
            self._plan("watch", start + int(np.ceil(seconds)), common, source=source, **watched)

    def _take_in_searches(self, columns: Columns) -> None:
        for row in self._tables.events("searches", columns).to_pylist():
            common = {"user_id": row["user_id"], "device": row["device"]}
            self._plan("search", int(row["time"]), common, query=row["query"])

    def _take_in_feedback(self, columns: Columns) -> None:
        for row in self._tables.events("feedback", columns).to_pylist():
            about = {n: row[n] for n in ("video_id", "channel_id") if row[n] is not None}
            self._plan(row["kind"], int(row["time"]), {"user_id": row["user_id"]}, **about)

    def _plan(self, kind: str, time_s: int, common: Mapping[str, Any], **more: object) -> None:
        event_id = f"{common['user_id']}-{self._num_reports}"
        event = {"type": kind, "event_id": event_id, "time": time_s, **common, **more}
        heapq.heappush(self._due, (time_s, self._num_reports, event))
        self._num_reports += 1

    def take_over(self, visits: site_visits.Visits) -> None:
        """Goes on where visits of the same people ended that were simulated without a server."""
        self.state = visits.state
        for name in _OWN_ARRAYS:
            setattr(self, name, getattr(visits, name))

    # ---- kept from day to day ----------------------------------------------------------------

    def to_arrays(self) -> Columns:
        """Returns all that makes the next days, as arrays that need no pickle."""
        parts = {
            _STATE: vars(self.state),
            _RETURNING: vars(self.returning),
            _OWN: {name: getattr(self, name) for name in _OWN_ARRAYS},
        }
        arrays = {
            prefix + name: value
            for prefix, values in parts.items()
            for name, value in values.items()
            if isinstance(value, np.ndarray)
        }
        kept = {
            "until_s": self.until_s,
            "due": self._due,
            "reports": self._num_reports,
            "numbered": self._num_pages,
            "pages": self._page_ids,
        }
        arrays["kept"] = np.array(json.dumps(kept))
        return arrays

    def go_on_from(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Takes up what :meth:`to_arrays` returned."""
        owners = {_STATE: self.state, _RETURNING: self.returning, _OWN: self}
        for prefix, owner in owners.items():
            for name, value in arrays.items():
                if name.startswith(prefix):
                    setattr(owner, name.removeprefix(prefix), value)
        kept = json.loads(str(arrays["kept"]))
        self.until_s = kept["until_s"]
        self._due = [(time, number, event) for time, number, event in kept["due"]]
        self._num_reports, self._page_ids = kept["reports"], kept["pages"]
        self._num_pages = kept.get("numbered", 0)  # A run of an older version has none.
