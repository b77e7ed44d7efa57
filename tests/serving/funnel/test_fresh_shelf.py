import dataclasses
import time

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given

from features import command
from features.tables import logs
from serving import errors
from serving.events.event import Event, Kind
from serving.funnel import filters, loaded_release
from serving.funnel.fresh_shelf import ShelvedIndex, Shelver, StackedRows
from serving.funnel.nominations import Question
from serving.funnel.page import FunnelConfig, PageRequest
from serving.history.user_history import unknown_user
from serving.live.state import half_lives
from serving.release import manifest as release
from serving.servables.embedded import EmbeddedBackend
from serving.server import live_service
from serving.server.live_service import LiveParts


@pytest.fixture(scope="module")
def backend():
    return EmbeddedBackend()


@pytest.fixture(scope="module")
def built(world, backend):
    version = release.current(world.serving_root)
    return loaded_release.load(world.serving_root, version, backend=backend)


@pytest.fixture
def shelver(built, backend):
    return Shelver.open(built, backend)


@given(st.lists(st.integers(0, 11), max_size=20))
def test_stacked_rows_are_those_of_the_longer_array(rows):
    whole = np.arange(36.0).reshape(12, 3)
    stacked = StackedRows(whole[:7], whole[7:])
    assert stacked.shape == (12, 3)
    np.testing.assert_array_equal(stacked[np.array(rows, np.int64)], whole[rows])


def test_the_shelf_is_searched_with_the_index(tiny):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(50, 8)).astype(np.float32)
    fake = tiny.index(vectors[:40])
    shelved = ShelvedIndex(fake, vectors[40:])
    queries = rng.normal(size=(5, 8)).astype(np.float32)
    rows, scores = shelved.search(queries, 12)
    expected, expected_scores = tiny.index(vectors).search(queries, 12)
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-6)
    assert len(shelved) == 50


def test_new_videos_join_a_release_and_old_rows_stay(built, shelver):
    """A real release: new videos are embedded by its tower like those of the index."""
    # The videos of the release itself under new names must get the very same vectors.
    table = built.catalogue.table
    names = pa.array([f"again {n}" for n in range(20)])
    copies = table.slice(0, 20).set_column(table.column_names.index("video_id"), "video_id", names)
    longer = shelver.with_videos(pa.concat_tables([copies, table]))
    count = len(built.catalogue)
    assert len(longer.catalogue) == len(longer.index) == count + 20
    assert longer.catalogue.table.slice(0, count).equals(table)
    rows = longer.catalogue.rows(names)
    assert rows.tolist() == list(range(count, count + 20))
    if longer.prepared is not None:
        parts = longer.prepared.parts[np.concatenate([rows, [0]])]
        assert parts.shape == (21, built.prepared.parts.shape[1])
        # Rows of the release stay what they were; new ones have numbers of their own.
        np.testing.assert_array_equal(parts[-1], built.prepared.parts[0])
        assert np.isfinite(parts).all() and len(np.unique(parts, axis=0)) > 10
    assert np.isfinite(longer.index.embeddings[rows]).all()
    # Content is the same, and of both it is only the id that the model does not know.
    others = shelver.with_videos(copies.slice(0, 1))
    np.testing.assert_allclose(
        others.index.embeddings[np.array([count])], longer.index.embeddings[rows[:1]], rtol=1e-5
    )


def test_a_ranker_that_gives_no_numbers_fails_as_a_model_does(built, shelver):
    class Broken:
        def predict(self, inputs, *, deadline_s=None):
            rows = len(next(iter(inputs.values())))
            return {"video_parts": np.full((rows, built.prepared.parts.shape[1]), np.nan)}

    table = built.catalogue.table.slice(0, 1)
    names = pa.array(["new"])
    new = table.set_column(table.column_names.index("video_id"), "video_id", names)
    broken = dataclasses.replace(shelver, prepare=Broken())
    with pytest.raises(errors.ModelError, match=r"first: \['new'\]"):
        broken.with_videos(new)


def test_what_is_withdrawn_later_leaves_the_release(built, shelver):
    table = built.catalogue.table
    gone = [row in {3, 5} for row in range(len(table))]
    less = shelver.with_videos(table.append_column("withdrawn", pa.array(gone)))
    assert less.withdrawn.tolist() == less.video_rules.withdrawn.tolist() == [3, 5]
    # And comes back when the table says so.
    back = shelver.with_videos(table.append_column("withdrawn", pa.array([False] * len(table))))
    assert not len(back.withdrawn)


def test_a_release_without_new_videos_stays_as_it_is(built, shelver):
    assert shelver.with_videos(built.catalogue.table) is built


def test_a_later_row_of_a_video_reaches_the_release_that_serves(built, backend, tmp_path, world):
    table = built.catalogue.table
    logs.append(tmp_path, "videos", table)
    parts = LiveParts(world.serving_root, tmp_path, backend)
    before = parts.attach(built)
    assert not len(before.withdrawn)
    ids = table["video_id"].to_pylist()
    later = pa.table(
        {
            "video_id": [ids[3], ids[7]],
            "upload_time": table["upload_time"].to_pylist()[3:8:4],
            "withdrawn": [True, False],
            "regions": [None, ["nowhere"]],
        }
    )
    logs.append(tmp_path, "videos", later)
    after = parts.renewed(before)
    assert after.withdrawn.tolist() == [3]
    rows = np.arange(len(table), dtype=np.int32)
    viewer = after.viewer(unknown_user("u"), now=int(time.time()), context={"region": "de"})
    found = filters.Filters(
        viewer,
        after.catalogue,
        after.video_rules,
        request=PageRequest(user_id="u", k=1),
        settings=FunnelConfig(),
    )
    assert np.flatnonzero(~found.allowed(rows)).tolist() == [7]
    assert found.forbidden.tolist() == [3]


def test_live_counts_follow_the_half_life_of_the_release_that_serves(
    built, backend, tmp_path, world
):
    arm = dataclasses.replace(built, version="20100101000000")
    parts = LiveParts(world.serving_root, tmp_path, backend, kept={arm.version})
    parts.attach(arm)
    assert parts.state.half_lives_s == half_lives(None)
    parts.attach(built)
    assert parts.state.half_lives_s == half_lives(built.site.half_life_s) != half_lives(None)


def test_new_videos_reach_every_release_that_serves(built, backend, tmp_path, world):
    """Arms of an experiment may stay on a release that was published long ago, or on this one."""
    older = [dataclasses.replace(built, version=f"{year}0101000000") for year in range(2010, 2014)]
    parts = LiveParts(world.serving_root, tmp_path, backend, kept={older[0].version})
    serving = {one.version: parts.attach(one) for one in (*older, built)}
    assert all(parts.renewed(one) is None for one in serving.values())

    table = built.catalogue.table
    new = table.slice(0, 1).set_column(
        table.column_names.index("video_id"), "video_id", pa.array(["just uploaded"])
    )
    logs.append(tmp_path, "videos", pa.concat_tables([table, new]))
    moment = 0.0
    parts = LiveParts(
        world.serving_root,
        tmp_path,
        backend,
        kept={older[0].version},
        monotonic=lambda: moment,
    )
    serving = {one.version: parts.attach(one) for one in (*older, built)}
    assert all("just uploaded" in one.catalogue.row_of for one in serving.values())

    newer = new.set_column(table.column_names.index("video_id"), "video_id", pa.array(["newest"]))
    logs.append(tmp_path, "videos", newer)
    moment += 60
    for version in (older[0].version, built.version):
        renewed = parts.renewed(serving[version])
        assert "newest" in renewed.catalogue.row_of
        assert parts.renewed(renewed) is None
        # Whoever else serves the same version gets the same.
        assert parts.renewed(serving[version]) is renewed
    # One that was replaced is let go of.
    assert parts.renewed(serving[older[-1].version]) is None


def renamed(table, *names):
    """Returns the first videos of a table under new names."""
    ids = pa.array(names)
    place = table.column_names.index("video_id")
    return table.slice(0, len(names)).set_column(place, "video_id", ids)


def test_a_file_that_cannot_be_looked_at_keeps_no_release_from_serving(
    built, backend, tmp_path, world
):
    """A mount that went away, a file that is replaced just now."""
    (tmp_path / "videos").mkdir()
    gone = tmp_path / "videos" / "part-0.parquet"
    gone.symlink_to(tmp_path / "nowhere")
    moment = 0.0
    parts = LiveParts(world.serving_root, tmp_path, backend, monotonic=lambda: moment)
    serving = parts.attach(built)
    assert len(serving.catalogue) == len(built.catalogue)
    for _ in range(2):
        moment += 60
        with pytest.raises((OSError, command.InputError), match="part-0"):
            parts.renewed(serving)
    gone.unlink()
    moment += 60
    logs.append(tmp_path, "videos", renamed(built.catalogue.table, "just uploaded"))
    assert "just uploaded" in parts.renewed(serving).catalogue.row_of


def test_videos_that_a_model_could_not_embed_join_when_it_answers_again(
    built, backend, tmp_path, world
):
    """Nothing about the files changes in between."""
    moment = 0.0
    parts = LiveParts(world.serving_root, tmp_path, backend, monotonic=lambda: moment)
    serving = parts.attach(built)
    (shelf,) = parts._shelves.values()
    whole = shelf.shelver

    class Broken:
        def predict(self, inputs, *, deadline_s=None):
            raise errors.ModelUnavailableError("model server: UNAVAILABLE")

    logs.append(tmp_path, "videos", renamed(built.catalogue.table, "just uploaded"))
    shelf.shelver = dataclasses.replace(whole, embed=Broken())
    for _ in range(2):
        moment += 60
        with pytest.raises(errors.ModelUnavailableError):
            parts.renewed(serving)
    shelf.shelver = whole
    moment += 60
    assert "just uploaded" in parts.renewed(serving).catalogue.row_of


def test_a_video_that_nobody_listed_exists_from_its_first_watch(built, backend, tmp_path, world):
    """A watch of an id never seen: on the shelf, shown after that second, counted, listed later."""
    moment, now = 0.0, int(time.time())
    parts = LiveParts(world.serving_root, tmp_path, backend, monotonic=lambda: moment)
    serving = parts.attach(built)
    watched = Event(
        event_id="1", kind=Kind.WATCH, user_id="a", time=now - 50, video_id="unheard of"
    )
    parts.state.apply([watched])
    moment += 60
    serving = parts.renewed(serving)
    row = serving.catalogue.row_of["unheard of"]
    assert row == len(built.catalogue)
    assert serving.catalogue.upload_times[row] == now - 50
    assert np.isfinite(serving.index.embeddings[np.array([row])]).all()
    for source in serving.sources:
        if source.name in {"fresh", "trending"}:
            for moment_s, is_there in ((now - 50, False), (now - 49, True)):
                viewer = serving.viewer(unknown_user("u"), now=moment_s, context={})
                question = Question(viewer, np.zeros(0, np.int32), serving.catalogue.upload_times)
                assert (row in source.nominate(question, 100).rows) == is_there
    moment += 60
    assert parts.renewed(serving) is None
    # The table has it in the end, with all that is known of it.
    logs.append(tmp_path, "videos", renamed(built.catalogue.table, "unheard of"))
    moment += 60
    listed = parts.renewed(serving)
    assert len(listed.catalogue) == len(built.catalogue) + 1
    assert listed.catalogue.upload_times[row] == built.catalogue.upload_times[0]


def test_what_is_watched_is_put_on_the_shelf_within_bounds(
    built, backend, tmp_path, world, monkeypatch
):
    monkeypatch.setattr(live_service, "MAX_UNLISTED", 3)
    now = int(time.time())
    parts = LiveParts(world.serving_root, tmp_path, backend)
    for number in range(8):
        name = f"made up {number}"
        event = Event(event_id=name, kind=Kind.WATCH, user_id="a", time=now + number, video_id=name)
        parts.state.apply([event])
    serving = parts.attach(built)
    assert len(serving.catalogue) == len(built.catalogue) + 3
    assert "made up 7" in serving.catalogue.row_of
    assert "made up 4" not in serving.catalogue.row_of
