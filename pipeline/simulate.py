r"""Writes the raw logs of a simulated video site, and its truth.

    python -m pipeline.simulate --logs=logs
    python -m pipeline.simulate --logs=logs --preset=medium --seed=7
    python -m pipeline.simulate --logs=logs --users=500000 --videos=1000000 --channels=20000
    python -m pipeline.simulate --logs=logs --preset=headlines
    python -m pipeline.simulate --logs=logs --live=http://127.0.0.1:8080 --clock=clock

``pipeline/site/simulator.py`` tells how the site works. Three presets are worlds of their own, of
watches alone: headlines (a news portal), music and course, see ``pipeline/worlds``. Same flags and
seed, same logs.

With --live nothing is written but the tables of videos and users and the truth: the people of the
site visit a server that runs with the same --logs and --clock, get its pages, and report to it what
they do; see ``pipeline/living``. A call goes on where the last one stopped.
"""

import pathlib
import time

from absl import flags

from features import command, config_flags
from features.config import declared
from pipeline.living import live_simulation
from pipeline.living.config import LiveConfig
from pipeline.site import benchmark as site_benchmark
from pipeline.site import config as site_config
from pipeline.site import simulator
from pipeline.worlds import happenings
from pipeline.worlds import presets as worlds

_LOGS = config_flags.path("logs", "creates", "Directory to create.", required=True)
_OVERWRITE = flags.DEFINE_boolean("overwrite", False, "Replace what --logs holds.")
_PRESET = flags.DEFINE_enum(
    "preset",
    "small",
    [*site_config.PRESETS, *worlds.WORLDS],
    "Sizes to start from: tiny (tests), small (a laptop, seconds), medium (10 million events), "
    "news (videos live for hours); or a world of watches alone: headlines, music, course. Other "
    "flags change single settings.",
)
_ORACLE = flags.DEFINE_integer(
    "oracle_watches",
    0,
    "Watches of the last day on which to measure how well the truth itself, and popularity, "
    "would have retrieved them; 0 for none.",
)
_SETTINGS = config_flags.define(
    site_config.SiteConfig,
    unset={setting.name: "that of --preset" for setting in declared(site_config.SiteConfig)},
)

_LIVE = flags.DEFINE_string(
    "live", None, "http://HOST:PORT of a server that the people of the site visit."
)
_CLOCK = flags.DEFINE_string(
    "clock", None, "With --live: file of the simulated clock, which the server follows."
)
_LIVE_DAYS = flags.DEFINE_integer("live_days", 1, "With --live: days that pass.", 1)
_LIVE_SETTINGS = config_flags.define(LiveConfig)

_OF_WORLDS = {"seed", "days", "users"}


def main() -> None:
    """Simulates the site that the flags describe."""
    if _PRESET.value in worlds.WORLDS:
        _write_world()
        return
    if _LIVE.value:
        _live()
        return
    summary = simulator.write_logs(_config(), _LOGS.value, overwrite=_OVERWRITE.value)
    rate = summary.num_events / max(summary.seconds, 1e-9)
    print(f"Wrote {_LOGS.value} in {summary.seconds:.1f} s ({rate:,.0f} events/s):")
    for table, rows in sorted(summary.rows.items()):
        print(f"  {table:<12} {rows:>12,} rows")
    print(f"  {'truth':<12} what the users would do, see pipeline/site/truth.py")
    if _ORACLE.value:
        print(site_benchmark.last_day(summary.truth, _LOGS.value, number=_ORACLE.value).text())
    following = command.shell_line("pipeline.preprocess", logs=_LOGS.value, examples="examples")
    print(f"Next: {following}")


def _live() -> None:
    """Lets days pass at a server."""
    if not _CLOCK.value:
        raise command.InputError("--live needs --clock=FILE, which the server is given too.")
    site = _config()
    lived = live_simulation.run(
        site,
        _LIVE_SETTINGS.build(),
        address=_LIVE.value,
        logs_dir=pathlib.Path(_LOGS.value),
        clock_path=pathlib.Path(_CLOCK.value),
        days=_LIVE_DAYS.value,
    )
    passed = lived.passed
    print(
        f"{_LIVE_DAYS.value} days passed in {passed.seconds:.1f} s, {passed.speedup:,.0f} times as "
        f"fast as real ones: {passed.actions:,} actions, {passed.events:,} events."
    )
    for answer, count in sorted(lived.answers.items()):
        print(f"  {count:>8,} pages of release and rung {answer}")
    print(f"  {lived.coming:.1%} of the users still come.")
    until = command.format_time(lived.until_s)
    following = command.shell_line(
        "pipeline.retrain", logs=_LOGS.value, serving_root="SERVING_ROOT", until=until
    )
    print(f"Next: {following}")


def _write_world() -> None:
    """Writes the logs of a world of watches alone."""
    changes = _SETTINGS.given()
    start_s = changes.pop("start_s", site_config.DEFAULT_START_S)
    unknown = sorted(set(changes) - _OF_WORLDS)
    if unknown or _ORACLE.value:
        names = ", ".join(f"--{name}" for name in unknown or ["oracle_watches"])
        raise command.InputError(
            f"--preset={_PRESET.value} takes {', '.join(f'--{n}' for n in sorted(_OF_WORLDS))}, "
            f"got {names}. What the oracle would have ranked is always written."
        )
    if min(changes.get(name, 1) for name in _OF_WORLDS - {"seed"}) < 1:
        raise command.InputError("--users and --days must be 1 or more.")
    world = worlds.world(_PRESET.value, **changes)
    started = time.monotonic()
    rows = happenings.write_logs(world, start_s, _LOGS.value, overwrite=_OVERWRITE.value)
    print(f"Wrote {_LOGS.value} in {time.monotonic() - started:.1f} s:")
    for table, number in sorted(rows.items()):
        print(f"  {table:<12} {number:>12,} rows")
    print(f"  {'truth':<12} what an oracle would have ranked, see pipeline/worlds/happenings.py")
    following = command.shell_line(
        "pipeline.retrain", logs=_LOGS.value, serving_root="SERVING_ROOT"
    )
    print(f"Next: {following}")


def _config() -> site_config.SiteConfig:
    given = _SETTINGS.given()
    preset = site_config.PRESETS[_PRESET.value]
    grown = {}
    if "videos" in given and "channels" not in given:
        topics = given.get("topics", preset.topics)
        grown["channels"] = site_config.channels_for(preset, given["videos"], topics)
    config = _SETTINGS.changed(preset, **grown)
    if config.end_s > time.time():
        raise command.InputError(
            f"the logs would last until {command.format_time(config.end_s)}, after the clock, and "
            "events in the future are rejected later. Give an earlier --start or fewer --days."
        )
    return config


if __name__ == "__main__":
    command.run(main)
