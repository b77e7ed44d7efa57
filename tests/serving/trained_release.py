"""A small site, preprocessed and published once for all tests of a session that ask for it."""

import dataclasses
import pathlib

import numpy as np
import pyarrow as pa
import pytest

from features import dataset, spec, vectors
from features.durations import DAY_S
from features.spec import ResolvedSpec
from features.tables import logs
from models import config
from models.candidate import model as candidate_model
from models.ranking import model as ranker
from models.training import saved
from pipeline.preprocessing import job as preprocessing_job
from serving.building import assembly
from serving.building import config as build_config

FIRST_DAY_S = 1_700_006_400  # 2023-11-15 00:00 UTC
DAYS = 4
NUM_VIDEOS, NUM_USERS = 40, 10


@dataclasses.dataclass(frozen=True)
class SmallSite:
    """Where everything of the small site is.

    Attributes:
        logs: Without searches, channels and topics, so that preprocessing is quick.
        examples: The last day is the holdout.
        candidate_model: Untrained weights; they do as well here.
        ranker_model: Likewise.
    """

    logs: pathlib.Path
    examples: pathlib.Path
    candidate_model: pathlib.Path
    ranker_model: pathlib.Path

    @property
    def inputs(self) -> build_config.Inputs:
        return build_config.Inputs(
            examples=self.examples,
            candidate_model=self.candidate_model,
            ranker_model=self.ranker_model,
        )


@pytest.fixture(scope="session")
def small_site(tmp_path_factory):
    root = tmp_path_factory.mktemp("small_site")
    site = SmallSite(root / "logs", root / "examples", root / "candidate", root / "ranker")
    write_logs(site.logs)
    preprocessing_job.run(
        str(site.logs), str(site.examples), preprocessing_job.PreprocessConfig(), []
    )
    save_models(site)
    return site


@pytest.fixture(scope="session")
def small_release(small_site, tmp_path_factory):
    """A serving root with one release of the small site."""
    root = tmp_path_factory.mktemp("serving_root")
    assembly.publish(small_site.inputs, root, build_config.BuildConfig())
    return root


def write_logs(directory):
    rng = np.random.default_rng(0)
    videos = np.array([f"v{i}" for i in range(NUM_VIDEOS)])
    users = np.array([f"u{i}" for i in range(NUM_USERS)])

    def events(count):
        return {
            "user_id": users[rng.integers(NUM_USERS, size=count)],
            "video_id": videos[rng.integers(NUM_VIDEOS, size=count)],
            "time": np.sort(FIRST_DAY_S + rng.integers(0, DAYS * DAY_S, count)),
        }

    watches = events(400)
    watches |= {"watch_time_s": rng.uniform(1, 600, 400), "completed": rng.random(400) < 0.8}
    impressions = events(500)
    clicked = rng.random(500) < 0.3
    impressions |= {"clicked": clicked, "watch_time_s": clicked * rng.uniform(1, 600, 500)}
    with logs.LogWriter(directory) as writer:
        writer.write(
            "videos",
            pa.table(
                {
                    "video_id": videos,
                    "upload_time": FIRST_DAY_S - rng.integers(0, 30 * DAY_S, NUM_VIDEOS),
                    "language": np.where(np.arange(NUM_VIDEOS) % 2, "en", "de"),
                    "duration_s": rng.uniform(10, 900, NUM_VIDEOS),
                    "content": np.random.default_rng(1).normal(size=(NUM_VIDEOS, 3)).tolist(),
                }
            ),
        )
        writer.write(
            "users",
            pa.table(
                {
                    "user_id": users,
                    "region": np.where(np.arange(NUM_USERS) % 2, "DE", "US"),
                    "age": rng.uniform(15, 70, NUM_USERS),
                }
            ),
        )
        writer.write("watches", pa.table(watches))
        writer.write("impressions", pa.table(impressions))
        writer.write_features(vectors.declarations_of("content", 3))


def save_models(site):
    resolved = ResolvedSpec.load(site.examples)
    candidate_config = config.CandidateConfig(embedding_dim=8, depth=1)
    candidate_model.save(
        candidate_model.CandidateModel(
            resolved, dataset.vocabulary_sizes(site.examples, spec.CANDIDATE), candidate_config
        ),
        site.candidate_model,
        contents=contents(site, spec.CANDIDATE, candidate_config),
    )
    ranker_config = config.RankerConfig(hidden=(16, 8))
    ranker.save(
        ranker.Ranker(
            resolved, dataset.vocabulary_sizes(site.examples, spec.RANKER), ranker_config
        ),
        site.ranker_model,
        contents=contents(site, spec.RANKER, ranker_config),
    )


def contents(site, model, model_config):
    spaces = ResolvedSpec.load(site.examples).spaces_of(model)
    return saved.Contents(
        configs={"model": model_config},
        vocabularies={s.name: dataset.vocabulary(site.examples, model, s.name) for s in spaces},
        lineage={"transform": saved.transform_fingerprint(site.examples, model)},
    )
