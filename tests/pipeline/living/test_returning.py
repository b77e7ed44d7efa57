import numpy as np

from pipeline.living.config import LiveConfig
from pipeline.living.returning import Returning


def visits(returning, satisfaction, number=5, seed=0):
    rng = np.random.default_rng(seed)
    rows = np.arange(len(returning.contentment))
    for _ in range(number):
        returning.watched(rows, np.broadcast_to(satisfaction, len(rows)))
        returning.end_visit(rows, rng)


def test_contentment_follows_what_was_watched_and_pages_in_vain():
    returning = Returning(LiveConfig(memory=0.5, empty_page=-0.4), 2)
    # Two watches of 0.8 and 0.2, and for the second user a page of which nothing was clicked.
    returning.watched(np.array([0, 0, 1, 1]), np.array([0.8, 0.2, 0.8, 0.2]))
    returning.saw_nothing(np.array([1]))
    returning.end_visit(np.array([0, 1]), np.random.default_rng(0))
    # 0.5 x mean(0.8, 0.2), and 0.5 x mean(0.8, 0.2, -0.4).
    np.testing.assert_allclose(returning.contentment, [0.25, 0.1])
    returning.end_visit(np.array([0]), np.random.default_rng(0))  # Nothing happened: as it was.
    np.testing.assert_allclose(returning.contentment, [0.25, 0.1])


def test_content_users_come_more_often_and_others_stop_coming():
    config = LiveConfig(loss=0.2, attachment=1.0)
    glad, angry = Returning(config, 4000), Returning(config, 4000)
    visits(glad, 0.9)
    visits(angry, -0.9)
    assert angry.is_away.mean() > 2 * glad.is_away.mean() > 0
    assert glad.eagerness()[~glad.is_away].min() > 1 > angry.eagerness().max()
    assert not angry.eagerness()[angry.is_away].any()


def test_the_chance_to_stop_is_the_one_stated():
    returning = Returning(LiveConfig(loss=0.3), 20_000)
    returning.contentment[:] = 0.5
    returning.end_visit(np.arange(20_000), np.random.default_rng(1))
    # loss (1 - c) / 2 = 0.075
    assert abs(returning.is_away.mean() - 0.075) < 0.006
    away = returning.is_away.sum()
    returning.new_day(np.random.default_rng(2))
    assert abs(1 - returning.is_away.sum() / away - LiveConfig().recovery) < 0.03
