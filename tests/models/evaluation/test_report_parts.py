"""Parts of an evaluation's report."""

from models.evaluation import report_parts


def test_columns_are_aligned():
    assert report_parts.columns([["", "MAP"], ["model", "0.1"]]) == "         MAP\n  model  0.1"


def test_learning_curves_are_of_the_loss_and_of_each_metric_but_signs_of_collapse():
    rounds = [
        {
            "step": 1,
            "epoch": 0.5,
            "train_loss": 2.0,
            "holdout": {"map_at_100": 0.1, "query_norm": 9},
        },
        {"step": 2, "epoch": 1.0, "train_loss": None, "holdout": {"map_at_100": 0.2}},
    ]
    loss, holdout = report_parts.learning_curves(rounds)
    assert loss.label == "training loss, mean of the round by passes over the examples"
    assert holdout.label.startswith("holdout map@100")
    told = [one.title for one in holdout.shapes if one.title]
    assert told == ["holdout map@100, 0.5: 0.1", "holdout map@100, 1: 0.2"]
    assert len([one for one in loss.shapes if one.title]) == 1
    assert report_parts.learning_curves([]) == []
