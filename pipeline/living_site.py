r"""Days of a site that lives: from an empty system, with a real server and a retraining each night.

    python -m pipeline.living_site --output=build/living --days=5
    python -m pipeline.living_site --output=build/living --preset=tiny --days=3 --seed=7

People of a simulated site with known truth visit ``serving.serve``, which follows a simulated
clock. Day 1 has no release; each night ``pipeline.retrain`` learns from what the server logged, its
gates decide, and the running server takes over. A part of the users gets pages in the order of
popularity all the time. Ends with OUTPUT/report.html and OUTPUT/report.json.

With --experiments, live experiments follow: a release is trained for each of some claims of the
paper from the logs of these days, and one server tries them on users split by hash; see
``pipeline/living/experiments.py``. OUTPUT/experiment.html and OUTPUT/experiment.json tell.

    python -m pipeline.living_site --output=build/living --experiments=clicks,no_age,retrieval

A run that was killed goes on behind the last whole day or night when the same line is given again.
"""

import pathlib
import sys
import time

from absl import flags, logging

from features import command
from pipeline.living import presets

_OUTPUT = flags.DEFINE_string("output", None, "Directory for everything.", required=True)
_DAYS = flags.DEFINE_integer("days", 5, "Days that pass.", 1, 60)
_SEED = flags.DEFINE_integer("seed", 1, "Seed of the site, its people and the split.", 0)
_PRESET = flags.DEFINE_enum(
    "preset",
    "small",
    list(presets.PRESETS),
    "Site, people and flags of the retraining: tiny (tests), small (1,000 people), medium.",
)
_WORKERS = flags.DEFINE_integer(
    "workers", 1, "Requests under way at a time; with 1 a run can be repeated.", 1, 64
)
_SHARE = flags.DEFINE_float(
    "popularity", 0.5, "Part of the users whose pages are in the order of popularity.", 0.05, 0.95
)

_EXPERIMENTS = flags.DEFINE_list(
    "experiments", [], "Claims to try on the users when the days have passed; all for every one."
)
_EXPERIMENT_DAYS = flags.DEFINE_integer("experiment_days", 2, "Days of these experiments.", 1, 3)


def main() -> None:
    """Lets the days pass, and reports."""
    from pipeline.living import days, experiment_report, experiments, report

    claims = experiments.chosen(_EXPERIMENTS.value) if _EXPERIMENTS.value else []
    started = time.monotonic()
    output = pathlib.Path(_OUTPUT.value)
    preset = presets.PRESETS[_PRESET.value].of(
        days=_DAYS.value, seed=_SEED.value, workers=_WORKERS.value
    )
    living = days.LivingSite(output, days.Run(preset=preset, days=_DAYS.value, share=_SHARE.value))
    for _ in living.live():
        pass
    lines = report.write(living)
    written = [report.JSON, report.HTML]
    if claims:
        experiments.run(living, claims, days=_EXPERIMENT_DAYS.value)
        lines += experiment_report.write(living, claims, days=_EXPERIMENT_DAYS.value)
        written += [experiment_report.JSON, experiment_report.HTML]
    logging.info("All of it took %.0f s.", time.monotonic() - started)
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.write(f"Wrote {', '.join(str(output / name) for name in written)}\n")
    served = command.shell_line("serving.serve", serving_root=living.serving_root, logs=living.logs)
    sys.stdout.write(f"Next: {served}\n")


if __name__ == "__main__":
    command.run(main)
