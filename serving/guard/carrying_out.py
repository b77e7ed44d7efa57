"""Carries out what the guard decides, and tells of it."""

import dataclasses

import prometheus_client
from prometheus_client import CollectorRegistry, Gauge

from serving.guard.polling import Servers
from serving.guard.watching import Decision, Guard
from serving.process import hooks
from serving.release import publication, rollbacks, stored_root


def roll_back(decision: Decision, *, serving_root: str, hook: str | None = None) -> None:
    """Rolls back a serving root, local or in a store, unless another release serves by now.

    Raises:
        InputError: That is so, or the release to go back to is refused.
    """
    with stored_root.changed(serving_root, also=decision.new) as local:
        publication.rollback(
            local,
            decision.new,
            seen=decision.old,
            by=rollbacks.GUARD,
            reason=decision.reason,
            evidence=decision.evidence,
        )
    if hook:
        hooks.tell(hook, "rolled_back", dataclasses.asdict(decision))


def expose(guard: Guard, servers: Servers, *, port: int) -> None:
    """Tells Prometheus of a guard, on a port of its own."""
    registry = CollectorRegistry()

    def gauge(name: str, text: str) -> Gauge:
        return Gauge(f"watchnext_{name}", text, registry=registry)

    gauge("guard_on_probation", "1 while a new release is watched.").set_function(
        lambda: float(bool(guard.on_probation))
    )
    gauge("guard_rollbacks", "Rollbacks since the start.").set_function(lambda: guard.decided)
    gauge("guard_servers", "Servers that answered the last look.").set_function(
        lambda: servers.reached
    )
    gauge("guard_servers_missing", "Servers that did not.").set_function(lambda: servers.missed)
    prometheus_client.start_http_server(port, registry=registry)
