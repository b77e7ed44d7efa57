"""Extra features: what cannot be answered is refused by name before anything runs."""

import json

import numpy as np
import pyarrow as pa
import pytest

from features import command, declarations, spec
from features.as_of import examples
from features.as_of.history import History
from features.catalogue import Catalogue
from features.event_columns import Queries
from features.spec import Feature, ResolvedSpec

STRINGS = pa.list_(pa.string())
TYPES = {
    "videos": {
        "video_id": pa.string(),
        "upload_time": pa.int64(),
        "quality": pa.float64(),
        "topics": STRINGS,
        "labels": STRINGS,
        "made": pa.timestamp("us"),
        "nested": pa.list_(STRINGS),
        "nothing": pa.null(),
    },
    "users": {"user_id": pa.string(), "age": pa.float64(), "tier": pa.string(), "vip": pa.bool_()},
    "watches": {"user_id": pa.string(), "device": pa.string()},
    "impressions": {
        "user_id": pa.string(),
        "surface": pa.string(),
        "retrieval_score": pa.float64(),
    },
}


def entry(source, kind="continuous", side=None, models=("ranker",), **others):
    side = side or ("query" if source.split(".")[0] in {"users", "context"} else "candidate")
    given = {"name": "x", "kind": kind, "side": side, "models": list(models), "source": source}
    return {**given, **others}


def read(tmp_path, *entries):
    path = tmp_path / "features.json"
    path.write_text(json.dumps(entries))
    return declarations.load(path)


def check(tmp_path, *entries, types=TYPES):
    declarations.require_answerable(read(tmp_path, *entries), types, path="features.json")


@pytest.mark.parametrize(
    "declared",
    [
        entry("users.age"),
        entry("users.age", "univalent", models=["candidate", "ranker"]),
        entry("users.vip", "binary"),
        entry("users.tier", "multivalent"),
        entry("videos.quality", models=["candidate"]),
        entry("videos.labels", "multivalent", space="label", max_length=20),
        entry("videos.age_s"),
        entry("context.device", "univalent", models=["candidate"]),
        entry("context.hour", "univalent"),
        entry("context.example_age_s", models=["candidate"]),
        entry("history.user_any_watches_7d", side="query"),
        entry("history.user_any_clicks_1d", side="query", models=["candidate"]),
        entry("history.watched_topics", "multivalent", side="query", models=["candidate"]),
        entry("history.last_video_id", "univalent", side="query", space="video"),
        entry("history.user_topic_watches_7d"),
        entry("statistics.video_clicks_7d"),
        entry("live.video_live_watches_1h"),
    ],
    ids=lambda declared: declared["source"],
)
def test_what_a_column_answers_is_taken(tmp_path, declared):
    check(tmp_path, declared)


@pytest.mark.parametrize(
    ("declared", "says"),
    [
        (entry("statistics.typo"), "statistics has no such column.*video_clicks_7d"),
        (entry("statistics.video_click_7d"), "Did you mean video_clicks_7d"),
        (entry("live.x"), "live has no such column.*video_live_watches_10m"),
        (entry("history.x", side="query"), "history has no such column on the query side"),
        (entry("history.user_video_watches_7d", side="query"), "on the query side.*user_any_"),
        (entry("history.user_any_watches_7d"), "on the candidate side.*user_video_"),
        (entry("history.watched_topics", "multivalent"), "on the candidate side"),
        (entry("users.age", side="candidate"), "users belongs to the query side"),
        (entry("videos.quality", side="query"), "videos belongs to the candidate side"),
        (entry("statistics.video_clicks_7d", side="query"), "belongs to the candidate side"),
        (entry("live.video_live_watches_1h", side="query"), "belongs to the candidate side"),
        (entry("nomination.retrieval_score", side="query"), "belongs to the candidate side"),
        (entry("context.device", "univalent", side="candidate"), "belongs to the query side"),
        (entry("users.tear"), "users has no such column.*Did you mean tier.*There are: age"),
        (entry("videos.quality_"), "Did you mean quality"),
        (entry("context.referrer", "univalent"), "There are: device, example_age_s, hour"),
        # Logged, but not as our funnel logs them: there is no release_id.
        (entry("nomination.retrieval_score"), "no table of it"),
        (entry("nomination.position"), "no table of it"),
        (entry("users.tier"), r"continuous, but users.tier \(string\) can be univalent or multi"),
        (entry("users.tier", "binary"), "can be univalent or multivalent"),
        (entry("videos.labels", "univalent"), r"\(list<.*string>\) can be multivalent"),
        (entry("videos.made"), r"\(timestamp\[us\]\) can be no kind of feature"),
        (entry("videos.nested", "multivalent"), "no kind of feature"),
        (entry("videos.nothing", "univalent"), r"\(null\) can be no kind of feature"),
        (entry("context.hour"), "is continuous, but context.hour .*can be univalent"),
        (entry("statistics.video_clicks_7d", "univalent"), "can be continuous"),
        (entry("history.user_any_watches_7d", "binary", side="query"), "can be continuous"),
        (entry("statistics.video_clicks_7d", models=["candidate"]), "once for all moments"),
        (entry("history.user_video_watches_7d", models=["candidate"]), "once for all moments"),
        (entry("videos.age_s", models=["candidate", "ranker"]), "once for all moments"),
        (entry("context.example_age_s"), "is the candidate's alone"),
        (entry("context.surface", "univalent", models=["candidate"]), "is the ranker's alone"),
        (entry("history.search_tokens", "multivalent", side="query"), "not what it is made of"),
        (entry("history.user_channel_watches_7d", name="c"), "not what it is made of"),
        (entry("users.age", name="age"), "is declared twice; rename one"),
    ],
    ids=lambda value: f"{value['source']} {value['kind']}" if isinstance(value, dict) else "",
)
def test_what_no_column_answers_is_refused_by_name_and_with_what_there_is(tmp_path, declared, says):
    with pytest.raises(command.InputError, match=says) as refused:
        check(tmp_path, declared)
    assert f"feature {declared['name']!r} " in str(refused.value)


def test_all_that_is_wrong_is_said_at_once(tmp_path):
    with pytest.raises(command.InputError) as refused:
        check(
            tmp_path,
            entry("live.x", name="one"),
            entry("videos.quality", name="good"),
            entry("users.no", name="two"),
            entry("videos.quality", name="good"),
        )
    lines = str(refused.value).splitlines()
    assert [line.split("'")[1] for line in lines[1:]] == ["one", "two", "good"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"source": "nowhere.x"}, "origin"),
        ({"source": "x"}, "origin"),
        ({"models": ["both"]}, "models must be a list"),
        ({"models": "ranker"}, "models must be a list"),
        ({"models": []}, "models must be a list"),
        ({"models": [["ranker"]]}, "models must be a list"),
        ({"models": ["ranker", "ranker"]}, "twice"),
        ({"kind": "continous"}, "Did you mean continuous"),
        ({"kind": None}, "kind must be text"),
        ({"side": "video"}, "There are: candidate, query"),
        ({"space": "video"}, "space"),
        ({"missing": float("inf")}, "finite"),
        ({"missing": "0"}, "missing must be a number"),
        ({"missing": None}, "missing must be a number"),
        ({"kind": "univalent", "missing": 1}, "missing is for numbers"),
        ({"kind": "multivalent", "max_length": 10**9}, "max_length must be"),
        ({"kind": "multivalent", "max_length": "9"}, "max_length must be"),
        ({"max_length": 5}, "max_length is for multivalent"),
        ({"modells": ["ranker"]}, "no key 'modells'. Did you mean models"),
        ({"name": 5}, "name must be text"),
        ({"name": ""}, "taken"),
        ({"name": "watch time"}, "letters, digits and _"),
        ({"name": "clicked"}, "taken"),
        ({"name": "query_continuous"}, "taken"),
    ],
    ids=str,
)
def test_what_is_no_declaration_is_refused_with_place_and_reason(tmp_path, change, says):
    with pytest.raises(command.InputError, match=f"features.json.*\n  entry 2, .*{says}"):
        read(tmp_path, entry("users.age"), {**entry("users.age", name="y"), **change})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[", "JSON"),
        ("{}", "a JSON list"),
        ("[5]", "entry 1, 5: it must be an object with the keys name, kind"),
        ('[{"name": "x"}]', "lacks kind, side, models, source"),
        ('[{"name": "x", "name": "y"}]', "a key twice"),
        ("[" * 100_000, "JSON"),
        ("\ufeff5", "a JSON list"),
    ],
    ids=["cut", "object", "number", "keys", "twice", "deep", "mark"],
)
def test_a_file_that_holds_no_declarations_is_refused(tmp_path, text, says):
    path = tmp_path / "features.json"
    path.write_text(text)
    with pytest.raises(command.InputError, match=says):
        declarations.load(path)


def test_a_file_that_cannot_be_read_is_not_as_good_as_none(tmp_path):
    assert declarations.load(tmp_path / "features.json") == ()
    (tmp_path / "features.json").symlink_to(tmp_path / "gone")
    with pytest.raises(command.InputError, match="features.json cannot be read"):
        declarations.load(tmp_path / "features.json")


def test_every_declared_feature_of_the_project_could_be_an_extra_one():
    types = {
        **{f.origin: {} for f in spec.FEATURES},
        "searches": {"query": pa.string()},
        "feedback": {"kind": pa.string()},
        "impressions": dict.fromkeys(
            ("release_id", "candidate_sources", "retrieval_score", "device", "surface"), pa.string()
        ),
    }
    kinds = {"univalent": pa.string(), "multivalent": STRINGS}
    for feature in spec.FEATURES:
        if feature.origin in {"users", "videos"} and feature.column != "age_s":
            types[feature.origin][feature.column] = kinds.get(feature.kind.value, pa.float64())
    reasons = [declarations._unanswerable(feature, types) for feature in spec.FEATURES]
    assert [r for r in reasons if r] == []


def test_features_to_leave_out_must_be_some():
    extra = Feature(**entry("users.age", name="years"))
    resolved = ResolvedSpec(features=(*spec.FEATURES[:3], extra))
    # One that these logs do not have is left out already.
    declarations.require_known(["years", "search_tokens"], resolved, flag="--exclude")
    with pytest.raises(command.InputError, match="--exclude names no feature: 'yers'.*years"):
        declarations.require_known(["years", "yers"], resolved, flag="--exclude")


def test_a_column_of_the_videos_table_is_itself_though_its_name_is_one_that_is_computed():
    feature = Feature(**entry("videos.user_video_watches_7d", models=["ranker"]))
    counted = Feature(**entry("history.user_video_watches_7d", name="counted"))
    catalogue = Catalogue(
        pa.table({"video_id": ["a"], "upload_time": [0], "user_video_watches_7d": [42.0]})
    )
    batch = examples.candidate_batch(
        ResolvedSpec(features=(feature, counted)),
        spec.RANKER,
        catalogue=catalogue,
        video_rows=np.array([0]),
        history=History.of(catalogue, None, watches=None),
        queries=Queries(np.array([0]), np.array([100])),
    )
    assert batch.to_pydict() == {"candidate_continuous": [[42.0, 0.0]]}
