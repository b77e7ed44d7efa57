import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from features import command, spec
from features.catalogue import Catalogue
from features.spec import Feature, Kind, Side
from serving.funnel import loaded_release
from serving.funnel.candidates import Candidates
from serving.history.user_history import unknown_user
from serving.release import manifest as release
from serving.servables import (
    prepared_videos,
    signatures,
    warmup,
)
from serving.servables.embedded import EmbeddedBackend, EmbeddedModel
from serving.servables.prepared_videos import PreparedVideos


@pytest.fixture(scope="module")
def found(small_release):
    return release.load(small_release)


@pytest.fixture(scope="module")
def loaded(small_release):
    return loaded_release.load(
        small_release, release.current(small_release), backend=EmbeddedBackend()
    )


def test_parts_are_what_the_released_model_makes_of_the_catalogue(found, loaded):
    rows = np.array([7, 0, 31])
    prepare = EmbeddedModel(found.ranker, signatures.PREPARE_VIDEOS)
    raw = {
        "video_id": np.array(loaded.catalogue.video_ids.to_pylist(), object)[rows],
        "video_language": np.array(loaded.catalogue.table["language"].to_pylist(), object)[rows],
    }
    resolved = loaded.resolved
    names = resolved.vector_names(spec.RANKER, Side.CANDIDATE, Kind.CONTINUOUS)
    numbers = np.full((3, len(names)), np.nan, np.float32)
    durations = loaded.catalogue.table["duration_s"].to_numpy()
    numbers[:, names.index("duration_s")] = durations[rows]
    content = np.array(loaded.catalogue.table["content"].to_pylist(), np.float32)[rows]
    raw |= {"candidate_continuous": numbers, "candidate_vector": content}
    parts = prepare.predict(raw)["video_parts"]
    assert parts.dtype == loaded.prepared.parts.dtype == np.float16
    np.testing.assert_allclose(loaded.prepared.static_inputs(rows)["video_parts"], parts, rtol=1e-3)
    assert len(np.unique(parts, axis=0)) == 3


def some_candidates():
    rows = np.arange(40, dtype=np.int32)[::-1].copy()
    return Candidates(
        rows=rows,
        source_names=("retrieval", "popular"),
        source_bits=rows.astype(np.int64) % 3 + 1,
        source_scores=np.zeros((2, 40), np.float32),
        retrieval_scores=np.linspace(-1, 1, 40, dtype=np.float32),
    )


def somebody(loaded):
    return loaded.viewer(
        unknown_user("u1"), now=1_700_300_000, context={"region": "DE", "age": 30.0}
    )


def test_candidates_score_the_same_raw_and_prepared(found, loaded):
    viewer, candidates = somebody(loaded), some_candidates()
    prepared = loaded.expected_watch_times(viewer, candidates)
    raw = dataclasses.replace(loaded, prepared=None, ranker=EmbeddedModel(found.ranker))
    np.testing.assert_allclose(prepared, raw.expected_watch_times(viewer, candidates), rtol=5e-3)
    assert len(set(prepared.tolist())) > 20


def test_warm_up_has_the_prepared_requests_too(found):
    names = [name for name, _ in warmup.read(found.ranker)]
    assert names == [signatures.DEFAULT] * 3 + [signatures.SCORE_PREPARED] * 3


# ---- by hand -------------------------------------------------------------------------------------


def feature(name, kind, source, **more):
    return Feature(
        name=name, kind=kind, side=Side.CANDIDATE, models=(spec.RANKER,), source=source, **more
    )


RESOLVED = spec.ResolvedSpec(
    features=(
        feature("video_id", Kind.UNIVALENT, "videos.video_id", space="video"),
        feature("topics", Kind.MULTIVALENT, "videos.topics", space="topic", max_length=2),
        feature("candidate_sources", Kind.MULTIVALENT, "nomination.candidate_sources"),
        feature("video_age_s", Kind.CONTINUOUS, "videos.age_s"),
        feature("duration_s", Kind.CONTINUOUS, "videos.duration_s"),
        feature("kids", Kind.BINARY, "videos.kids"),
    )
)


@pytest.fixture
def by_hand(tmp_path):
    catalogue = Catalogue(
        pa.table(
            {
                "video_id": ["a", "b", "c"],
                "upload_time": pa.array([1, 2, 3], pa.int64()),
                "topics": [["x", "y"], [], ["z"]],
                "duration_s": [10.0, 20.0, 30.0],
                "kids": [True, False, None],
            }
        )
    )

    def prepare(raw):
        # Of the catalogue alone: what depends on the moment is not known here.
        assert np.isnan(raw["candidate_continuous"][:, 0]).all()
        letters = [sum(ord(letter) for letter in row) for row in raw["topics"].sum(axis=1)]
        columns = [raw["candidate_continuous"][:, 1], letters, raw["candidate_binary"][:, 0]]
        return {"video_parts": np.nan_to_num(np.stack(columns, axis=1).astype(np.float32))}

    def write(name="videos", prepare=prepare):
        prepared_videos.write(
            tmp_path / name,
            resolved=RESOLVED,
            catalogue=catalogue,
            prepare=prepare,
            vocabularies={
                "category": ["device=phone", "candidate_sources=fresh", "candidate_sources=popular"]
            },
        )
        return PreparedVideos.load(tmp_path / name, RESOLVED)

    return write


def test_rows_of_the_catalogue_are_prepared_and_gathered(by_hand):
    (inputs,) = by_hand().static_inputs(np.array([2, 0])).items()
    assert inputs[0] == "video_parts"
    assert inputs[1].tolist() == [[30, ord("z"), 0], [10, ord("x") + ord("y"), 1]]


@pytest.mark.parametrize("bad", [np.nan, np.inf, 70_000])
def test_numbers_that_half_precision_cannot_hold_are_refused(by_hand, bad):
    def prepare(raw):
        del raw
        return {"video_parts": np.array([[1.0], [bad], [2.0]], np.float32)}

    with pytest.raises(command.InputError, match=r"1 videos \(first: \['b'\]\).*above 65504"):
        by_hand("bad", prepare)


def test_sources_have_the_ids_of_their_tokens(by_hand):
    lists = [("popular",), ("fresh", "popular"), ("unheard of",)]
    inputs = by_hand().nominated_inputs((lists, np.array([1, 1, 2, 0])))
    assert inputs["candidate_sources"][:, :3].tolist() == [[2, 3, 0], [2, 3, 0], [0] * 3, [3, 0, 0]]


def test_inputs_are_the_parts_and_what_depends_on_the_moment():
    assert prepared_videos.signature_inputs(RESOLVED, 66) == {
        "video_parts": ("float16", [None, 66]),
        "candidate_sources": ("int32", [None, spec.TOPICS]),
        "candidate_continuous": ("float32", [None, 1]),
    }


def test_history_categorical_of_a_video_is_not_prepared():
    odd = feature("last_device", Kind.UNIVALENT, "history.last_device")
    assert prepared_videos.is_supported(RESOLVED)
    assert not prepared_videos.is_supported(spec.ResolvedSpec(features=(odd,)))
