r"""A simulated video site that learns from what it served: the whole loop at a glance.

    python -m pipeline.demo                 stays in the foreground until Ctrl-C
    python -m pipeline.demo --once          stops after the page of recommendations

A site with two weeks of logs gets a server. On day 1 it has no release, and its people see what is
watched and new; at night ``pipeline.retrain`` learns from these logs and from what the server
logged, and the running server takes its release over; on day 2 half of the people see its pages.
Then a server answers at --port. Prints what each step wrote; what else they say is in OUTPUT/said.
Everything is under --output; a second run serves what stands there.
"""

import dataclasses
import json
import os
import pathlib
import shlex
import signal
import sys
import time
import types
from collections.abc import Mapping
from typing import Any

from absl import flags, logging

from features import command, files
from features.durations import DAY_S
from pipeline import demo_text
from pipeline.living import course, days, nights, report
from pipeline.living import server as servers
from pipeline.living.client import Client
from pipeline.living.config import LiveConfig
from pipeline.living.presets import Preset
from pipeline.site.config import SiteConfig
from pipeline.steps import commands, declared, fingerprints
from serving.release import manifest as release

_OUTPUT = flags.DEFINE_string("output", "build/demo", "Directory for everything.")
_PORT = flags.DEFINE_integer("port", 8080, "Port of the server.", lower_bound=1, upper_bound=65535)
_ONCE = flags.DEFINE_boolean("once", False, "Stops after the page and exits.")

_PAST_DAYS, _DAYS = 14, 2
_DEMO = Preset(
    # Small enough for a few minutes on two cores. Four videos for each user, so that co-visitation,
    # the baseline to beat, does not know them all by heart.
    site=SiteConfig(users=2_000, videos=8_000, channels=300),
    # About as often as in the two weeks before.
    live=LiveConfig(visits_per_day=0.4, tick_s=300),
    # So few examples do not fill a deep tower.
    retrain=("--candidate_flags=--depth=1",),
)
_PAGE_SIZE = 12
_NIGHT = tuple(step for step in declared.STEPS if not step.is_instead)
_STEPS = ("visits of day 1", *(step.name for step in _NIGHT), "visits of day 2", "serve")
_PACKAGES = ("features", "models", "pipeline", "serving")
_STAMP = "demo.json"


def main() -> None:
    """Lets days pass, retrains between them, serves, recommends."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    started = time.monotonic()
    servers.require_free(_PORT.value)
    output = pathlib.Path(_OUTPUT.value)
    site = output / days.SITE
    logs, root, work = site / "logs", site / "serving_root", output / days.WORK
    if _stands(output, root):
        logging.info("Reusing the release in %s (make clean starts anew).", root)
    else:
        _make(output, root=root, work=work)
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
        line = command.shell_line("pipeline.retrain", logs=logs, serving_root=root, work=work)
        print(f"  {line} {shlex.join(_DEMO.retrain)}", flush=True)
        raise SystemExit(server.wait())


def _stands(output: pathlib.Path, root: pathlib.Path) -> bool:
    """Returns whether an earlier demo of the same code and settings came to its end.

    The logs do not count: the server appends to them what it serves.
    """
    try:
        release.current(root)
        return _is_ours(output) and (output / report.JSON).is_file()
    except command.InputError:
        return False


def _is_ours(output: pathlib.Path) -> bool:
    try:
        return bool(json.loads((output / _STAMP).read_text()) == _stamp())
    except (OSError, ValueError):
        return False


def _stamp() -> dict[str, Any]:
    settings = json.loads(json.dumps(dataclasses.asdict(_DEMO)))
    return {"settings": settings, "code": fingerprints.of_code(_PACKAGES)}


def _make(output: pathlib.Path, *, root: pathlib.Path, work: pathlib.Path) -> None:
    """Lets the days pass, and prints what came of them."""
    run = _run()
    if not _is_ours(output) or days.is_of_another(output, run):
        days.forget(output)
    (output / report.JSON).unlink(missing_ok=True)
    files.atomic_write(output / _STAMP, json.dumps(_stamp(), indent=1) + "\n")
    started = time.monotonic()
    titles = {str(work / step.writes[1]): _title(step.name) for step in _NIGHT}
    titles[str(root)] = _title("build_release")
    living = days.LivingSite(output, run, hear=commands.teller(titles))
    for name, record in living.live():
        kind, _, day = name.partition("-")
        if kind == days.NIGHT:
            _require_release(living, day, record)
        else:
            seconds, title = time.monotonic() - started, _title(f"visits of day {day}")
            print(commands.told(title, seconds, demo_text.visits(record)), end="", flush=True)
    print("\n" + "\n".join(report.write(living)))
    print(f"Figures, gates and costs: {output / report.HTML}\n", flush=True)


def _run() -> days.Run:
    """Returns the days, which end last midnight: videos are as old as they seem.

    What is watched on the page then comes after all that was learned from.
    """
    midnight = int(time.time() - 2 * course.SETTLED_S) // DAY_S * DAY_S
    preset = _DEMO.of(days=_PAST_DAYS + _DAYS, seed=1, workers=1)
    start_s = midnight - (_PAST_DAYS + _DAYS) * DAY_S
    preset = dataclasses.replace(preset, site=dataclasses.replace(preset.site, start_s=start_s))
    return days.Run(preset=preset, days=_DAYS, past_days=_PAST_DAYS)


def _require_release(living: days.LivingSite, day: str, night: Mapping[str, Any]) -> None:
    """Stops where a night published nothing; the next demo then starts anew."""
    if night["outcome"] != nights.PUBLISHED:
        (living.output / _STAMP).unlink()
        log = living.said / f"night-{day}.log"
        sys.stderr.write(f"{night['said']}\nerror: the night ended {night['outcome']}; see {log}\n")
        code = night["exit_code"]
        raise SystemExit(code if code > 0 else 1)  # A step that a signal ended has one below 0.


def _title(step: str) -> str:
    return f"{_STEPS.index(step) + 1}/{len(_STEPS)} {step}"


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
