"""Pages of two servers side by side."""

import math

import pytest

from pipeline.benchmarks import same_pages


def page(*items, rung="full"):
    return {
        "rung": rung,
        "items": [{"video_id": i, "expected_watch_time_s": seconds} for i, seconds in items],
    }


A, B = ("a", 60.0), ("b", 50.0)
NEARLY = 50.0 * math.exp(same_pages.TOLERANCE / 2)


@pytest.mark.parametrize(
    ("ours", "base", "expected"),
    [
        (page(A, B), page(A, B), True),
        (page(A, B, ("c", NEARLY)), page(A, ("c", NEARLY), B), True),
        (page(A, B), page(B, A), False),
        (page(A, B), page(A, ("b", 51.0)), False),
        (page(A), page(A, B), False),
        (page(A), page(A, rung="no_ranker"), False),
        (page(("a", None)), page(("a", None)), True),
        (page(("a", None)), page(("b", None)), False),
        (page(("a", None)), page(("a", 1.0)), False),
    ],
)
def test_the_same_order_but_for_ties(ours, base, expected):
    assert same_pages.is_same(ours, base) is expected


def test_pages_are_counted(tmp_path, monkeypatch):
    users = tmp_path / "users.txt"
    users.write_text("u1\nu2\n")
    pages = {("ours", "u1"): page(A), ("base", "u1"): page(A), ("ours", "u2"): page(A)}
    monkeypatch.setattr(same_pages, "_page", lambda *key: pages.get(key, page(B)))
    figures = same_pages.share(("ours", "base"), users, pages=40)
    assert figures["funnel.compared_pages"] == 40
    assert 0 < figures["funnel.same_pages"] < 40
