import pytest

from features import command, id_spaces, spec
from features.spec import Feature, Kind, ResolvedSpec, Side

COLUMNS = {
    "videos": ["video_id", "upload_time", "channel_id", "topics", "duration_s"],
    "users": ["user_id", "region"],
    "watches": ["user_id", "video_id", "time", "watch_time_s"],
    "impressions": ["user_id", "video_id", "time", "clicked", "watch_time_s"],
    "context": ["device"],
}


def names(resolved, model):
    return {f.name for f in resolved.of(model)}


def test_features_without_their_column_are_switched_off():
    got = names(spec.resolve(COLUMNS), spec.RANKER)
    assert {"region", "device", "duration_s", "user_topic_watches_1d"} <= got
    assert not got & {"age", "surface", "search_tokens", "retrieval_score", "video_language"}


def test_no_channels_and_no_topics_switch_off_their_history():
    bare = {**COLUMNS, "videos": ["video_id", "upload_time"]}
    got = names(spec.resolve(bare), spec.RANKER)
    assert "user_video_impressions_7d" in got
    assert not any("channel" in name or "topic" in name for name in got)


def test_a_raw_column_becomes_a_feature_by_one_entry():
    extra = Feature(
        name="tier", kind="univalent", side="query", models=("ranker",), source="users.tier"
    )
    columns = {**COLUMNS, "users": ["user_id", "tier"]}
    resolved = spec.resolve(columns, (extra,))
    assert "tier" in names(resolved, spec.RANKER)
    assert "tier" not in names(resolved, spec.CANDIDATE)
    assert extra.space == "category"


def test_extra_feature_without_column_is_refused_with_the_columns_there_are():
    extra = Feature(
        name="tier", kind="univalent", side="query", models=("ranker",), source="users.tier"
    )
    with pytest.raises(command.InputError, match=r"users\.tier.*region"):
        spec.resolve(COLUMNS, (extra,))


def test_name_declared_twice_is_refused():
    extra = Feature(
        name="region", kind="univalent", side="query", models=("ranker",), source="users.region"
    )
    with pytest.raises(command.InputError, match="declared twice"):
        spec.resolve(COLUMNS, (extra,))


def test_the_full_spec_has_over_200_model_inputs_with_powers():
    everything = {f.origin: [] for f in spec.FEATURES} | {
        "videos": ["video_id", "upload_time"],
        "searches": ["query"],
        "feedback": ["kind"],
        "impressions": ["candidate_sources", "retrieval_score", "release_id"],
        "context": ["device", "surface"],
    }
    for feature in spec.FEATURES:
        if feature.origin in {"users", "videos"}:
            everything[feature.origin].append(feature.column)
    resolved = spec.resolve(everything)
    assert len(resolved.features) == len(spec.FEATURES)
    continuous = resolved.of(spec.RANKER, kind=Kind.CONTINUOUS)
    others = len(resolved.of(spec.RANKER)) - len(continuous)
    assert 3 * len(continuous) + others >= 200


def test_resolved_spec_survives_json_and_keeps_the_vectors_order(tmp_path):
    resolved = spec.resolve(COLUMNS)
    resolved.save(tmp_path)
    loaded = ResolvedSpec.load(tmp_path)
    assert loaded == resolved
    order = loaded.vector_names(spec.RANKER, Side.CANDIDATE, Kind.CONTINUOUS)
    assert order[0] == "duration_s"


def test_embedding_width_follows_the_logarithm():
    # The paper's example: 1 million ids, 32 dimensions.
    assert id_spaces.embedding_width(1_000_000) == 32
    assert id_spaces.embedding_width(1_000) == 16
    assert id_spaces.embedding_width(1) == 4
    assert id_spaces.embedding_width(0) == 4


def test_scores_of_another_recommender_are_no_features():
    logged = [*COLUMNS["impressions"], "candidate_sources", "retrieval_score"]
    theirs = spec.resolve({**COLUMNS, "impressions": logged})
    assert "retrieval_score" not in names(theirs, spec.RANKER)
    ours = spec.resolve({**COLUMNS, "impressions": [*logged, "release_id"]})
    assert {"retrieval_score", "candidate_sources"} <= names(ours, spec.RANKER)
