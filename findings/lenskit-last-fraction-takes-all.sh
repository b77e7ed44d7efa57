#!/usr/bin/env bash
# LensKit's LastFrac: of users with a short history, all rows go to test and none is left to train
#
# Packages   lenskit 2025.8.1, pandas 2.3.3, pyarrow 23.0.1, numpy 2.4.6. torch, which it also asks
#            for, is stood in for by an empty module: splitting is done by NumPy alone.
#
# Expected   LastFrac(.2) holds out the last fifth of each user's rows. Where that rounds to no row,
#            no row is held out, as SampleFrac does.
# Seen       The rows are sorted by time and the last n taken as [-n:]. For n = 0 this is [0:], all
#            of them: with a fifth, users with one or two rows have their whole history in test and
#            nothing in train, users with three have one of three; with a tenth it befalls those
#            with up to five rows (round(.5) is 0). SampleFrac on the same data holds out none of
#            these rows. Nothing is said.
# Matters    Logs have many users with short histories. Each of them becomes a cold user, whom
#            personal models cannot serve, with a test set of its whole past: more of the log goes
#            to test than was asked for, metrics of personal models fall against popularity, and
#            training misses those rows. A warm-user experiment becomes a cold-start one without a
#            sign. Filter users by a minimum of rows first.
# Pointer    lenskit.splitting.LastFrac: "select a fraction of test rows per user".
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
site=$("$work/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
mkdir "$site/torch-2.9.0.dist-info"
printf 'Metadata-Version: 2.1\nName: torch\nVersion: 2.9.0\n' \
    > "$site/torch-2.9.0.dist-info/METADATA"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: --no-compile \
    lenskit==2025.8.1 pandas==2.3.3 pyarrow==23.0.1 numpy==2.4.6

cat > "$work/show.py" <<'PY'
import sys
from importlib.metadata import version
from unittest.mock import MagicMock

sys.modules["torch"] = MagicMock(Tensor=type("Tensor", (), {}))

import pandas as pd
from lenskit.data import from_interactions_df
from lenskit.splitting import LastFrac, SampleFrac, crossfold_users

print(*(f"{name} {version(name)}" for name in ("lenskit", "pandas", "pyarrow", "numpy")))
# User 1 has one row, user 2 two, and so on.
rows = [(user, item, item) for user in range(1, 13) for item in range(1, user + 1)]
log = from_interactions_df(pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"]))


def held_out(method):
    """For each user, how many rows are in test; the others are asserted to be in train."""
    answer = dict.fromkeys(range(1, 13), 0)
    for split in crossfold_users(log, 2, method, rng=1):
        left = split.train.interactions().pandas(ids=True)["user_id"].value_counts()
        for key, items in split.test:
            answer[int(key.user_id)] = len(items)
            assert len(items) + left.get(key.user_id, 0) == key.user_id
    print(f"{type(method).__name__:10} {method.fraction}: rows in test by rows of user {answer}")
    return list(answer.values())


assert held_out(SampleFrac(0.2, rng=1)) == [0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2]
assert held_out(LastFrac(0.2)) == [1, 2, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2]
assert held_out(SampleFrac(0.1, rng=1)) == [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1]
assert held_out(LastFrac(0.1)) == [1, 2, 3, 4, 5, 1, 1, 1, 1, 1, 1, 1]
PY
"$work/venv/bin/python" "$work/show.py" 2> "$work/log" || { cat "$work/log" >&2; exit 1; }
echo "as described"
