"""The events of a simulated site as columns of row numbers, and as tables of the raw logs."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.site import behaviour as site_behaviour
from pipeline.site import choices as site_choices
from pipeline.site import names as site_names
from pipeline.site import satisfaction as site_satisfaction
from pipeline.site import world as site_world

WATCH_SOURCES = ("home", "up_next", "search", "channel", "external")
Columns = dict[str, np.ndarray]
_CONTENT_NOISE = 0.3  # In standard deviations of an entry.
_COLUMNS = {
    "impressions": (
        "user", "video", "time", "clicked", "watch_time_s", "page", "position", "surface",
        "device", "sources", "score",
    ),
    "watches": ("user", "video", "time", "watch_time_s", "completed", "source", "device"),
    "searches": ("user", "time", "topic", "word", "second_word", "device"),
    "feedback": ("user", "video", "time", "kind", "of_channel"),
}  # fmt: skip


class EventLog:
    """Collects events, table by table, until they are taken out.

    Attributes:
        num_events: Rows added so far.
        num_pending: Rows added since they were last taken out.
    """

    def __init__(self) -> None:
        """Starts empty."""
        self._parts: dict[str, list[Columns]] = {name: [] for name in _COLUMNS}
        self.num_events = 0
        self.num_pending = 0

    def add(self, table: str, **columns: np.ndarray) -> None:
        """Adds rows; every column of the table as an array [n]."""
        self._parts[table].append(columns)
        self.num_events += len(columns["time"])
        self.num_pending += len(columns["time"])

    def latest(self, table: str) -> Columns:
        """Returns the rows that were added last to a table."""
        return self._parts[table][-1]

    def drain(self) -> dict[str, Columns]:
        """Returns all rows so far, ordered by time, and forgets them."""
        taken = {}
        for table, parts in self._parts.items():
            if not parts:
                continue
            joined = {
                name: np.concatenate([part[name] for part in parts]) for name in _COLUMNS[table]
            }
            order = np.argsort(joined["time"], kind="stable")
            taken[table] = {name: column[order] for name, column in joined.items()}
        self._parts = {name: [] for name in _COLUMNS}
        self.num_pending = 0
        return taken


class Tables:
    """Turns row numbers into the ids and names of the raw logs."""

    def __init__(self, world: site_world.World) -> None:
        """Makes the names of a world."""
        self._world = world
        topic_names, topic_words, channel_ids, channel_titles = site_world.names(world)
        self._topic_names, self._topic_words = topic_names, topic_words
        self._channel_titles = channel_titles
        self._channel_ids = pa.array(channel_ids)
        self._user_ids = pa.array(user_ids(world))
        self._video_ids = pa.array(video_ids(world))
        self._words = pa.array([word for words in topic_words for word in words])
        self._words_per_topic = len(topic_words[0])
        self._source_lists = _source_lists()

    def events(self, table: str, columns: Columns) -> pa.Table:
        """Returns a table of the raw logs.

        Args:
            table: ``impressions``, ``watches``, ``searches`` or ``feedback``.
            columns: Columns as ``EventLog.take`` gives them.
        """
        if table == "feedback":
            return self._feedback(columns)
        common = {
            "user_id": self._user_ids.take(pa.array(columns["user"])),
            "time": pa.array(columns["time"]),
            "device": _named(site_world.DEVICES, columns["device"]),
        }
        if table == "searches":
            return pa.table({**common, "query": self._queries(columns)})
        common["video_id"] = self._video_ids.take(pa.array(columns["video"]))
        common["watch_time_s"] = pa.array(columns["watch_time_s"])
        if table == "watches":
            return pa.table(
                {
                    **common,
                    "completed": pa.array(columns["completed"]),
                    "source": _named(WATCH_SOURCES, columns["source"]),
                }
            )
        return pa.table(
            {
                **common,
                "clicked": pa.array(columns["clicked"]),
                "page_id": _numbered("p", columns["page"], 10),
                "position": pa.array(columns["position"]),
                "surface": _named(site_behaviour.SURFACES, columns["surface"]),
                "candidate_sources": self._source_lists.take(pa.array(columns["sources"])),
                "retrieval_score": pa.array(columns["score"]),
            }
        )

    def _feedback(self, columns: Columns) -> pa.Table:
        of_channel = columns["of_channel"]
        channels = self._world.videos.channel[columns["video"]]
        return pa.table(
            {
                "user_id": self._user_ids.take(pa.array(columns["user"])),
                "time": pa.array(columns["time"]),
                "kind": _named(site_satisfaction.KINDS, columns["kind"]),
                "video_id": self._video_ids.take(pa.array(columns["video"], mask=of_channel)),
                "channel_id": self._channel_ids.take(pa.array(channels, mask=~of_channel)),
            }
        )

    def _queries(self, columns: Columns) -> pa.Array:
        first = columns["topic"].astype(np.int64) * self._words_per_topic
        one = self._words.take(pa.array(first + columns["word"]))
        second = columns["second_word"]
        two = self._words.take(pa.array(first + second, mask=second < 0))
        return pc.binary_join_element_wise(one, two, " ", null_handling="skip")

    def users(self) -> pa.Table:
        """Returns the users table; ``subscription_tier`` and ``language`` are extra columns."""
        users = self._world.users
        gender = _named(site_world.GENDERS, users.gender)
        return pa.table(
            {
                "user_id": self._user_ids,
                "region": _named(site_world.REGIONS, users.region),
                "gender": pc.if_else(pc.equal(gender, ""), pa.scalar(None, pa.string()), gender),
                "age": pa.array(users.age.astype(np.float64), mask=np.isnan(users.age)),
                "signed_in": pa.array(users.signed_in),
                "language": _named(site_world.LANGUAGES, users.languages[:, 0]),
                "subscription_tier": _named(site_world.TIERS, users.premium),
            }
        )

    def videos(self) -> pa.Table:
        """Returns the videos table; ``production_quality`` is an extra column.

        So is ``content``, where the site has it: a random projection of what a video is like (its
        topics, hidden niche, language, quality, clickbait), with noise. A title or a picture would
        say as much of it the moment it is uploaded.
        """
        videos = self._world.videos
        picks = np.random.default_rng([self._world.config.seed, 5]).integers(
            0, 1 << 16, (len(videos.topic), 3)
        )
        titles = site_names.titles(
            topic=videos.topic,
            channel_titles=self._channel_titles,
            channel=videos.channel,
            episode=videos.episode,
            clickbait=videos.clickbait,
            topic_names=self._topic_names,
            topic_words=self._topic_words,
            picks=picks,
        )
        content = self._content()
        return pa.table(
            {
                **({} if content is None else {"content": content}),
                "video_id": self._video_ids,
                "upload_time": pa.array(videos.upload_time),
                "channel_id": self._channel_ids.take(pa.array(videos.channel)),
                "topics": self._topics(),
                "language": _named(site_world.LANGUAGES, videos.language),
                "duration_s": pa.array(videos.duration_s.astype(np.float64)),
                "title": pa.array(titles),
                "production_quality": pa.array(np.round(videos.quality.astype(np.float64), 3)),
            }
        )

    def _content(self) -> pa.Array | None:
        config, videos = self._world.config, self._world.videos
        if not config.content_width:
            return None
        rng = np.random.default_rng([config.seed, 10])
        topics, kinds = np.eye(config.topics), np.eye(config.niches * config.topics)
        liking = np.concatenate(
            [
                topics[videos.topic] + 0.3 * topics[videos.second_topic],
                # Of a topic: people have a niche of each.
                kinds[config.niches * videos.topic.astype(np.int64) + videos.niche],
                np.eye(len(site_world.LANGUAGES))[videos.language],
                (videos.quality[:, None] - 0.5) * 2,
                videos.clickbait[:, None] * 2 - 1,
            ],
            axis=1,
        )
        projection = rng.normal(size=(liking.shape[1], config.content_width))
        vectors = liking @ projection / np.sqrt(liking.shape[1])
        vectors += _CONTENT_NOISE * vectors.std() * rng.normal(size=vectors.shape)
        return pa.array(vectors.astype(np.float32).tolist(), pa.list_(pa.float32()))

    def _topics(self) -> pa.ListArray:
        videos = self._world.videos
        both = np.stack([videos.topic, videos.second_topic], axis=1)
        is_listed = np.stack(
            [np.ones(len(both), bool), videos.second_topic != videos.topic], axis=1
        )
        offsets = np.concatenate([[0], np.cumsum(is_listed.sum(axis=1))]).astype(np.int32)
        names = pa.array(self._topic_names).take(pa.array(both[is_listed]))
        return pa.ListArray.from_arrays(pa.array(offsets), names)


def user_ids(world: site_world.World) -> list[str]:
    """Returns the user ids in the order of the world: ``u000000``, ..."""
    return _ids("u", world.config.users)


def video_ids(world: site_world.World) -> list[str]:
    """Returns the video ids in the order of the world, that of upload: ``v000000``, ..."""
    return _ids("v", world.config.videos)


def _ids(letter: str, number: int) -> list[str]:
    width = max(6, len(str(number - 1)))
    return [f"{letter}{index:0{width}d}" for index in range(number)]


def _numbered(letter: str, numbers: np.ndarray, width: int) -> pa.Array:
    digits = pc.utf8_lpad(pa.array(numbers).cast(pa.string()), width, "0")
    return pc.binary_join_element_wise(letter, digits, "")


def _named(names: tuple[str, ...], indices: np.ndarray) -> pa.Array:
    return pa.array(names).take(pa.array(indices.astype(np.int64)))


def _source_lists() -> pa.Array:
    """Returns for each set of source bits the list of their names."""
    names = list(site_choices.SOURCES)
    return pa.array(
        [
            [name for bit, name in enumerate(names) if bits >> bit & 1]
            for bits in range(1 << len(names))
        ],
        pa.list_(pa.string()),
    )
