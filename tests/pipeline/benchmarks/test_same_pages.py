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
    users.write_text("u1\nu2\nu3\n")
    other = page(("b", 40.0))  # In the same order.
    pages = {("ours", "u1"): page(A), ("ours", "u2"): other}
    requests = []

    def answered(*key):
        requests.append(key)
        return pages.get(key, page(B))

    monkeypatch.setattr(same_pages, "_page", answered)
    figures = same_pages.share(("ours", "base"), users, pages=40)
    assert len(set(requests)) == len(requests) == 6  # Nobody asks twice.
    assert figures == {
        "funnel.compared_pages": 3,
        "funnel.same_pages": 1,
        "funnel.same_order_pages": 2,
    }
