import random

import pyarrow as pa

from serving.funnel.viewer import Profiles

# Of one byte, of several, with a common beginning, and in no order.
IDS = ["b", "", "a", "é", "zz", "z", "😀", "ab", "B", "10", "9"]


def test_each_user_is_found_whatever_the_order_and_strangers_are_not():
    for seed in range(20):
        ids = random.Random(seed).sample(IDS, len(IDS))
        columns = {"user_id": ids, "age": [float(len(i)) for i in ids], "region": [None] * len(ids)}
        parts = [pa.table(columns).slice(start, 4) for start in (0, 4, 8)]
        profiles = Profiles(pa.concat_tables(parts))
        for user_id in ids:
            # What is not known of a user is not there.
            assert profiles.of(user_id) == {"age": float(len(user_id))}
        for stranger in ("c", "aa", "\x00", "zzz", "ÿ", "\ud800"):
            assert profiles.of(stranger) == {}


def test_a_release_that_knows_nobody_knows_no_stranger():
    assert Profiles(pa.table({"user_id": pa.array([], pa.string())})).of("u") == {}


class Watched(Profiles):
    """Counts the rows that are looked at."""

    looked = 0

    def _id(self, row):
        self.looked += 1
        return super()._id(row)


def test_a_stranger_is_told_by_a_handful_of_comparisons():
    profiles = Watched(pa.table({"user_id": [f"u{n}" for n in range(10_000)]}))
    assert profiles.of("u77 or so") == {}
    assert profiles.looked <= 16  # 2^14 > 10,000, and one to see that it is another.
