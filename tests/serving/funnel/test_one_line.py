"""A new candidate source is one class and one line, a new rung one entry: both are added here."""

import types

import numpy as np
import pytest

from serving import errors
from serving.funnel import rungs, sources
from serving.funnel.funnel import Funnel
from serving.funnel.nominations import Nominations, Source
from serving.funnel.page import PageRequest
from serving.funnel.rungs import Rung
from serving.history.user_history import unknown_user
from serving.live.state import LiveState


class Oldest(Source):
    """Oldest uploads."""

    name = "oldest"
    is_broken = False

    def __init__(self, catalogue):
        self._order = np.argsort(catalogue.upload_times, kind="stable").astype(np.int32)

    @classmethod
    def of(cls, built):
        return cls(built.catalogue)

    def nominate(self, question, limit):
        if self.is_broken:
            raise errors.ServingError("nobody remembers.")
        places = -np.arange(len(self._order), dtype=np.float32)
        return question.first_allowed(Nominations(self._order, places), limit)


@pytest.fixture
def page(tiny, monkeypatch):
    """Gives a page of a funnel with one more source and one more rung."""
    monkeypatch.setattr(sources, "SOURCES", (*sources.SOURCES, Oldest))
    entry = Rung("no_oldest", "without the oldest", without=("oldest",))
    place = rungs.RUNGS.index(rungs.NO_RANKER) + 1
    ladder = (*rungs.LADDER[:place], entry, *rungs.LADDER[place:])
    monkeypatch.setattr(rungs, "LADDER", ladder)

    def ask(**changes):
        funnel = Funnel(
            releases=tiny.releases(tiny.release(**changes).with_live(LiveState())),
            history=types.SimpleNamespace(read=unknown_user),
            recorder=None,
            clock=lambda: tiny.now,
            settings=tiny.patient(per_source=4),
        )
        try:
            return funnel.recommend(
                PageRequest(user_id="old", k=40, context={"device": "phone"}, record=False)
            )
        finally:
            funnel.close()

    return ask


def test_a_source_of_one_class_and_one_line_is_asked_and_named_and_ranked(page):
    shown = page()
    mine = [item for item in shown.items if "oldest" in item.sources]
    # As many as a source may nominate, or as the page has room for.
    assert shown.nominated["oldest"] == 40
    assert mine and all("oldest" in item.source_scores for item in mine)
    assert shown.sources_ms["oldest"] >= 0
    assert shown.rung == "full"


def test_a_rung_of_one_entry_is_stood_on_where_its_part_fails(page, monkeypatch, tiny):
    monkeypatch.setattr(Oldest, "is_broken", True)
    shown = page()
    assert shown.rung == "no_oldest"
    assert shown.reasons == ("oldest: nobody remembers.",)
    # It lies between its neighbours: better than without history, worse than without a ranker.
    assert page(ranker=None).rung == "no_oldest"
    assert page(query_tower=tiny.broken()).rung == "popular"
