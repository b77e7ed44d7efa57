r"""Watches each new release under live traffic, and goes back when it does worse than before.

    python -m serving.guard_release --serving_root=serving_root --servers=http://localhost:8080

Asks all servers every few seconds what they count of each release. When the new one exceeds a
limit for sure (requests that fail, empty pages, pages on a lower rung, clicks and watched seconds
per page against the release before), the one before is made current again, as by
``serving.rollback``, and all servers follow. Each release is watched for its first hour;
``--alpha`` is the probability that one within its limits is rolled back in that time, however
little traffic there is. Never twice the same release, and never further back than one.

Run one of these beside any number of servers; a name in ``--servers`` stands for all its addresses.
What was done stands in the serving root (``rollbacks/``), and in ``/v1/admin/guard`` and
``/metrics`` of every server. SIGTERM and Ctrl-C end it with code 0.
"""

import contextlib
import functools
import pathlib
import signal
import sys
import threading

from absl import flags, logging

from features import command, config_flags
from serving.guard.config import GuardConfig
from serving.process import hooks
from serving.release import manifest as release
from serving.release import stored_root

_SERVING_ROOT = config_flags.path("serving_root", "itself", "Directory of releases.", required=True)
_SERVERS = flags.DEFINE_list(
    "servers",
    None,
    "http://HOST:PORT of each server, or of a name that has them all.",
    required=True,
)
_CONFIG = config_flags.define(GuardConfig)
_ADMIN_TOKEN_FILE = flags.DEFINE_string(
    "admin_token_file",
    None,
    "File with the admin token of the servers (their token, where they have no admin token). "
    "Default: the environment variable WATCHNEXT_ADMIN_TOKEN, or none.",
)
_METRICS_PORT = flags.DEFINE_integer(
    "metrics_port", None, "Port on which the guard tells Prometheus of itself; default: none.", 0
)
_HOOK = flags.DEFINE_string(
    "hook", None, "Command, or http(s)://..., that is told of a rollback, as JSON."
)


def main() -> None:
    """Watches until a signal."""
    from serving.guard import carrying_out, polling
    from serving.guard.watching import Guard
    from serving.server import access

    config = _CONFIG.build()
    if _HOOK.value:
        hooks.require(_HOOK.value)
    token = access.read_token(_ADMIN_TOKEN_FILE.value, variable=access.ADMIN_TOKEN_VARIABLE)
    servers = polling.Servers(_SERVERS.value, token=token)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with contextlib.ExitStack() as stack:
        root: pathlib.Path = stack.enter_context(stored_root.followed(_SERVING_ROOT.value))
        release.current(root)  # No release is the likeliest mistake: say so at once.
        guard = Guard(
            root,
            config,
            totals=servers.totals,
            roll_back=functools.partial(
                carrying_out.roll_back, serving_root=_SERVING_ROOT.value, hook=_HOOK.value
            ),
        )
        if _METRICS_PORT.value is not None:
            carrying_out.expose(guard, servers, port=_METRICS_PORT.value)
        logging.info("Guarding %s by %s.", _SERVING_ROOT.value, ", ".join(_SERVERS.value))
        while not stop.wait(config.period_s):
            try:
                decision = guard.look()
            except (command.InputError, OSError) as error:
                # A root that cannot be read just now is no reason to stop looking.
                logging.log_every_n_seconds(logging.ERROR, "Cannot look: %s", 60, error)
                continue
            if decision is not None:
                sys.stdout.write(
                    f"Went back from release {decision.old} to {decision.new}: {decision.reason}.\n"
                )
                sys.stdout.flush()


if __name__ == "__main__":
    command.run(main)
