import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.as_of import ragged
from features.spec import Feature, Kind, Side
from serving.arrays import vocabulary
from serving.arrays.vocabulary import MAX_TOKEN_BYTES, Vocabulary

# A character has 4 bytes at most: longer tokens are refused, see below.
TEXT = st.text(
    st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"),
    min_size=1,
    max_size=MAX_TOKEN_BYTES // 4,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(TEXT, unique=True, max_size=30), st.lists(TEXT, max_size=30))
def test_an_id_is_the_place_in_the_list_and_strangers_have_none(tokens, others):
    vocabulary = Vocabulary.of(tokens)
    asked = [*others, *tokens]
    expected = [tokens.index(text) + 1 if text in tokens else 0 for text in asked]
    assert vocabulary.lookup(asked).tolist() == expected


def test_what_begins_with_a_token_is_another_one():
    vocabulary = Vocabulary.of(["ab", "b"])
    assert vocabulary.lookup(["ab", "abc", "a", "ab\0", "", "b"]).tolist() == [1, 0, 0, 0, 0, 2]


def test_an_empty_vocabulary_knows_nothing():
    assert Vocabulary.of([]).lookup(["a"]).tolist() == [0]
    assert Vocabulary.of(["a"]).lookup([]).dtype == np.int32


def test_arrays_make_the_same_vocabulary():
    vocabulary = Vocabulary.of(["späth", "b"])
    again = Vocabulary.from_arrays("x", vocabulary.arrays("x"))
    assert again.lookup(["b", "späth"]).tolist() == [2, 1]


@pytest.mark.parametrize("token", ["a\0", "é" * MAX_TOKEN_BYTES])
def test_what_cannot_be_held_is_refused(token):
    with pytest.raises(ValueError, match="token"):
        Vocabulary.of([token])


@pytest.mark.parametrize("space", ["video", vocabulary.CATEGORY])
def test_ids_of_codes_are_those_of_their_names(space):
    about = {"kind": Kind.UNIVALENT, "side": Side.QUERY, "models": ("ranker",)}
    feature = Feature(name="f", source="videos.f", space=space, **about)
    tokens = ["b", "a", "f=b", "f=c"]
    ids = vocabulary.Ids({space: Vocabulary.of(tokens)})
    names = pa.array(["a", "b", "c", "", "a"])
    expected = {"a": 2, "b": 1} if space == "video" else {"b": 3, "c": 4}
    for longer in (names, pa.array([*names.to_pylist(), "b"])):  # A catalogue that was extended.
        for codes in ([0, 1], [], [4, 3, 2, 1, 0], [len(longer) - 1]):
            coded = ragged.Coded(np.array(codes, np.int32), longer)
            wanted = [expected.get(longer[code].as_py(), 0) for code in codes]
            assert ids(feature, coded).tolist() == wanted
            assert ids(feature, coded.plain()).tolist() == wanted


def test_strings_are_known_after_others_were_forgotten(monkeypatch):
    monkeypatch.setattr(vocabulary, "_MOST_KNOWN", 3)
    feature = Feature(
        name="words", kind=Kind.MULTIVALENT, side=Side.QUERY, models=("ranker",), space="words",
        source="history.search_tokens", max_length=3,
    )  # fmt: skip
    ids = vocabulary.Ids({feature.space: Vocabulary.of(["a", "b", "c"])})
    for texts in (["a", "x"], ["b", "a", "y"], ["c", "x", "a"], ["a"]):
        expected = [{"a": 1, "b": 2, "c": 3}.get(text, 0) for text in texts]
        assert ids(feature, pa.array(texts)).tolist() == expected
