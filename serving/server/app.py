"""The funnel over HTTP: routes, problem answers, the page. See ``/docs`` for the API."""

import contextlib
import dataclasses
import functools
import itertools
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Annotated, Any

import fastapi
import fastapi.exceptions
from absl import logging
from fastapi import Request
from fastapi.responses import JSONResponse, Response

from serving import errors
from serving.events.event import Event
from serving.funnel.funnel import Funnel
from serving.funnel.recorder import Recorder
from serving.funnel.release_watcher import ReleaseWatcher
from serving.guard.tallies import Counting
from serving.history.user_history import HistoryStore
from serving.insight.console import Console
from serving.insight.left_out import RawRankers
from serving.process import sharing
from serving.server import access as http_access
from serving.server import admin_routes, pages, request_bodies, viewer_routes
from serving.server import answers as http_answers
from serving.server import docs as http_docs
from serving.server import schema as http_schema
from serving.server.config import HttpConfig
from serving.server.metrics import Metrics
from serving.server.readiness import Readiness
from serving.server.request_limits import RequestGate, WorkerPool

_MAX_FAULTS = 20
_TITLES = {
    400: "Bad request",
    401: "Unauthorised",
    404: "Not found",
    405: "Method not allowed",
    409: "Not possible",
    413: "Too large",
    415: "Unsupported media type",
    421: "Misdirected request",
    422: "Invalid request",
    500: "Internal error",
    503: "Unavailable",
}


def _described(code: int) -> dict[str, Any]:
    """Returns a problem answer for the OpenAPI document."""
    return {
        "model": http_schema.Problem,
        "description": _TITLES[code],
        "content": {"application/problem+json": {}},
    }


_PROBLEMS: dict[int | str, dict[str, Any]] = {
    code: _described(code) for code in (413, 415, 422, 503)
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Service:
    """The parts behind the routes.

    Attributes:
        funnel: Maker of pages.
        history: Store of what users did.
        recorder: Recorder of events.
        releases: The release that serves.
        models: Place where models run, in words.
        http: Who is answered, and how many at a time.
        clock: Clock of the server, Unix seconds.
        console: Serving root and logs, for the console; None where there are none to look at.
        history_losses: Function that returns how often the history store lost all that it held.
        raw_rankers: Rankers that can be asked with features missing.
        follow: Function that is given one to be called with the events that other processes
            recorded.
        readiness_holds_s: Seconds for which the outcome of a probe of the models is believed.
        on_close: Function called once the last request is answered.
    """

    funnel: Funnel
    history: HistoryStore
    recorder: Recorder
    releases: ReleaseWatcher
    models: str
    http: HttpConfig = dataclasses.field(default_factory=HttpConfig)
    clock: Callable[[], float] = time.time
    console: Console | None = None
    history_losses: Callable[[], int] = lambda: 0
    raw_rankers: RawRankers = dataclasses.field(default_factory=RawRankers)
    follow: Callable[[Callable[[Sequence[Event]], None]], None] = lambda _: None
    readiness_holds_s: float = 2.0
    on_close: Callable[[], None] = lambda: None


def create_app(service: Service) -> fastapi.FastAPI:
    """Returns the ASGI application of a service."""
    metrics = _metrics(service)
    pool = WorkerPool(
        threads=service.http.threads,
        max_waiting=service.http.max_waiting,
        on_overload=metrics.overloads.inc,
    )
    # Threads of their own: a busy server is still a ready one, and can be watched.
    operations = WorkerPool(threads=2, max_waiting=8, on_overload=metrics.overloads.inc)
    bodies = WorkerPool(threads=1, max_waiting=32, on_overload=metrics.overloads.inc)
    metrics.gauge("in_flight", "Requests in flight.", lambda: pool.in_flight, together="livesum")

    @contextlib.asynccontextmanager
    async def lifespan(app: fastapi.FastAPI) -> AsyncIterator[None]:
        del app
        async with metrics.sharing():
            yield
        for each in (pool, operations, bodies):
            each.close()
        service.on_close()

    tokens = {"token": service.http.token, "admin_token": service.http.admin_token}
    passes = http_access.Passes(service.http.admin_token or service.http.token, clock=service.clock)
    app = fastapi.FastAPI(
        title="watchnext",
        version="1",
        description=http_docs.DESCRIPTION,
        lifespan=lifespan,
        responses=_PROBLEMS
        | ({401: _described(401)} if service.http.token or service.http.admin_token else {}),
        docs_url=None,  # FastAPI's own page loads its scripts from elsewhere.
        redoc_url=None,
        redirect_slashes=False,  # They would lead to wherever the request says it was sent.
    )
    app.router.route_class = request_bodies.route_class(bodies)
    if any(tokens.values()):
        app.add_middleware(
            http_access.BearerGate, **tokens, admits=passes.admits, refuse=_unauthorised
        )
    app.add_middleware(http_access.HostGate, allowed=service.http.hosts, refuse=_misdirected)
    app.add_middleware(RequestGate, metrics=metrics, on_bug=_bug)
    _add_problem_answers(app)
    _add_api(app, service, pool, metrics)
    _add_lookups(app, service, pool)
    search = viewer_routes.add(
        app,
        service.funnel,
        pool,
        hosts=service.http.image_hosts,
        rankers=service.raw_rankers,
    )
    admin_routes.add(app, _parts(service, metrics, search=search, passes=passes), operations)
    _add_operations(app, service, operations, metrics)
    pages.web(app, hosts=service.http.image_hosts).add_to(app)
    return app


def _parts(service: Service, metrics: Metrics, **more: Any) -> admin_routes.Parts:
    return admin_routes.Parts(
        funnel=service.funnel,
        history=service.history,
        metrics=metrics,
        console=service.console,
        can_change=service.http.admin_token is not None,
        clock=service.clock,
        models=service.models,
        hosts=service.http.image_hosts,
        **more,
    )


def _metrics(service: Service) -> Metrics:
    counting = Counting(
        outcome_s=service.http.outcome_s,
        late_s=service.http.late_outcome_s,
        clock=service.clock,
        shared=sharing.joined(),
    )
    service.follow(counting.follow)
    metrics = Metrics(counting)
    if service.console is not None:
        metrics.watch_rollbacks(service.console.rollbacks)
    metrics.watch_releases(service.releases)
    metrics.gauge(
        "event_log_waiting_seconds",
        "Age of the oldest record that the tables of the logs do not have yet.",
        service.recorder.waiting_s,
    )
    metrics.gauge(
        "history_losses",
        "How often the history store lost all that it held, and was filled again.",
        service.history_losses,
    )
    return metrics


def _add_api(app: fastapi.FastAPI, service: Service, pool: WorkerPool, metrics: Metrics) -> None:
    @app.post(
        "/v1/recommendations",
        summary="A page of videos for a user",
        response_model=http_schema.RecommendationsAnswer,
    )
    async def recommendations(
        body: http_schema.RecommendationsRequest, received: Request
    ) -> Response:
        return await answer(body, received)

    async def answer(body: http_answers.PageBody, received: Request) -> Response:
        request = http_answers.request_of(
            body, traceparent=received.headers.get("traceparent", "")[:64]
        )
        try:
            page = await pool.run(service.funnel.recommend, request)
        except Exception as error:
            current = service.releases.current
            if current is not None and http_answers.status_of(error) >= 500:
                metrics.observe_failure(current.version)
            raise
        metrics.observe_page(page, user_id=request.user_id)
        made = http_answers.page_answer(page, debug=body.debug, hosts=service.http.image_hosts)
        # As text at once: validating and converting our own answer again costs milliseconds.
        return Response(made.model_dump_json(), media_type="application/json")

    @app.post(
        "/v1/related",
        summary="What to watch next to a video",
        response_model=http_schema.RecommendationsAnswer,
        responses={404: _described(404)},
    )
    async def related(body: http_schema.RelatedRequest, received: Request) -> Response:
        return await answer(body, received)

    @app.post("/v1/events", summary="Report what users did")
    async def events(reported: http_schema.EventsRequest) -> http_schema.EventsAnswer:
        now = int(service.clock())
        received = [http_answers.event_of(event, now=now) for event in reported.events]
        profiles = {e.user_id: e.user.known() for e in reported.events if e.user is not None}
        applied = await pool.run(service.recorder.record, received, profiles=profiles)
        metrics.observe_events(received, now=now)
        metrics.events.labels("accepted").inc(applied.accepted)
        metrics.events.labels("duplicate").inc(applied.duplicates)
        return http_schema.EventsAnswer(accepted=applied.accepted, duplicates=applied.duplicates)


def _add_lookups(app: fastapi.FastAPI, service: Service, pool: WorkerPool) -> None:
    @app.get("/v1/users", summary="Some users who have watched something")
    async def users(
        limit: Annotated[int, fastapi.Query(ge=1, le=1000)] = 50,
    ) -> http_schema.UsersAnswer:
        ids = await pool.run(service.history.user_ids, limit)
        return http_schema.UsersAnswer(users=ids)

    @app.get("/v1/users/{user_id:path}/history", summary="What a user did last")
    async def history(
        user_id: http_schema.Id,
        limit: Annotated[int, fastapi.Query(ge=1, le=200)] = 20,
    ) -> http_schema.HistoryAnswer:
        def look_up() -> http_schema.HistoryAnswer:
            with service.releases.pin() as release:
                return http_answers.history_answer(
                    service.history.read(user_id), release, limit=limit
                )

        return await pool.run(look_up)

    @app.put("/v1/users/{user_id:path}/blocked", summary="What a user does not want to see")
    async def block(
        user_id: http_schema.Id,
        blocked: http_schema.Blocked,
    ) -> http_schema.Blocked:
        """Replaces what was there; it counts for the next request. The history answer has it."""
        kept = http_answers.blocked_of(blocked)
        await pool.run(service.history.set_blocked, user_id, kept)
        return http_schema.Blocked(**kept.to_record())

    @app.get("/v1/release", summary="The release that serves")
    async def release() -> http_schema.ReleaseAnswer:
        with service.releases.pin() as current:
            return http_answers.release_answer(
                current, loaded_at=service.releases.loaded_at, models=service.models
            )


def _add_operations(
    app: fastapi.FastAPI, service: Service, operations: WorkerPool, metrics: Metrics
) -> None:
    @app.get("/healthz", summary="Whether the process lives")
    async def healthz() -> http_schema.Status:
        return http_schema.Status()

    def probe() -> None:
        service.history.ping()
        with service.releases.pin() as release:
            release.probe()

    readiness = Readiness(
        functools.partial(operations.run, probe), holds_s=service.readiness_holds_s
    )

    @app.get("/readyz", summary="Whether every model answers a real prediction")
    async def readyz() -> http_schema.Status:
        """The outcome holds for two seconds; whoever asks meanwhile is told the same."""
        await readiness.require()
        return http_schema.Status()

    @app.get("/metrics", summary="Prometheus metrics", response_class=Response)
    async def prometheus() -> Response:
        text = await operations.run(metrics.text)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


# ---- problems ------------------------------------------------------------------------------------


def _add_problem_answers(app: fastapi.FastAPI) -> None:
    @app.exception_handler(fastapi.exceptions.RequestValidationError)
    async def invalid(
        request: Request, error: fastapi.exceptions.RequestValidationError
    ) -> Response:
        faults = [
            {
                "where": request_bodies.shown(".".join(map(str, fault["loc"]))),
                "rule": request_bodies.shown(str(fault["msg"])),
            }
            for fault in itertools.islice(error.errors(), _MAX_FAULTS)
        ]
        detail = "; ".join(f"{fault['where']}: {fault['rule']}" for fault in faults[:3])
        return _problem(request, 422, detail, faults=faults)

    async def refused(request: Request, error: Exception) -> Response:
        # The router's own refusals are of the parent class of FastAPI's, with the same fields.
        status, detail = getattr(error, "status_code", 500), getattr(error, "detail", "")
        return _problem(request, status, str(detail), headers=getattr(error, "headers", None))

    for kind in (400, 404, 405, 413, 415, fastapi.HTTPException):
        app.add_exception_handler(kind, refused)

    @app.exception_handler(errors.ServingError)
    async def failed(request: Request, error: errors.ServingError) -> Response:
        status = http_answers.status_of(error)
        headers = None
        if status == 503:
            headers = {"retry-after": str(getattr(error, "retry_after_s", 1))}
            logging.log_every_n_seconds(logging.WARNING, "503: %s", 1, error)
        return _problem(request, status, str(error), headers=headers)


def _misdirected(request: Request, detail: str) -> Response:
    return _problem(request, 421, detail)


def _unauthorised(request: Request, detail: str) -> Response:
    return _problem(request, 401, detail, headers={"www-authenticate": "Bearer"})


def _bug(request: Request, error: Exception) -> Response:
    request_id = request.scope["state"]["request_id"]
    logging.error("Request %s failed.", request_id, exc_info=error)
    return _problem(request, 500, f"This is our fault; the log has it as {request_id}.")


def _problem(
    request: Request,
    status: int,
    detail: str,
    *,
    headers: Mapping[str, str] | None = None,
    faults: list[dict[str, str]] | None = None,
) -> Response:
    problem = http_schema.Problem(
        title=_TITLES.get(status, "Error"),
        status=status,
        detail=detail,
        request_id=request.scope["state"]["request_id"],
        errors=faults,
    )
    return JSONResponse(
        problem.model_dump(exclude_none=True),
        status,
        headers=dict(headers or {}),
        media_type="application/problem+json",
    )
