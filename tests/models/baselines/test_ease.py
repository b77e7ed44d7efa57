import numpy as np
import pytest

from models.baselines import ease
from models.baselines.implicit import watch_matrix
from models.baselines.retrieval import Queries

VIDEOS = 6
ORDER = np.arange(VIDEOS) / VIDEOS


def queries(*histories, labels=None):
    """Users u0, u1, ... and what each has watched, newest first, as rows."""
    count = len(histories)
    labels = [-1] * count if labels is None else labels
    return Queries(
        user_ids=np.array([f"u{i}" for i in range(count)], object),
        times=np.arange(count),
        label_ids=np.array([f"v{row}" for row in labels], object),
        label_rows=np.array(labels, np.int64),
        regions=np.full(count, "", object),
        history_offsets=np.concatenate([[0], np.cumsum([len(h) for h in histories])]),
        history_rows=np.array([row for h in histories for row in h], np.int64),
    )


def log(users=200, seed=1):
    """Two kinds of users: of videos 0 to 2, and of 3 to 5."""
    random = np.random.default_rng(seed)
    kinds = random.integers(0, 2, users)
    watched = [3 * kind + random.permutation(3)[:2] for kind in kinds]
    return queries(*[[w[1]] for w in watched], labels=[w[0] for w in watched])


def test_the_weights_are_the_best_that_explain_no_video_by_itself():
    """Off the diagonal the gradient of |X - X B|^2 + lambda |B|^2 is zero."""
    fitted = ease.fit(log(), ORDER, regularisation=10.0)
    matrix = watch_matrix(log(), VIDEOS)[0].toarray().astype(float)
    weights = fitted.weights.astype(float)
    gram = matrix.T @ matrix
    gradient = gram @ weights + 10.0 * weights - gram
    np.testing.assert_array_equal(np.diag(weights), 0)
    np.testing.assert_allclose(gradient - np.diag(np.diag(gradient)), 0, atol=1e-3)


def test_what_is_watched_together_is_recommended_and_a_watch_counts_once():
    fitted = ease.fit(log(), ORDER)
    once, twice, nobody, unknown = fitted.score(queries([0], [0, 0], [], [-1]))
    assert set(np.argsort(-once)[:2]) == {1, 2}
    np.testing.assert_array_equal(once, twice)
    # Without a watch, and of one that nobody knows, it says what is popular.
    assert np.argmax(nobody) == np.argmax(unknown) == VIDEOS - 1


def test_a_catalogue_that_is_too_large_is_left_out_loudly(monkeypatch, caplog):
    monkeypatch.setattr(ease, "MAX_VIDEOS", 5)
    with caplog.at_level("WARNING"):
        assert ease.fit(log(), ORDER) is None
    assert "EASE IS LEFT OUT" in caplog.text


@pytest.mark.parametrize("regularisation", [1.0, 1000.0])
def test_regularisation_shrinks_the_weights(regularisation):
    size = np.abs(ease.fit(log(), ORDER, regularisation=regularisation).weights).max()
    assert (size > 0.2) == (regularisation == 1.0)
