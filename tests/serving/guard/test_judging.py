"""When a release is said to do worse: hardly ever wrongly, and soon when it does."""

import dataclasses

import numpy as np
import pytest

from serving.guard import judging
from serving.guard.config import GuardConfig
from serving.guard.tallies import DEGRADED, EMPTY, FAILED, GROUPS, KINDS, WHOLE, Tally

CONFIG = GuardConfig()


def counted(**kinds):
    return Tally(np.array([kinds.get(kind, 0.0) for kind in KINDS]))


BEFORE = counted(**{WHOLE: 5000, FAILED: 5, EMPTY: 5, DEGRADED: 20})


def judged(new, before=BEFORE, config=CONFIG):
    return [breach.what for breach in judging.breaches(new, before, config)]


@pytest.mark.parametrize("kind", [FAILED, EMPTY, DEGRADED])
def test_a_release_that_only_fails_is_seen_with_the_least_number_of_pages(kind):
    assert judged(counted(**{kind: CONFIG.least_pages})) == [judging._WORDS[kind]]
    assert judged(counted(**{kind: CONFIG.least_pages - 1})) == []


def test_a_share_that_was_the_same_before_is_not_of_the_release():
    ill = counted(**{WHOLE: 500, DEGRADED: 500})
    assert judged(ill, before=ill) == []
    assert judged(ill) == [judging._WORDS[DEGRADED]]


def test_a_bad_minute_at_low_traffic_decides_nothing():
    # 2 of 30 is seven times what may fail, and no evidence.
    assert judged(counted(**{WHOLE: 28, FAILED: 2})) == []
    assert judged(counted(**{WHOLE: 2800, FAILED: 200})) == [judging._WORDS[FAILED]]


def test_without_a_release_before_only_the_limits_hold():
    assert judged(counted(**{FAILED: 50}), before=Tally()) == [judging._WORDS[FAILED]]
    assert judged(counted(**{WHOLE: 50}), before=Tally()) == []


class Crowd:
    """Users of a site in their groups, who click and watch; totals of a release, look by look.

    After the looks at which it serves come those until the last of its watches is reported.
    """

    LATE = 15  # Looks after which a watch that lasts is reported.

    def __init__(self, rng, *, rate=0.4, long=1.0, failing=0.0, looks=60, pages_a_look=40):
        groups = rng.integers(0, GROUPS, 3000)
        taste = rng.beta(2, 3, 3000) / 0.4
        activity = rng.lognormal(0, 1, 3000)
        who = rng.choice(3000, (looks, pages_a_look), p=activity / activity.sum())
        clicked = rng.random(who.shape) < rate * taste[who]
        seconds = clicked * rng.lognormal(4, 1, who.shape)
        failed = np.cumsum(rng.binomial(pages_a_look, failing, looks))
        self.totals = []
        is_short = seconds < 30
        soon = (np.ones(who.shape), clicked, seconds * is_short)
        late = (np.ones(who.shape), seconds * np.where(is_short, 1, long))
        outcomes = np.zeros((5, GROUPS))
        for look in range(looks + self.LATE):
            for row, values in enumerate((*soon, *late)):
                when = look if row < 3 else look - self.LATE
                if 0 <= when < looks:
                    outcomes[row] += np.bincount(groups[who[when]], values[when], GROUPS)
            last = min(look, looks - 1)
            pages = (last + 1) * pages_a_look
            kinds = counted(**{WHOLE: pages - failed[last], FAILED: failed[last]}).kinds
            self.totals.append(Tally(kinds, outcomes.copy()))


def rolled_back(rng, *, rate, config):
    before = Crowd(rng).totals[-1]
    return any(judging.breaches(new, before, config) for new in Crowd(rng, rate=rate).totals)


def test_releases_at_the_limit_are_rolled_back_as_rarely_as_stated():
    config = dataclasses.replace(CONFIG, alpha=0.05)
    rng = np.random.default_rng(1)
    kept = 1 - config.max_fall
    wrong = sum(rolled_back(rng, rate=0.4 * kept, config=config) for _ in range(60))
    assert wrong <= 0.05 * 60
    assert not any(rolled_back(rng, rate=0.4, config=config) for _ in range(20))


def test_a_release_that_hardly_anybody_clicks_is_seen_within_some_hundred_pages():
    rng = np.random.default_rng(2)
    before = Crowd(rng).totals[-1]
    bad = Crowd(rng, rate=0.05).totals
    first = next(new for new in bad if judging.breaches(new, before, CONFIG))
    assert first.known_outcomes <= 400
    (breach, *_) = judging.breaches(first, before, CONFIG)
    assert breach.what == "clicked pages per page"
    assert breach.value < breach.limit < breach.before
    assert "on" in str(breach) and "before" in str(breach)


def test_outcomes_are_not_compared_before_enough_of_both_are_known():
    rng = np.random.default_rng(3)
    before, bad = Crowd(rng).totals, Crowd(rng, rate=0.0).totals
    assert judged(bad[3], before[-1]) == []  # 160 pages.
    assert judged(bad[-1], before[3]) == []
    assert "seconds watched per page" in judged(bad[-1], before[-1])


def test_watches_that_last_less_long_are_seen_although_as_much_is_clicked():
    rng = np.random.default_rng(4)
    before, bad = Crowd(rng).totals[-1], Crowd(rng, long=0.2).totals
    assert judged(bad[Crowd.LATE + 3], before) == []  # 160 pages are old enough.
    assert judged(bad[-1], before) == ["seconds watched per page after some minutes"]
