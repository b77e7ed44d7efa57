"""The model card: what it takes from what was recorded, and its limits."""

import json

import pytest

from serving.building import card, card_text
from tests.serving.building import cards


def test_card_tells_data_figures_slices_and_seeds():
    made = card.card(cards.sources())
    assert made["data"]["until"] == "2024-10-04T00:00:00Z"
    assert made["data"]["measured_from"] == "2024-10-03T00:00:00Z"
    assert made["data"]["from"] is None
    assert [(one["part"], one["metric"], one["value"]) for one in made["metrics"]] == [
        ("candidate", "recall_at_100", 0.6), ("ranker", "weighted_per_user_loss", 0.3),
    ]  # fmt: skip
    (baseline,) = made["baselines"]
    assert (baseline["system"], baseline["value"]) == ("popularity_all", 0.4)
    assert baseline["model_minus_it"]["value"] == 0.2
    # A decile of the expectation is no slice of people or videos.
    assert {one["slice"] for one in made["slices"]} == {"new_users", "heavy_users", "region_A|B"}
    assert made["seeds"] == {"preprocess": 4, "refit": None, "evaluation": 7}
    assert made["features"][1] == {
        "name": "age_s", "kind": "continuous", "side": "candidate", "models": ["ranker"],
        "source": "videos.age_s",
    }  # fmt: skip
    assert json.loads(json.dumps(made, allow_nan=False)) == made


def limits(**changes):
    return "\n".join(card.card(cards.sources(**changes))["limits"])


def test_limits_name_what_is_weak_unchecked_and_forced():
    told = limits(forced="the baseline is broken", gates=[*cards.GATES, cards.FAILED])
    # Of .6, the interval of new users, .25 to .35, lies wholly below; those of others do not.
    assert "worse for new_users than for all: recall_at_100 0.3 [0.25, 0.35], n = 20" in told
    assert "worse for heavy_users" not in told
    assert "Not checked before publication: against the one before." in told
    assert "Reason given: the baseline is broken" in told
    assert "It has no ranker: pages are in the order of the retrieval score." in told
    assert "A note." in told


def test_a_card_says_what_orders_pages():
    def pages(**changes):
        return card.card(cards.sources(**changes))["page_order"]["pages"]

    judged = {"judged": {"chosen": "learned"}}
    assert pages(page_order=judged) == "the learned order"
    assert pages(page_order={"judged": {"lessons": 3}}) == "the order of the retrieval score"
    assert "pages are in the learned order." in limits(page_order=judged)


def test_limits_say_what_was_not_measured():
    told = limits(
        evaluation={}, info=cards.INFO | {"has_ranking": False, "no_ranking": "no clicks"}
    )
    assert "Nothing was measured" in told
    assert "It has no ranker: no clicks." in told
    made = card.card(cards.sources(evaluation={}))
    assert (made["metrics"], made["baselines"], made["slices"]) == ([], [], [])


@pytest.mark.parametrize("info", [{}, {"until_s": None}])
def test_card_of_examples_of_an_older_version_has_nulls(info):
    made = card.card(cards.sources(info=info))
    assert made["data"]["until"] is None
    assert card_text.text(made).startswith("# Model card of release 20261130000000\n")


def test_text_says_the_same_and_takes_names_for_text():
    text = card_text.text(card.card(cards.sources(gates=[cards.FAILED])))
    assert "| candidate | recall\\_at\\_100 | 0.6 \\[0.55, 0.65\\] | 150 |" in text
    assert "region\\_A\\|B" in text
    assert "| FAIL | finite \\<b\\> | 7 not finite | 0 |" in text
    assert "| watches | 100 | 98 | 3 | date=2024-10-01 | date=2024-10-04 |" in text
    for part in ("Intended use", "Not for", "## Limits", "## Features", "## Lineage"):
        assert part in text
