r"""The paper's figures and tables again, with intervals: candidate generation and ranking.

    python -m models.reproduce --output=reproduction                    # on a simulated site
    python -m models.reproduce --output=reproduction --logs=logs        # on your logs
    python -m models.reproduce --output=reproduction --mode=short       # a check, in minutes
    python -m models.reproduce --output=reproduction --parts=worlds     # hard worlds, in an hour
    python -m models.reproduce --output=reproduction --parts=sequence   # beside SASRec and HSTU
    python -m models.reproduce --output=reproduction --parts=content    # vectors of new videos

Writes OUTPUT/experiments/<name>.json as each experiment ends, then results.json and report.html.
The same command again goes on where it was stopped.
"""

import dataclasses
import json
import pathlib
import platform
from collections.abc import Mapping, Sequence

from absl import flags, logging

from features import command, config_flags, files, reports
from models.paper import experiments
from models.paper.experiments import Make, Setting

_CANDIDATE, _RANKING, _SEQUENCE, _WORLDS, _CONTENT = _PARTS = (
    *("candidate", "ranking"),
    *("sequence", "worlds", "content"),
)
# Sites to simulate where no logs are given; the full one gives enough watches for depth to matter.
SITES: Mapping[str, Sequence[str]] = {
    experiments.SHORT: ("--preset=tiny", "--seed=1"),
    experiments.FULL: ("--preset=small", "--users=3000", "--videos=3000", "--days=21", "--seed=1"),
}
# Of many small channels: metadata say little of a video, and vectors what it is like.
CONTENT_SITES: Mapping[str, Sequence[str]] = {
    experiments.SHORT: ("--preset=tiny", "--seed=1", "--content_width=8"),
    experiments.FULL: (
        *("--preset=small", "--users=2500", "--videos=20000", "--channels=8000", "--topics=8"),
        *("--niches=20", "--events_per_user_day=20", "--content_width=64", "--seed=1"),
    ),
}
_OUTPUT = config_flags.path(
    "output", "updates", "Directory to write or to go on with.", required=True
)
_LOGS = config_flags.path("logs", "reads", "Raw logs; without them a site is simulated.")
_MODE = flags.DEFINE_enum(
    "mode", experiments.FULL, experiments.MODES, "short: a check on little data, in minutes."
)
_ONLY_PARTS = flags.DEFINE_list(
    "parts",
    [_CANDIDATE, _RANKING],
    f"Out of {', '.join(_PARTS)}; sequence installs RecTools and PyTorch, some 5 GB; worlds are "
    "logs of watches alone, with every default.",
)
_ONLY = flags.DEFINE_list(
    "experiments", [], "Only these; a name that there is not is answered with all that there are."
)
_SEEDS = flags.DEFINE_list("seeds", ["1"], "Of trainings.")
_PREPROCESS_FLAGS = flags.DEFINE_list(
    "preprocess_flags", [], "Further flags of pipeline.preprocess, such as --holdout_days=2."
)
_RECTOOLS_PYTHON = flags.DEFINE_string(
    "rectools_python",
    "",
    "Python with RecTools and PyTorch, for sequence models; empty: an environment in --output.",
)

_EPOCHS = flags.DEFINE_integer(
    "epochs",
    0,
    "Passes of models that are trained as they are shipped, and of RecTools'; 0: by the number of "
    "examples.",
    lower_bound=0,
)


def main() -> None:
    """Prepares logs and examples, runs the experiments and writes the report."""
    _refuse_unknown_parts()
    from models.paper import report

    chosen = _chosen()
    seeds = _seeds()
    output = pathlib.Path(_OUTPUT.value)
    setting = _prepare(output, seeds, chosen)
    outcomes, left_out = experiments.run(chosen, setting, output / "experiments")
    facts = {
        **setting.identity(),
        "simulated_with": None if _LOGS.value else " ".join(_site(chosen)),
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "seconds": round(sum(one.seconds for one in outcomes), 1),
        "left_out": left_out,
    }
    results = {
        "format": experiments.FORMAT,
        "measured": reports.stamp(),
        "settings": facts,
        "experiments": [json.loads(one.to_json()) for one in outcomes],
    }
    files.atomic_write(output / "results.json", json.dumps(results, indent=1) + "\n")
    files.atomic_write(output / "report.html", report.html_page(outcomes, facts))
    logging.flush()
    print(f"\n{report.text(outcomes)}\n")
    print(f"Wrote {output}: results.json, report.html")
    print(f"Next: open {output / 'report.html'}")


def _refuse_unknown_parts() -> None:
    unknown = [name for name in _ONLY_PARTS.value if name not in _PARTS]
    if unknown:
        raise command.InputError(f"--parts must be out of {list(_PARTS)}, got {unknown}.")


def _offered() -> Mapping[str, Mapping[str, Make]]:
    """Returns the experiments of each part by name."""
    from models.paper import candidate, content, followed, ranking, sequence, worlds

    return {
        _CANDIDATE: candidate.EXPERIMENTS,
        _RANKING: ranking.EXPERIMENTS,
        _SEQUENCE: sequence.EXPERIMENTS,
        _WORLDS: {**worlds.EXPERIMENTS, **followed.EXPERIMENTS},
        _CONTENT: content.EXPERIMENTS,
    }


def _chosen() -> dict[str, Make]:
    parts = _offered()
    offered = {n: m for part in _ONLY_PARTS.value for n, m in parts[part].items()}
    unknown = [name for name in _ONLY.value if name not in offered]
    if unknown:
        raise command.InputError(f"--experiments must be out of {list(offered)}, got {unknown}.")
    return {name: offered[name] for name in _ONLY.value or offered}


def _seeds() -> tuple[int, ...]:
    try:
        seeds = tuple(int(seed) for seed in _SEEDS.value)
    except ValueError:
        raise command.InputError(f"--seeds must be whole numbers, got {_SEEDS.value}.") from None
    if not seeds or min(seeds) < 0:
        raise command.InputError(f"--seeds must be one or more numbers, 0 or above, got {seeds}.")
    return seeds


def _site(chosen: Mapping[str, Make]) -> Sequence[str]:
    """Returns the flags of the site that is simulated where no logs are given."""
    is_content = set(chosen) <= set(_offered()[_CONTENT])
    return (CONTENT_SITES if is_content else SITES)[_MODE.value]


def _prepare(output: pathlib.Path, seeds: tuple[int, ...], chosen: Mapping[str, Make]) -> Setting:
    """Makes what is missing of logs and examples."""
    work = output / "work"
    work.mkdir(parents=True, exist_ok=True)
    site = _site(chosen)
    of_content = "-content" if site is CONTENT_SITES[_MODE.value] else ""
    logs = work / f"logs{of_content}-{_MODE.value}"
    if _LOGS.value:
        logs = pathlib.Path(_LOGS.value).resolve()
    if set(chosen) <= set(_offered()[_WORLDS]):
        logs = work  # Each world has logs of its own.
    # The truth is what a simulation writes last.
    elif not _LOGS.value and not (logs / "truth").is_dir():
        experiments.run_command("pipeline.simulate", f"--logs={logs}", "--overwrite", *site)
    setting = Setting(
        logs=logs,
        examples=work,
        work=work,
        mode=_MODE.value,
        seeds=seeds,
        preprocess_flags=tuple(_PREPROCESS_FLAGS.value),
        rectools_python=_RECTOOLS_PYTHON.value,
        epochs=_EPOCHS.value,
    )
    if not set(chosen) & set(_offered()[_RANKING]):
        return setting  # Candidate experiments make their own examples, without impressions.
    return dataclasses.replace(setting, examples=setting.variant("plain"))


if __name__ == "__main__":
    command.run(main)
