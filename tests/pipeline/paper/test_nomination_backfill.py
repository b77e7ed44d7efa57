"""Nominations for logs of another recommender, by models that have not seen what they score."""

import json

import numpy as np
import pyarrow as pa
import pytest

from features import command, files
from features.catalogue import Catalogue
from features.durations import DAY_S
from features.spec import ResolvedSpec
from features.tables import logs
from pipeline.paper import nomination_backfill
from serving.batch import bucketed_log, past_nominations

DAY0 = 19_000 * DAY_S
_SITE = ("--preset=tiny", "--users=60", "--videos=120", "--days=5", "--topics=4")
KEPT = ["user_id", "video_id", "time", "page_id", "clicked", "watch_time_s", "position"]


def events(directory, watched, shown):
    """Writes logs with watches and impressions at these times."""
    ids = {"user_id": "u", "video_id": "a"}
    with logs.LogWriter(directory) as writer:
        writer.write("videos", pa.table({"video_id": ["a"], "upload_time": [0]}))
        for name, times, more in (
            ("watches", watched, {}),
            ("impressions", shown, {"clicked": False}),
        ):
            if times:
                rows = {key: [value] * len(times) for key, value in (ids | more).items()}
                writer.write(
                    name, pa.table({**rows, "time": times, "watch_time_s": [0.0] * len(times)})
                )
    return directory


def compact(time_s):
    return command.format_time(time_s).replace("-", "").replace(":", "")


def starts(directory, **settings):
    found = nomination_backfill.block_starts(directory, **settings)
    return [(start - DAY0) / DAY_S for start in found]


def test_blocks_cut_what_comes_after_the_first_share_of_the_watches(tmp_path):
    # One watch each half day of ten days: a fifth of them end in day 2, so blocks begin with day 2
    # or, where that watch is not before its midnight, day 3; eight days in two blocks.
    times = [DAY0 + 100 + half * DAY_S // 2 for half in range(20)]
    directory = events(tmp_path / "logs", times, times)
    assert starts(directory, blocks=2, first_share=0.2) == [3, 6]
    assert starts(directory, blocks=1, first_share=0.2) == [3]
    assert starts(directory, blocks=100, first_share=0.2) == [3, 4, 5, 6, 7, 8, 9]


def test_blocks_begin_with_the_impressions_where_watches_are_older(tmp_path):
    watched = [DAY0 - DAY_S * day for day in range(30)]
    directory = events(tmp_path / "logs", watched, [DAY0 + 5, DAY0 + DAY_S + 5])
    assert starts(directory, blocks=2, first_share=0.2) == [0, 1]
    assert starts(directory, blocks=2, first_share=0.2, until_s=DAY0 + DAY_S) == [0]


def test_logs_without_impressions_are_refused(tmp_path):
    directory = events(tmp_path / "logs", [DAY0], [])
    with pytest.raises(command.InputError, match="no impressions"):
        starts(directory, blocks=1, first_share=0.5)


def test_logs_of_one_day_are_refused_with_a_remedy(tmp_path):
    directory = events(tmp_path / "logs", [DAY0 + 5, DAY0 + 6], [DAY0 + 7])
    with pytest.raises(command.InputError, match="smaller --first_share, or longer logs"):
        starts(directory, blocks=1, first_share=0.5)


class Named:
    """Nominations that say who made them."""

    resolved = ResolvedSpec(features=())

    def __init__(self, name):
        self.name = name

    def filled(self, impressions, codes, history):
        names = pa.array([f"backfill-{self.name}"] * impressions.num_rows, pa.string())
        columns = past_nominations.with_columns(impressions)
        return columns.set_column(columns.column_names.index("release_id"), "release_id", names)


def test_each_page_is_scored_whole_by_the_model_of_its_block(tmp_path):
    # A page that begins 10 s before the second block and ends in it.
    second = DAY0 + DAY_S
    times = [DAY0 - 7200, DAY0 + 5, second - 10, second + 10, second + 7200]
    directory = events(tmp_path / "logs", times, times)
    job = nomination_backfill.Backfill(
        logs=directory, output=tmp_path / "filled", work=tmp_path / "work"
    )
    log = bucketed_log.BucketedLog.open(directory)
    with logs.LogWriter(job.output) as writer:
        counts = job._fill(
            writer, log, Catalogue(log.videos), [(DAY0, Named("1")), (second, Named("2"))]
        )
    found = logs.read_table(job.output, "impressions").sort_by("time")
    assert found["release_id"].to_pylist() == [None, *["backfill-1"] * 3, "backfill-2"]
    assert (counts.impressions, counts.filled, counts.logged) == (5, 4, 0)
    assert "page_id" not in found.column_names


@pytest.mark.parametrize(("flag", "value"), [("blocks", 0), ("first_share", 1.0)])
def test_settings_that_make_no_sense_are_refused(flag, value, tmp_path):
    with pytest.raises(command.InputError, match=f"--{flag} must be"):
        nomination_backfill.Backfill(
            logs=tmp_path, output=tmp_path / "o", work=tmp_path / "w", **{flag: value}
        )


@pytest.fixture(scope="module")
def site(tmp_path_factory, run_command):
    """A simulated site, what was filled in, and what the command said."""
    root = tmp_path_factory.mktemp("backfill")
    made = run_command("pipeline.simulate", f"--logs={root / 'logs'}", *_SITE)
    assert made.returncode == 0, made.stderr
    # Rows that nothing can be said of must come through all the same.
    first = logs.read_table(root / "logs", "impressions").slice(0, 1)
    nobody = first.set_column(
        first.column_names.index("user_id"), "user_id", pa.array([None], pa.string())
    )
    logs.append(root / "logs", "impressions", nobody)
    return root, _filled(run_command, root, "filled")


def _filled(run_command, root, name):
    return run_command(
        "pipeline.backfill_nominations",
        f"--logs={root / 'logs'}",
        f"--output={root / name}",
        f"--work={root / 'work'}",
        "--blocks=1",
        "--candidate_flags=--epochs=1",
    )


def _sorted(table):
    rows = table.select(KEPT).to_pylist()
    return sorted(rows, key=lambda row: json.dumps(row, default=str))


def test_every_impression_is_there_and_those_of_the_block_are_filled_in(site):
    root, done = site
    assert done.returncode == 0, done.stderr
    before, after = (logs.read_table(root / name, "impressions") for name in ("logs", "filled"))
    assert _sorted(before) == _sorted(after)
    (first,) = nomination_backfill.block_starts(root / "logs", blocks=1, first_share=0.2)
    # A page of the simulated site is of one second.
    in_block = (after["time"].to_numpy() >= first) & np.array(after["user_id"].is_valid())
    names = np.array([name or "" for name in after["release_id"].to_pylist()])
    assert 0 < in_block.sum() < len(names) - 1
    np.testing.assert_array_equal(names != "", in_block)
    assert set(names[in_block]) == {f"backfill-{compact(first)}"}
    scores = np.array(after["retrieval_score"].to_pylist(), float)
    assert np.isfinite(scores[in_block]).all()
    assert f"nominations made for {in_block.sum():,} " in done.stdout


def test_no_model_has_seen_its_block(site):
    root, _ = site
    (start,) = nomination_backfill.block_starts(root / "logs", blocks=1, first_share=0.2)
    info = files.read_complete(root / "work" / f"until-{compact(start)}" / "examples")
    assert info["until_s"] == start


def test_other_tables_are_taken_over_without_a_copy(site):
    root, _ = site
    for path in (root / "logs" / "watches").rglob("*.parquet"):
        twin = root / "filled" / path.relative_to(root / "logs")
        assert twin.stat().st_ino == path.stat().st_ino
    assert (root / "filled" / "truth" / "site.json").is_file()


def test_the_same_line_again_trains_nothing_anew_and_replaces_nothing(site, run_command):
    root, _ = site
    again = _filled(run_command, root, "again")
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("up to date; not run again") == 4
    first, second = (logs.read_table(root / name, "impressions") for name in ("filled", "again"))
    assert first["retrieval_score"].to_pylist() == second["retrieval_score"].to_pylist()
    refused = _filled(run_command, root, "filled")
    assert refused.returncode == 2
    assert "is not empty" in refused.stderr
