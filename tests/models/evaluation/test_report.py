"""An evaluation as JSON, as a page and as text."""

import dataclasses
import json

from features import files
from models.evaluation import evaluation, report
from models.evaluation.intervals import Figure
from tests.models.evaluation.small_examples import TRAIN_END


def test_metrics_file_holds_every_figure_with_its_interval(measured, tmp_path):
    evaluation.write(measured, tmp_path / "out", report.html_page(measured))
    document = json.loads((tmp_path / "out" / evaluation.METRICS_FILE).read_text())
    entry = document["figures"]["candidate.model.all.recall_at_2"]
    assert entry == {"value": 1.0, "low": 1.0, "high": 1.0, "n": 8}
    assert document["settings"]["seed"] == 0
    assert document["data"]["train_until_s"] == TRAIN_END
    assert files.read_complete(tmp_path / "out") is not None


def test_report_needs_no_other_file(measured):
    page = report.html_page(measured)
    # Recall by k, and calibration by decile, duration and position.
    assert page.count("<svg") == 1 + len(measured.calibration)
    assert "src=" not in page
    assert "recall@2" in page
    assert page == report.html_page(measured)


def test_report_and_file_have_the_learning_curves_of_what_was_trained(measured, tmp_path):
    rounds = [{"step": 5, "epoch": 1.0, "train_loss": 1.5, "holdout": {"recall_at_100": 0.25}}]
    trained = dataclasses.replace(measured, training={"candidate": rounds})
    page = report.html_page(trained)
    assert page.count("<h3>Learning curves</h3>") == 1
    assert "holdout recall@100, 1: 0.25" in page
    assert json.loads(trained.to_json())["training"] == {"candidate": rounds}


def test_report_says_first_what_came_out(measured):
    page = report.html_page(measured)
    parts = ("Candidate generation", "Ranking")
    places = [page.index(f"<b>{part}:</b> Model minus ") for part in parts]
    assert places == sorted(places)
    assert places[-1] < page.index("<table") and places[-1] < page.index("<svg")
    # In the figures' own words, and in the colour of what they say: here nothing is told apart.
    assert "not told apart" in page[places[-1] : page.index("<table")]
    figures = dict(measured.figures)
    best = measured.systems("ranker")[1]
    for style, value in (("better", -0.2), ("worse", 0.2)):  # A loss falls where it is better.
        change = Figure(value=value, low=value - 0.1, high=value + 0.1, n=9)
        figures[f"ranker.model_minus_{best}.all.weighted_per_user_loss"] = change
        told = report.html_page(dataclasses.replace(measured, figures=figures))
        assert f'<p class="verdict {style}"><b>Ranking:</b>' in told
    alone = {k: f for k, f in measured.figures.items() if k.startswith("ranker.model.")}
    told = report.html_page(dataclasses.replace(measured, figures=alone, calibration={}))
    assert "no model and baseline to compare" in told


def test_report_escapes_names_from_the_data(measured):
    figure = measured.figures["candidate.model.all.recall_at_2"]
    odd = {**measured.figures, "candidate.model.region_<b>.recall_at_2": figure}
    result = evaluation.Evaluation(settings=measured.settings, data=measured.data, figures=odd)
    assert "region &lt;b&gt;" in report.html_page(result)


def test_text_names_the_best_baseline_and_the_judgement(measured):
    text = report.text(measured)
    assert "next watch among all 8 videos, 8 holdout watches of 8 users" in text
    assert "the best baseline" in text
    # Clicks follow the video alone in this world, so a click rate per video is perfect as well.
    assert "weighted, per-user loss +0.0000 [+0.0000, +0.0000]: not told apart" in text
