import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from features import text


def test_query_gives_unigrams_then_bigrams():
    assert text.tokens("Taylor  Swift, LIVE!") == [
        "taylor", "swift", "live", "taylor swift", "swift live",
    ]  # fmt: skip


def test_control_characters_and_emptiness_give_no_tokens():
    assert text.tokens("") == []
    assert text.tokens("\x00\n\t ") == []


@given(st.text(max_size=300))
def test_tokens_hold_no_line_break_whatever_the_query(query):
    # A vocabulary file has a token a line.
    assert not any("\n" in token or "\r" in token or not token for token in text.tokens(query))


def test_tokenise_keeps_one_list_per_query_and_null_is_empty():
    lists = text.tokenise(pa.array(["a b", None, "a b"]))
    assert lists.to_pylist() == [["a", "b", "a b"], [], ["a", "b", "a b"]]
