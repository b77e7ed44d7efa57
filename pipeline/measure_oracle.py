r"""Asks the truth of a simulated site where each of its late watches would have stood.

    python -m pipeline.measure_oracle --logs=logs --from=2022-05-14 --output=oracle.parquet

Writes user_id, time, video_id and rank (from 1) of completed watches, or of all: the rank of the
video among all, by the true distribution of the user's next such watch, given what came before it.
"""

import io

import pyarrow.parquet as pq
from absl import flags

from features import command, config_flags, files
from pipeline.site import benchmark as site_benchmark
from pipeline.site import truth as site_truth

_LOGS = config_flags.path("logs", "reads", "Simulated logs.", required=True)
_OUTPUT = config_flags.path("output", "writes", "Parquet file to write.", required=True)
_FROM = flags.DEFINE_string(
    "from", None, "First moment of the watches, ISO 8601 or Unix seconds.", required=True
)
_WATCHES = flags.DEFINE_integer("watches", 2_000, "Watches to draw, at most.", lower_bound=1)
_ALL = flags.DEFINE_bool("all", False, "Ask of all watches, not of completed ones alone.")
_SEED = flags.DEFINE_integer("seed", 0, "Draws them.")


def main() -> None:
    """Loads the truth, asks it and writes."""
    text = _FROM.value
    from_s = int(text) if text.isdigit() else command.parse_time(text, name="--from")
    truth = site_truth.Truth.load(_LOGS.value)
    table = site_benchmark.oracle_ranks(
        truth,
        _LOGS.value,
        from_s=from_s or 0,
        number=_WATCHES.value,
        is_completed=not _ALL.value,
        seed=_SEED.value,
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    files.atomic_write(_OUTPUT.value, buffer.getvalue())
    print(f"Wrote {_OUTPUT.value}: {table.num_rows:,} watches with the oracle's rank.")


if __name__ == "__main__":
    command.run(main)
