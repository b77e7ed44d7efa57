r"""A simulated video site, trained on, recommended from and served: the whole chain at a glance.

    python -m pipeline.demo                 stays in the foreground until Ctrl-C
    python -m pipeline.demo --once          stops after the page of recommendations

Runs the same commands as an operator would, and prints them and what each step wrote; the rest of
what they print is in OUTPUT/demo.log. Everything is under --output; a second run serves what stands
there.
"""

import datetime
import json
import os
import pathlib
import shlex
import shutil
import signal
import sys
import time
import types
from collections.abc import Mapping, Sequence

from absl import flags, logging

from features import command, files
from pipeline import demo_text
from pipeline.living import server as servers
from pipeline.living.client import Client
from pipeline.steps import commands, declared, fingerprints
from serving.process import listening
from serving.release import manifest as release

_OUTPUT = flags.DEFINE_string("output", "build/demo", "Directory for everything.")
_PORT = flags.DEFINE_integer("port", 8080, "Port of the server.", lower_bound=1, upper_bound=65535)
_ONCE = flags.DEFINE_boolean("once", False, "Stops after the page and exits.")

_DAYS = 14
# Small enough for a few minutes on two cores. Four videos for each user, so that co-visitation,
# the baseline to beat, does not know them all by heart.
_SITE = (
    "--preset=small",
    f"--days={_DAYS}",
    "--users=2000",
    "--videos=8000",
    "--channels=300",
    "--seed=1",
)
# So few examples do not fill a deep tower.
_RETRAIN = ("--candidate_flags=--depth=1",)
_PAGE_SIZE = 12
_STEPS = ("simulate", *(step.name for step in declared.STEPS), "serve")
_PACKAGES = ("features", "models", "pipeline", "serving")
_STAMP = "demo.json"


def main() -> None:
    """Simulates, retrains, serves, recommends."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    started = time.monotonic()
    _require_free(_PORT.value)
    output = pathlib.Path(_OUTPUT.value)
    logs, root, work = output / "logs", output / "serving_root", output / "work"
    if _stands(output, root):
        logging.info("Reusing the release in %s (make clean starts anew).", root)
    else:
        _make(output, logs=logs, root=root, work=work)
    arguments = [f"--serving_root={root}", f"--logs={logs}"]
    ready = time.monotonic()
    os.environ.update(commands.brief())
    with servers.running(arguments, port=_PORT.value) as server:
        seconds, address = time.monotonic() - ready, server.client.address
        print(commands.told(_title("serve"), seconds, f"Answers at {address}/"), end="")
        _show(server.client, work)
        print(f"All of it took {time.monotonic() - started:.0f} s; it is in {output}.")
        if _ONCE.value:
            return
        print(f"\nThe server answers at {address}/ (API: {address}/docs).")
        print("Ctrl-C stops it. To learn from what it logged in the meantime:")
        print(f"  {_line(_retrain(logs, root, work))}", flush=True)
        raise SystemExit(server.wait())


def _stands(output: pathlib.Path, root: pathlib.Path) -> bool:
    """Returns whether an earlier demo of the same code and settings published a release.

    The logs do not count: the server appends to them what it serves.
    """
    try:
        release.current(root)
        return bool(json.loads((output / _STAMP).read_text()) == _stamp())
    except (command.InputError, OSError, ValueError):
        return False


def _stamp() -> dict[str, str]:
    settings = [*_SITE, *_RETRAIN]
    return {"settings": shlex.join(settings), "code": fingerprints.of_code(_PACKAGES)}


def _make(
    output: pathlib.Path, *, logs: pathlib.Path, root: pathlib.Path, work: pathlib.Path
) -> None:
    output.mkdir(parents=True, exist_ok=True)
    places = {step.name: str(work / step.writes[1]) for step in declared.STEPS}
    places |= {"simulate": str(logs), "build_release": str(root)}
    titles = {place: _title(name) for name, place in places.items()}
    site, log = output / "site.json", output / "demo.log"
    log.unlink(missing_ok=True)
    if not (logs.is_dir() and site.is_file() and json.loads(site.read_text()) == list(_SITE)):
        for directory in (logs, root, work):  # Another site: no user or video is the same.
            shutil.rmtree(directory, ignore_errors=True)
        # The logs end last midnight, so that videos are as old as they seem and what is watched
        # on the page comes after all that was learned from.
        today = datetime.datetime.now(datetime.timezone.utc).date()
        start = today - datetime.timedelta(days=_DAYS)
        _run(
            [
                sys.executable,
                "-m",
                "pipeline.simulate",
                f"--logs={logs}",
                f"--start={start.isoformat()}",
                *_SITE,
            ],
            log,
            titles,
        )
        files.atomic_write(site, json.dumps(list(_SITE)))
    _run(_retrain(logs, root, work), log, titles)
    files.atomic_write(output / _STAMP, json.dumps(_stamp(), indent=1) + "\n")


def _retrain(logs: pathlib.Path, root: pathlib.Path, work: pathlib.Path) -> list[str]:
    paths = (f"--logs={logs}", f"--serving_root={root}", f"--work={work}")
    return [sys.executable, "-m", "pipeline.retrain", *paths, *_RETRAIN]


def _title(step: str) -> str:
    return f"{_STEPS.index(step) + 1}/{len(_STEPS)} {step}"


def _run(line: Sequence[str], log: pathlib.Path, titles: Mapping[str, str]) -> None:
    """Runs a command in the foreground; its failure is ours, and it has said why."""
    print(_line(line), flush=True)
    code = commands.run_in_short(line, log, titles)
    if code:
        sys.stderr.write(
            f"error: the demo stopped: exit code {code} of {_line(line)}; what it printed is in "
            f"{log}\n"
        )
        raise SystemExit(code if code > 0 else 1)


def _line(arguments: Sequence[str]) -> str:
    return shlex.join(arguments)


def _require_free(port: int) -> None:
    """Refuses a port that cannot be listened on, with another one to try."""
    try:
        listening.require_free_port(servers.HOST, port)
    except command.InputError as error:
        other = port + 1 if port < 65535 else port - 1
        raise command.InputError(f"{error} With make: make demo PORT={other}") from None


def _show(client: Client, work: pathlib.Path) -> None:
    """Prints a page for one user, and how good such pages are."""
    users = client.get("/v1/users", limit=50)["users"]
    if not users:
        raise command.InputError("the server knows no user; its history store is empty.")
    request = {"user_id": users[0], "k": _PAGE_SIZE, "record": False}  # Nobody is shown it.
    page = client.post("/v1/recommendations", request)
    print(
        f"\nRecommendations for user {users[0]} (release {page['release_id']}, {page['rung']}):\n"
    )
    print(demo_text.page(page["items"], now_s=page["now"]))
    metrics = json.loads((work / "evaluation" / "metrics.json").read_text())
    print(f"\n{demo_text.metrics(metrics)}\n", flush=True)


def _stop(number: int, frame: types.FrameType | None) -> None:
    """Leaves through the ``finally`` blocks, which stop the server; Ctrl-C is no failure."""
    del frame
    raise SystemExit(0 if number == signal.SIGINT else 128 + number)


if __name__ == "__main__":
    command.run(main)
