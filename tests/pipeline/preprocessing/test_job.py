"""Bad input to the preprocessing job: one clear message each, and nothing left behind.

What the job writes from good input is tested on the shared world, in test_preprocess.py.
"""

import json
import re
import time

import pyarrow as pa
import pytest

from features import command, dataset, spec
from features.id_spaces import VocabularyConfig
from features.spec import ResolvedSpec
from features.tables import logs
from pipeline.preprocessing import cleaning, raw_examples, table_files
from pipeline.preprocessing import job as preprocessing_job
from pipeline.preprocessing.job import PreprocessConfig

T0 = 1_700_000_000


def good_tables():
    videos = pa.table({"video_id": ["a", "b"], "upload_time": [T0, T0]})
    users = pa.table({"user_id": ["u", "v"]})
    watches = pa.table(
        {
            "user_id": ["u", "v"] * 5,
            "video_id": ["a", "b"] * 5,
            "time": [T0 + 40_000 * i for i in range(10)],
            "watch_time_s": [1.0] * 10,
        }
    )
    return {"videos": videos, "users": users, "watches": watches}


def write(directory, tables):
    with logs.LogWriter(directory) as writer:
        for name, table in tables.items():
            writer.write(name, table)
    return directory


def refuse(logs_dir, output, match, **settings):
    with pytest.raises(command.InputError, match=match):
        preprocessing_job.run(str(logs_dir), str(output), PreprocessConfig(**settings), [])
    assert not output.exists()
    assert not [p for p in output.parent.iterdir() if output.name in p.name]


def test_missing_table_is_named(tmp_path):
    tables = good_tables()
    del tables["watches"]
    refuse(write(tmp_path / "logs", tables), tmp_path / "examples", "no table 'watches'")


def test_without_a_videos_table_videos_exist_from_their_first_watch(tmp_path):
    tables = good_tables()
    del tables["videos"]
    output = tmp_path / "examples"
    logs_dir = write(tmp_path / "logs", tables)
    preprocessing_job.run(str(logs_dir), str(output), PreprocessConfig(), [])
    videos = pa.parquet.read_table(output / "videos").sort_by("video_id").to_pylist()
    assert videos == [
        {"video_id": "a", "upload_time": T0},
        {"video_id": "b", "upload_time": T0 + 40_000},
    ]


def test_missing_column_names_table_and_column(tmp_path):
    logs_dir = write(tmp_path / "logs", good_tables())
    path = next((logs_dir / "watches").rglob("*.parquet"))
    pa.parquet.write_table(pa.parquet.read_table(path).drop_columns(["watch_time_s"]), path)
    refuse(logs_dir, tmp_path / "examples", "watches.*watch_time_s")


def test_truncated_file_is_named(tmp_path):
    logs_dir = write(tmp_path / "logs", good_tables())
    path = next((logs_dir / "watches").rglob("*.parquet"))
    path.write_bytes(path.read_bytes()[:-20])
    refuse(logs_dir, tmp_path / "examples", path.name)


def test_a_name_that_beam_would_take_for_a_pattern_is_refused(tmp_path):
    logs_dir = write(tmp_path / "logs", good_tables())
    refuse(logs_dir, tmp_path / "examples[ms]", "takes for a pattern")


def test_no_logs_at_all(tmp_path):
    refuse(tmp_path / "nothing", tmp_path / "examples", "does not exist")


def test_window_without_watches_names_the_window(tmp_path):
    logs_dir = write(tmp_path / "logs", good_tables())
    refuse(logs_dir, tmp_path / "examples", "no watches.*2030", from_s=1_900_000_000)


def test_bad_extra_feature_is_named(tmp_path):
    logs_dir = write(tmp_path / "logs", good_tables())
    entry = {"name": "x", "kind": "univalent", "side": "query", "models": ["ranker"]}
    (logs_dir / logs.FEATURES_FILE).write_text(json.dumps([{**entry, "source": "users.x"}]))
    refuse(logs_dir, tmp_path / "examples", r"features\.json.*\n.*users\.x")


def test_too_many_rejected_rows_fail_with_table_reason_and_examples(tmp_path):
    tables = good_tables()
    watches = tables["watches"]
    tables["watches"] = watches.set_column(3, "watch_time_s", pa.array([-1.0] * 5 + [1.0] * 5))
    logs_dir, examples = write(tmp_path / "logs", tables), tmp_path / "examples"
    with pytest.raises(command.InputError, match="'watches' lost 5 of 10.*negative_w.*video_id"):
        preprocessing_job.run(str(logs_dir), str(examples), PreprocessConfig(), [])
    assert not examples.exists()
    # What is to blame can be looked at; a run that succeeds takes it away.
    kept = pa.parquet.read_table(tmp_path / "examples.rejected" / "watches")
    assert kept["reason"].to_pylist() == ["negative_watch_time"] * 5
    settings = PreprocessConfig(max_rejected_fraction=0.9)
    preprocessing_job.run(str(logs_dir), str(examples), settings, [])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["examples", "logs"]
    assert pa.parquet.read_table(examples / "rejected" / "watches").num_rows == 5


def test_everything_in_the_holdout_is_refused(tmp_path):
    logs_dir = write(tmp_path / "logs", good_tables())
    refuse(logs_dir, tmp_path / "examples", "no watch before", holdout_days=100)


@pytest.mark.parametrize("last", [False, True])
def test_watches_of_which_none_is_completed_name_the_column_and_the_flag(tmp_path, last):
    """The newest watch lies in the holdout: were it completed, training would still have none."""
    tables = good_tables()
    column = pa.array([False] * 9 + [last])
    tables["watches"] = tables["watches"].append_column("completed", column)
    refuse(
        write(tmp_path / "logs", tables),
        tmp_path / "examples",
        "none of the 7 watches before .* has `completed` true.*--nocompleted_only",
    )


def impressions(clicked, seconds):
    return pa.table(
        {
            "user_id": ["u", "v"] * 5,
            "video_id": ["a", "b"] * 5,
            "time": [T0 + 40_000 * i - 5 for i in range(10)],
            "clicked": [clicked] * 10,
            "watch_time_s": [seconds] * 10,
        }
    )


@pytest.mark.parametrize(
    ("clicked", "seconds", "cause"),
    [
        (False, 0.0, "none of the 7 impressions before .* was clicked and watched"),
        (True, 0.0, "none of the 7 impressions before .* was clicked and watched"),
        (True, 9.0, ""),
    ],
)
def test_impressions_that_teach_no_ranker_are_said_so_and_the_rest_goes_on(
    tmp_path, caplog, clicked, seconds, cause
):
    logs_dir = write(
        tmp_path / "logs", good_tables() | {"impressions": impressions(clicked, seconds)}
    )
    output = tmp_path / "examples"
    info = preprocessing_job.run(str(logs_dir), str(output), PreprocessConfig(), [])
    assert info["has_ranking"] == (not cause)
    assert re.search(cause, info["no_ranking"])
    assert ("THERE WILL BE NO RANKER" in caplog.text) == bool(cause)
    assert dataset.info(output)["counts"]["candidate_train"] == 7
    assert (output / "transform_fn" / "ranker").is_dir() == (not cause)


@pytest.mark.parametrize(
    "settings",
    [
        {"holdout_days": -1},
        {"holdout_days": float("nan")},
        {"examples_per_user": -1},
        {"max_rejected_fraction": 2},
    ],
)
def test_bad_settings_are_refused(settings):
    with pytest.raises(command.InputError, match=next(iter(settings))):
        PreprocessConfig(**settings)


def test_a_bucket_depends_on_the_user_alone():
    # zlib.crc32, not hash(): another process must find the same bucket.
    ids = pa.chunked_array([["u", "v", "u"], ["w"]])
    again = pa.chunked_array([["w", "u"]])
    first = cleaning.buckets_of(ids, 7)
    assert first[0] == first[2]
    assert cleaning.buckets_of(again, 7).tolist() == [first[3], first[0]]


def test_exact_copies_are_found_across_pieces_and_other_columns_count(tmp_path):
    rows = good_tables()["watches"].append_column("extra", pa.array(list(range(10))))
    changed = rows.slice(0, 1).set_column(4, "extra", pa.array([99]))
    parts = [cleaning.narrowed(part, "watches") for part in (rows, rows.slice(0, 3), changed)]
    stored = table_files.store(parts, tmp_path / "pieces.arrow")
    pieces = [("watches", piece) for piece in stored]
    outputs = list(cleaning.CleanBuckets(tmp_path).process((0, pieces)))
    assert cleaning.tables_of(outputs[-1])["watches"].num_rows == 11
    counts = next(o.value for o in outputs if getattr(o, "tag", "") == cleaning.COUNTS)
    assert counts["watches", "exact_duplicate"] == 3


def test_the_order_of_rows_does_not_follow_from_names_of_pages_and_releases(tmp_path):
    def cleaned(page, release):
        rows = {"video_id": list("abcdefgh"), "clicked": [False] * 8}
        table = pa.table({"user_id": ["u"] * 8, "time": [7] * 8, **rows})
        for name, given in (("page_id", page), ("release_id", release)):
            table = table.append_column(name, pa.array([given] * 8))
        other = table.slice(0, 1).set_column(4, "page_id", pa.array([page + "2"]))
        parts = [cleaning.narrowed(part, "impressions") for part in (table, other, table)]
        stored = table_files.store(parts, tmp_path / f"{page}.arrow")
        pieces = [("impressions", piece) for piece in stored]
        *_, last = cleaning.CleanBuckets(tmp_path).process((0, pieces))
        return cleaning.tables_of(last)["impressions"]["video_id"].to_pylist()

    orders = {tuple(cleaned(f"page{n}", f"release{n}")) for n in range(5)}
    assert len(orders) == 1
    assert sorted(*orders) == list("aabcdefgh")  # On another page it is no copy.


def test_future_events_are_set_aside_and_do_not_move_the_holdout(tmp_path):
    tables = good_tables()
    future = (
        tables["watches"].slice(0, 1).set_column(2, "time", pa.array([int(time.time()) + 10**6]))
    )
    tables["watches"] = pa.concat_tables([tables["watches"], future])
    logs_dir = write(tmp_path / "logs", tables)
    pieces = logs.fragments(logs_dir, "watches")
    assert raw_examples.newest_time(pieces, now_s=int(time.time())) == T0 + 360_000


def test_a_space_that_is_not_there_is_refused_by_name(tmp_path):
    logs_dir = write(tmp_path / "logs", good_tables())
    wrong = VocabularyConfig(max_size={"channel": 5})
    refuse(logs_dir, tmp_path / "examples", "'channel', but.*are video,", vocabularies=wrong)


def test_vocabulary_settings_reach_spec_vocabulary_and_marker(tmp_path):
    tables = good_tables()
    tables["watches"] = pa.concat_tables([tables["watches"], tables["watches"].slice(0, 1)])
    logs_dir = write(tmp_path / "logs", tables)
    output = tmp_path / "examples"
    asked = VocabularyConfig(max_size={"video": 1}, approximate=("video",))
    info = preprocessing_job.run(
        str(logs_dir), str(output), PreprocessConfig(vocabularies=asked), []
    )
    video = ResolvedSpec.load(output).space("video")
    assert (video.max_size, video.approximate) == (1, True)
    assert len(dataset.vocabulary(output, spec.CANDIDATE, "video")) == 1
    assert json.loads(json.dumps(info))["config"]["vocabularies"]["max_size"] == {"video": 1}
