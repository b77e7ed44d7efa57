#!/usr/bin/env bash
# MABWiser: UCB1, the policy that tries the unknown first, never once tries a new arm
#
# Packages   mabwiser 2.7.4, numpy 2.4.6, pandas 3.1.1, scikit-learn 1.9.1, scipy 1.17.1
#
# Expected   UCB1 adds to an arm's mean a bonus that grows as its count falls, and plays each arm
#            once to begin with: an arm without any trial goes first.
# Seen       An arm without a trial has the expectation 0, its bonus included. Where rewards are
#            not negative any arm that was tried has more than that, so one that comes by add_arm(),
#            or that had no row in fit(), is not played in 3,000 rounds, though nine in ten of its
#            trials would succeed where the others reach .2 and .1. alpha=100 changes nothing: the
#            bonus of the others grows. With one trial put in by hand, UCB1 plays it nearly always,
#            and so do Thompson sampling and epsilon-greedy without that.
# Matters    A catalogue gets new items every hour, and UCB1 is taken to have them explored. They
#            get no view at all, no error tells it, and the regret of the log looks small, for it is
#            of the old items. Give new arms a first trial in partial_fit(), or use warm_start().
# Pointer    _UCB1._fit_arm; issues 10 (an arm without data is left at zero) and 64 (cold start) of
#            fidelity/mabwiser. The docstring's formula divides by the count.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: --no-compile \
    mabwiser==2.7.4 numpy==2.4.6 pandas==3.1.1 scikit-learn==1.9.1 scipy==1.17.1

cat > "$work/show.py" <<'PY'
from collections import Counter
from importlib.metadata import version

import numpy as np
from mabwiser.mab import MAB, LearningPolicy

print(f"mabwiser {version('mabwiser')}, numpy {np.__version__}")
RATE = {"old": 0.2, "other": 0.1, "new": 0.9}
ROUNDS = 3000


def plays(label, policy, *, in_constructor=False, first_trial=False):
    """How often each arm is played, after 50 trials of each of the two that are known."""
    arms = ["old", "other"] + ["new"] * in_constructor
    bandit = MAB(arms=arms, learning_policy=policy, seed=1)
    bandit.fit(["old"] * 50 + ["other"] * 50, [1] * 10 + [0] * 40 + [1] * 5 + [0] * 45)
    if not in_constructor:
        bandit.add_arm("new")
    if first_trial:
        bandit.partial_fit(["new"], [0])
    before = float(bandit.predict_expectations()["new"])
    rng = np.random.default_rng(0)
    counts = Counter()
    for _ in range(ROUNDS):
        arm = bandit.predict()
        counts[arm] += 1
        bandit.partial_fit([arm], [int(rng.random() < RATE[arm])])
    print(f"{label:32} expectation of the new arm {before:.2f}, plays {dict(counts)}")
    return before, counts["new"]


assert plays("UCB1", LearningPolicy.UCB1(1.25)) == (0, 0)
assert plays("UCB1, alpha 100", LearningPolicy.UCB1(100)) == (0, 0)
assert plays("UCB1, arm known from the start", LearningPolicy.UCB1(1.25), in_constructor=True) == (0, 0)
for label, policy, first_trial in (
    ("UCB1 after one failed trial", LearningPolicy.UCB1(1.25), True),
    ("Thompson sampling", LearningPolicy.ThompsonSampling(), False),
    ("epsilon-greedy, .25", LearningPolicy.EpsilonGreedy(0.25), False),
):
    assert plays(label, policy, first_trial=first_trial)[1] > ROUNDS / 2
PY
"$work/venv/bin/python" "$work/show.py" 2> "$work/log" || { cat "$work/log" >&2; exit 1; }
echo "as described"
