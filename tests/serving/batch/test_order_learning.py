import numpy as np

from serving.batch import order_learning
from serving.batch.order_learning import LEARNED, SINGLES, Lessons
from serving.funnel.page_order import NAMES


def world(samples, candidates, weights, seed):
    """Candidates whose probability to be watched follows a conditional logit."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0.3, 2.0, (samples, candidates, len(weights)))
    utility = x @ weights + rng.gumbel(size=(samples, candidates))
    return x, utility.argmax(axis=1)


def test_known_weights_are_found_again():
    truth = np.array([1.0, -0.5, 0.0, 0.25])
    x, target = world(3000, 30, truth, seed=1)
    found = order_learning.fit(x, target)
    np.testing.assert_allclose(found, truth, atol=0.06)


def test_sampled_negatives_leave_the_weights_right():
    truth = np.zeros(len(NAMES))
    truth[:3] = [0.8, -0.4, 0.2]
    x, target = world(1500, 400, truth, seed=2)
    lessons = Lessons()
    for candidates, watched in zip(x, target.tolist(), strict=True):
        lessons.add(candidates, watched, user_id=str(watched))
    found = lessons.learned()
    assert found.order.samples == 1500
    np.testing.assert_allclose(found.order.weights, truth, atol=0.08)
    assert found.figures["chosen"] == LEARNED


def test_columns_that_say_nothing_get_no_weight():
    x, target = world(300, 20, np.array([1.0, 0.0]), seed=3)
    x[:, :, 1] = 7.0
    weights = order_learning.fit(x, target)
    assert weights[1] == 0
    assert weights[0] > 0.5


def test_samples_of_different_size_can_be_mixed():
    truth = np.array([1.0, -1.0])
    x, target = world(2000, 10, truth, seed=4)
    x[::2, 8:] = np.nan
    kept = (target < 8) | (np.arange(2000) % 2 == 1)
    np.testing.assert_allclose(order_learning.fit(x[kept], target[kept]), truth, atol=0.12)


def test_samples_count_as_often_as_their_weights_say():
    x, target = world(400, 10, np.array([1.0, -1.0]), seed=6)
    weights = np.tile([0.0, 1.0, 1.0, 2.0], 100)
    repeated = np.repeat(np.arange(400), weights.astype(int))
    np.testing.assert_allclose(
        order_learning.fit(x, target, counts=weights),
        order_learning.fit(x[repeated], target[repeated]),
        rtol=0.02,
    )


def test_short_watches_do_not_decide_where_watches_count_for_their_time():
    """Two of three are short and of what is live; the others are long and of what co-watch says."""
    rng = np.random.default_rng(7)
    live, co_watch = NAMES.index("log_live_watches_1h"), NAMES.index("co_watch_score")
    by_count, by_time = Lessons(), Lessons()
    for number in range(600):
        x = np.zeros((40, len(NAMES)))
        x[:, [live, co_watch]] = rng.normal(0, 1, (40, 2))
        is_short = number % 3 > 0
        watched = int(x[:, live if is_short else co_watch].argmax())
        by_count.add(x, watched, user_id=str(number % 50))
        by_time.add(x, watched, user_id=str(number % 50), count=5.0 if is_short else 300.0)
    counted, timed = by_count.learned().order.weights, by_time.learned().order.weights
    assert counted[live] > 1.3 * counted[co_watch] > 0
    assert timed[co_watch] > 3 * timed[live]


def test_few_watches_teach_nothing():
    lessons = Lessons()
    for _ in range(order_learning.MIN_SAMPLES - 1):
        lessons.add(np.zeros((5, len(NAMES))), 0, user_id="u")
    assert lessons.learned().order is None


def lessons_of(rows):
    lessons = Lessons()
    for number, (x, watched) in enumerate(rows):
        lessons.add(x, watched, user_id=str(number % 50))
    return lessons


def test_an_order_that_lost_to_a_part_of_it_is_replaced_by_that_part():
    """What led to watches in the older two thirds is what nobody wants in the newest third."""
    rng = np.random.default_rng(5)
    live, co_watch = NAMES.index("log_live_watches_1h"), NAMES.index("co_watch_score")
    rows = []
    for number in range(300):
        x = np.zeros((150, len(NAMES)))
        x[:, [live, co_watch]] = rng.normal(size=(150, 2))
        tempting = x[:, live] if number < 200 else -x[:, live]
        rows.append((x, int((3 * tempting + x[:, co_watch]).argmax())))
    found = lessons_of(rows).learned()
    assert found.figures["chosen"] == found.figures["best_single"] == "co_watch_score"
    assert found.figures["watches"] == 100
    assert found.order.weights[co_watch] == 1.0
    assert np.count_nonzero(found.order.weights) == 1
    assert found.figures["difference"]["10"]["value"] == 0.0


def test_places_among_equal_scores_count_by_chance():
    """Nothing tells 40 candidates apart, so any 10 of them are the first ten."""
    found = lessons_of([(np.zeros((40, len(NAMES))), 3)] * 300).learned()
    assert found.figures["hits"]["log_live_watches_1h"] == {"10": 0.25, "100": 1.0}


def test_every_single_order_is_made_of_columns_that_there_are():
    assert {name for weights in SINGLES.values() for name in weights} <= set(NAMES)
