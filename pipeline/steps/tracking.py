"""Retrainings as runs of an MLflow tracking server: what they were given, what came out.

A run holds the flags of each step as parameters, figures with their intervals and seconds as
metrics, reports and manifest as artefacts, and how it ended as tags. A published release becomes a
version of the registered model ``watchnext``, with the alias ``serving``. MLflow is optional, and
nothing here is read again: a tracker that cannot be reached costs a warning, never a release.
"""

import dataclasses
import json
import logging as std_logging
import os
import pathlib
import re
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from absl import logging

from features import command, files
from pipeline.steps.report_page import PAGE
from pipeline.steps.retraining import REPORT, Outcome, Retraining, StepResult
from serving.release import manifest as release

EXPERIMENT = MODEL = "watchnext"
ALIAS = "serving"
_MAX_VALUE = 500  # Characters of a parameter; stores refuse more than 6,000, some 500.
_FLAG = re.compile(r"--(\w+)(?:=(.*))?")


@dataclasses.dataclass(frozen=True)
class Tracker:
    """An MLflow tracking server or database.

    Attributes:
        uri: Address, as MLflow takes it: ``http://...``, ``sqlite:///mlflow.db``.
    """

    uri: str

    def require(self) -> None:
        """Raises InputError where runs cannot be recorded: before hours of work, not after."""
        try:
            self._client().search_experiments(max_results=1)
        except ImportError as error:
            raise command.InputError(
                f"--mlflow={self.uri} needs MLflow: pip install '.[mlflow]' in the checkout "
                f"({error})."
            ) from None
        except Exception as error:  # Whatever a store of theirs raises.
            raise command.InputError(
                f"--mlflow={self.uri} cannot be used: {_first_line(error)}"
            ) from None

    def record(self, job: Retraining, steps: Sequence[StepResult]) -> str:
        """Records a retraining that came to its end, well or not.

        Returns:
            Id of the run; "" where the tracker failed, which is logged.
        """
        try:
            return self._recorded(job, steps)
        except Exception as error:  # The release is there already, and worth more than its record.
            logging.warning(
                "MLflow at %s has no record of this run: %s", self.uri, _first_line(error)
            )
            return ""

    def _client(self) -> Any:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # It would call its makers.
        import mlflow  # Optional, and slow to import.

        for name in ("mlflow", "alembic"):
            std_logging.getLogger(name).setLevel(std_logging.WARNING)
        return mlflow.MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    def _recorded(self, job: Retraining, steps: Sequence[StepResult]) -> str:
        client = self._client()
        experiment = client.get_experiment_by_name(EXPERIMENT)
        number = experiment.experiment_id if experiment else client.create_experiment(EXPERIMENT)
        published = _published(job, steps)
        run = client.create_run(
            number, run_name=published.version if published else None, tags=_tags(steps, published)
        ).info
        for name, value in _parameters(steps):
            client.log_param(run.run_id, name, value[:_MAX_VALUE])
        for name, figure in _metrics(job, steps):
            client.log_metric(run.run_id, name, figure)
        for path, folder in _artefacts(job, published):
            if path.exists():
                client.log_artifact(run.run_id, str(path), folder)
        failed = steps[-1].outcome is Outcome.FAILED
        client.set_terminated(run.run_id, "FAILED" if failed else "FINISHED")
        if published:
            self._register(client, run, published)
        return str(run.run_id)

    def _register(self, client: Any, run: Any, published: release.Manifest) -> None:
        if not client.search_registered_models(filter_string=f"name='{MODEL}'"):
            client.create_registered_model(MODEL)
        known = client.search_model_versions(f"name='{MODEL}'")
        same = [one for one in known if one.tags.get("release_id") == published.version]
        version = (
            same[0]
            if same
            else client.create_model_version(
                MODEL,
                source=f"{run.artifact_uri}/release",
                run_id=run.run_id,
                tags={"release_id": published.version},
            )
        )
        client.set_registered_model_alias(MODEL, ALIAS, version.version)


def _published(job: Retraining, steps: Sequence[StepResult]) -> release.Manifest | None:
    if steps[-1].outcome is Outcome.FAILED:
        return None
    return release.load_manifest(job.serving_root)


def _tags(steps: Sequence[StepResult], published: release.Manifest | None) -> dict[str, str]:
    tags = {"outcome": steps[-1].outcome.value}
    if steps[-1].outcome is Outcome.FAILED:
        tags |= {"failed_step": steps[-1].name, "reason": steps[-1].reason}
    if published:
        tags |= {"release_id": published.version, "forced": published.forced}
    return tags


def _parameters(steps: Sequence[StepResult]) -> Iterator[tuple[str, str]]:
    for step in steps:
        for part in shlex.split(step.command):
            match = _FLAG.fullmatch(part)
            if match:
                yield f"{step.name}.{match[1]}", match[2] or "true"


def _metrics(job: Retraining, steps: Sequence[StepResult]) -> Iterator[tuple[str, float]]:
    for step in steps:
        yield f"seconds.{step.name}", step.seconds
        if step.cost.cpu_s:
            yield f"cpu_seconds.{step.name}", step.cost.cpu_s
            yield f"peak_memory_bytes.{step.name}", float(step.cost.peak_memory_bytes)
            yield f"output_bytes.{step.name}", float(step.cost.output_bytes)
    path = job.location("evaluation") / "metrics.json"
    if files.read_complete(path.parent) is not None:
        for name, figure in json.loads(path.read_text())["figures"].items():
            # Of all systems and slices there are hundreds: the models as a whole.
            if name.split(".")[1:3] == ["model", "all"]:
                for bound, suffix in (("value", ""), ("low", ".low"), ("high", ".high")):
                    if figure[bound] is not None:
                        yield f"{name}{suffix}", float(figure[bound])


def _artefacts(
    job: Retraining, published: release.Manifest | None
) -> Iterator[tuple[pathlib.Path, str]]:
    yield job.work / REPORT, "retraining"
    yield job.work / PAGE, "retraining"
    yield job.location("examples") / "statistics.html", "reports"
    yield job.location("evaluation") / "report.html", "reports"
    yield job.location("evaluation") / "metrics.json", "reports"
    if published:
        yield job.serving_root / release.RELEASES / f"{published.version}.json", "release"
        cards = release.component_directory(job.serving_root, "reports", published.version)
        yield from ((cards / name, "release") for name in ("card.json", "card.md"))


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
