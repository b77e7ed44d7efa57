"""Settings of a server: plain values, readable without TensorFlow."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Annotated

from features.config import Bounds, Config, Flag, Place
from features.durations import HOUR_S
from serving.funnel.page import FunnelConfig

ANY_HOST = "*"


@dataclasses.dataclass(frozen=True, kw_only=True)
class HttpConfig(Config):
    """Who is answered, and how many at a time.

    Attributes:
        outcome_s: Age of a page, seconds, at which what was clicked and watched of it until then is
            counted for the guard of releases (serving.guard_release).
        late_outcome_s: Age of a page, seconds, at which what was watched of it until then is
            counted once more: watches are reported when they end.
        threads: Number of requests worked on at a time.
        max_waiting: Number of requests that may wait for a thread; more get 503.
        token: Token that callers must know; None lets everybody in.
        admin_token: Token for the console; None asks for ``token`` there, too, and then nothing can
            be changed from it.
        hosts: Names by which callers may call the server, see
            :func:`serving.server.access.allowed_hosts`.
        image_hosts: Hosts of thumbnails, see :func:`serving.server.pages.image_hosts`.
    """

    outcome_s: Annotated[float, Bounds(gt=0, le=HOUR_S)] = 30.0
    late_outcome_s: Annotated[float, Bounds(gt=0, le=HOUR_S)] = 600.0
    threads: Annotated[int, Bounds(ge=1, le=256)] = 8
    max_waiting: Annotated[int, Bounds(ge=0, le=100_000)] = 64
    token: str | None = dataclasses.field(default=None, repr=False)
    admin_token: str | None = dataclasses.field(default=None, repr=False)
    hosts: frozenset[str] = frozenset({ANY_HOST})
    image_hosts: frozenset[str] = frozenset()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServiceConfig(HttpConfig):
    """What a server serves, and where its parts are.

    Attributes:
        serving_root: Directory in which releases are published.
        logs: Raw logs, read to fill an empty history store, and added to.
        history: History store: a SQLite file, or for replicas ``redis://HOST:PORT/DATABASE``, or
            ``redis+sentinel://HOST:PORT/SERVICE/DATABASE``.
        history_password: Password of the Redis server; None asks without.
        model_server: HOST:PORT of TensorFlow Serving's gRPC, or several replicas with commas.
            Default: models run in here.
        model_server_ca: PEM file of the authorities behind the model servers' certificates, or
            ``system`` for those of the machine. Default: no TLS.
        model_server_wait_s: Longest wait at the start until the model server has loaded the
            release, seconds.
        index_cluster: Ray cluster that holds the shards of an index in shards: HOST:PORT of its
            head, or ``auto`` for the cluster that this machine is part of. Default: this process
            holds them.
        index_cluster_wait_s: Longest wait for shards of a release that are still loading, seconds;
            then those serve that are there.
        settings: Widths and deadlines of the funnel.
        predicate: MODULE:FUNCTION of your own that filters: takes the viewer, the catalogue and
            rows, returns whether each video may be shown (bool array).
        experiment: JSON file that splits users between releases or settings.
        traces: OTLP endpoint for OpenTelemetry traces, as http://localhost:4318/v1/traces.
        before_release: Whether to serve where nothing is published yet: pages of what is watched
            and new, until the first release is there.
        hand_over_from_mb: Size, in megabytes, from which on a new release is loaded by a new
            process, which then takes over without a pause; smaller ones are loaded by the process
            that serves. For a while there are two.
        ask_for_successor: Function that asks for a process that loads a version, see
            :class:`serving.process.handover.Control`; None where nobody could start one.
        is_successor: Whether another process serves with the same stores meanwhile.
    """

    serving_root: Annotated[pathlib.Path, Place("itself")]
    logs: Annotated[pathlib.Path, Place("itself")]
    history: str
    history_password: str | None = dataclasses.field(default=None, repr=False)
    model_server: str | None = None
    model_server_ca: str | None = None
    model_server_wait_s: Annotated[float, Bounds(ge=0)] = 240.0
    index_cluster: str | None = None
    index_cluster_wait_s: Annotated[float, Bounds(ge=0)] = 120.0
    settings: FunnelConfig = dataclasses.field(default_factory=FunnelConfig)
    predicate: Annotated[str | None, Flag("filter")] = None
    experiment: Annotated[pathlib.Path | None, Place("reads")] = None
    traces: str | None = None
    before_release: bool = False
    hand_over_from_mb: Annotated[int, Bounds(ge=0)] = 256
    ask_for_successor: Callable[[str], None] | None = None
    is_successor: bool = False
