"""Routes of the console: the numbers of a server, its releases and experiment, and looking up.

They are behind the admin token where there is one, see :mod:`serving.server.access`. What changes
something needs that there is one. What cannot be done is refused with 409 and the reason.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Collection
from typing import Any

import fastapi
from fastapi.responses import Response

from serving import errors
from serving.funnel.funnel import Funnel
from serving.funnel.page import PageRequest
from serving.history.user_history import HistoryStore
from serving.insight import lookups, releases, vitals
from serving.insight.console import Console, RolledBack
from serving.server import admin_schema as schema
from serving.server import answers as http_answers
from serving.server import schema as http_schema
from serving.server.access import Passes
from serving.server.metrics import Metrics
from serving.server.request_limits import WorkerPool
from serving.server.viewer_routes import Search

PREFIX = "/v1/admin"
NO_ADMIN = (
    "nothing can be changed from here: this server asks nobody for an admin token. Start it with "
    "--admin_token_file=FILE, or give: python -m serving.rollback --serving_root=ROOT"
)
_KINDS = {".html": "text/html; charset=utf-8", ".json": "application/json"}
# A report has its style inside and runs nothing.
_REPORT_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; sandbox",
    "referrer-policy": "no-referrer",
    "cache-control": "private, no-store",
}
_NO_ROOT = "this server was given no serving root to look at."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parts:
    """What the routes are about.

    Attributes:
        funnel: Maker of pages.
        history: Store of what users did.
        metrics: Metrics of the server.
        console: Serving root and logs; None where there are none to look at.
        can_change: Whether an admin token is asked for, so that things may be changed.
        clock: Clock of the server, Unix seconds.
        models: Place where models run, in words.
        hosts: Hosts of thumbnails.
        search: Search by words.
        passes: Maker of passes to reports.
    """

    funnel: Funnel
    history: HistoryStore
    metrics: Metrics
    console: Console | None
    can_change: bool
    clock: Callable[[], float]
    models: str
    hosts: Collection[str]
    search: Search
    passes: Passes

    def root(self) -> Console:
        """Returns the console; raises NotPossibleError where there is none."""
        if self.console is None:
            raise errors.NotPossibleError(_NO_ROOT)
        return self.console


def add(app: fastapi.FastAPI, parts: Parts, pool: WorkerPool) -> None:
    """Adds the routes."""
    _add_server(app, parts, pool)
    _add_releases(app, parts, pool)
    _add_lookups(app, parts, pool)


def _add_server(app: fastapi.FastAPI, parts: Parts, pool: WorkerPool) -> None:
    funnel = parts.funnel

    @app.get(f"{PREFIX}/vitals", summary="What this server has counted, and drift")
    async def read_vitals() -> vitals.Vitals:
        def read() -> vitals.Vitals:
            with funnel.releases.pin() as release:
                now, registry = parts.clock(), parts.metrics.registry
                return vitals.of(registry, release, now=now, models=parts.models)

        return await pool.run(read)

    @app.get(f"{PREFIX}/guard", summary="Counts by release, and what was rolled back")
    async def guard() -> schema.GuardAnswer:
        """What `serving.guard_release` asks every server for."""
        counting = parts.metrics.counting
        done = await pool.run(parts.console.rollbacks) if parts.console else []
        return schema.GuardAnswer(
            process=counting.process,
            outcome_s=counting.outcome_s,
            releases=counting.tallies(),
            rollbacks=done,
        )

    @app.get(f"{PREFIX}/experiment", summary="The experiment that runs here")
    async def experiment() -> schema.ExperimentAnswer:
        running = funnel.experiment
        if running is None:
            return schema.ExperimentAnswer(name=None, arms=[])
        counted = parts.metrics.exposed()
        return schema.ExperimentAnswer(
            name=running.name,
            arms=[
                schema.ArmAnswer(
                    name=arm.name,
                    share=arm.share,
                    release_id=arm.release,
                    settings=dict(arm.settings),
                    pages=counted.get(running.exposure(arm), 0.0),
                )
                for arm in running.arms
            ],
        )

    @app.get(f"{PREFIX}/experiment/result", summary="What the experiment showed so far")
    async def result() -> dict[str, Any]:
        """As `serving.analyse_experiment` tells it; made of the logs once a minute at most."""
        return await pool.run(parts.root().result, funnel.experiment)


def _add_releases(app: fastapi.FastAPI, parts: Parts, pool: WorkerPool) -> None:
    @app.get(f"{PREFIX}/releases", summary="The releases of the serving root")
    async def listed() -> schema.ReleasesAnswer:
        summaries = await pool.run(parts.console.listed) if parts.console else []
        done = await pool.run(parts.console.rollbacks) if parts.console else []
        why_not = _NO_ROOT if parts.console is None else "" if parts.can_change else NO_ADMIN
        return schema.ReleasesAnswer(
            releases=summaries, can_roll_back=not why_not, why_not=why_not, rollbacks=done
        )

    @app.get(f"{PREFIX}/releases/{{version}}", summary="Figures, gates and origin of a release")
    async def detail(version: schema.Version) -> releases.Detail:
        answer = await pool.run(parts.root().detail, version)
        place = f"{PREFIX}/releases/{version}/reports/{parts.passes.new(version)}"
        addressed = [
            dataclasses.replace(one, address=f"{place}/{one.name}") for one in answer.reports
        ]
        return dataclasses.replace(answer, reports=addressed)

    @app.get(f"{PREFIX}/releases/{{version}}/card", summary="The model card of a release")
    async def card(version: schema.Version) -> dict[str, Any]:
        """Data, features, figures with intervals and by slice, gates, limits, seeds, settings."""
        return await pool.run(parts.root().card, version)

    @app.get(
        f"{PREFIX}/releases/{{version}}/reports/{{admission}}/{{name}}",
        summary="A report of a release, for people",
        response_class=Response,
    )
    async def report(
        version: schema.Version, admission: schema.Short, name: schema.Short
    ) -> Response:
        """At the address that the release's answer names, which opens for an hour."""
        del admission  # Looked at before, see `serving.server.access`.
        content = await pool.run(parts.root().report, version, name)
        kind = _KINDS.get(pathlib.PurePath(name).suffix, "text/plain; charset=utf-8")
        return Response(content, media_type=kind, headers=_REPORT_HEADERS)

    @app.get(f"{PREFIX}/comparison", summary="Two releases side by side")
    async def compared(one: schema.Version, other: schema.Version) -> releases.Comparison:
        return await pool.run(parts.root().compared, one, other)

    @app.post(f"{PREFIX}/rollback", summary="Make another release serve")
    async def roll_back(body: schema.RollbackRequest) -> RolledBack:
        """Verified first; servers follow within seconds. Needs that an admin token is asked for."""
        if not parts.can_change:
            raise errors.NotPossibleError(NO_ADMIN)
        return await pool.run(parts.root().roll_back, to=body.to, seen=body.seen)


def _add_lookups(app: fastapi.FastAPI, parts: Parts, pool: WorkerPool) -> None:
    funnel = parts.funnel

    @app.get(f"{PREFIX}/users/{{user_id:path}}", summary="A user, what was served, what followed")
    async def user(user_id: http_schema.Id) -> lookups.User:
        def look_up() -> lookups.User:
            with funnel.releases.pin() as release:
                arm = funnel.arm_of(user_id)
                return lookups.user(parts.history.read(user_id), release, arm=arm)

        return await pool.run(look_up)

    @app.get(
        f"{PREFIX}/videos/{{video_id:path}}",
        summary="A video: statistics, neighbours, who was shown it",
    )
    async def video(video_id: http_schema.Id) -> lookups.Video:
        def look_up() -> lookups.Video:
            logs = parts.console.logs if parts.console else None
            with funnel.releases.pin() as release:
                return lookups.video(release, video_id, now=int(parts.clock()), logs_dir=logs)

        return await pool.run(look_up)

    @app.get(f"{PREFIX}/queries", summary="What a query leads to")
    async def query(q: http_schema.Words) -> schema.QueryAnswer:
        def look_up() -> schema.QueryAnswer:
            with funnel.releases.pin() as release:
                near = lookups.near_query(release, q, now=int(parts.clock()))
            titles = parts.search(PageRequest(user_id="", exclude_watched=False), q, 12)
            return schema.QueryAnswer(
                query=q, titles=titles, near=[dataclasses.asdict(one) for one in near]
            )

        return await pool.run(look_up)

    @app.post(f"{PREFIX}/pages", summary="One viewer's page from two releases or settings")
    async def pages(body: schema.PagesRequest) -> schema.PagesAnswer:
        def look() -> schema.PagesAnswer:
            one, other = (_side(parts, body, side) for side in (body.one, body.other))
            ids = [{item.video_id for item in page.items} for page in (one, other)]
            return schema.PagesAnswer(one=one, other=other, both=len(ids[0] & ids[1]))

        return await pool.run(look)


class _Held:
    """A release in the form of those that are watched."""

    def __init__(self, console: Console, version: str) -> None:
        self.pin = functools.partial(console.pinned, version)


def _side(
    parts: Parts, body: schema.PagesRequest, side: schema.Side
) -> http_schema.RecommendationsAnswer:
    funnel = parts.funnel
    request = PageRequest(
        user_id=body.user_id, k=body.k, context=body.context.known(), record=False, explain=True
    )
    with funnel.releases.pin() as serving:
        current = serving.version
    held = None
    if side.release_id and side.release_id != current:
        held = _Held(parts.root(), side.release_id)
    changed = side.settings.model_dump(exclude_none=True)
    # A side that names nothing is what the viewer has, in the arm of an experiment, too.
    settings = dataclasses.replace(funnel.settings, **changed) if changed else None
    with funnel.looking(request, release=held, settings=settings) as answer:
        page = dataclasses.replace(answer.page(), recorded=None)
    return http_answers.page_answer(page, debug=True, hosts=parts.hosts)
