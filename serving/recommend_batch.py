r"""Recommendations offline, with the models of the current release: Parquet in, Parquet out.

    python -m serving.recommend_batch --serving_root=serving_root --stage=retrieve \
        --queries=queries.parquet --k=100 --output=retrieved.parquet

    python -m serving.recommend_batch --serving_root=serving_root --stage=rank \
        --logs=logs --from=2022-05-05 --output=ranked.parquet

    python -m serving.recommend_batch --serving_root=serving_root --stage=page \
        --logs=logs --from=2022-05-05 --k=100 --output=pages.parquet

retrieve: one row of --queries is a user at a moment: query_id, time, watched_video_ids (list,
oldest first), optional watched_times (list), search_queries (list), user_id, and any column of
the users table or of the request (device). Writes query_id, rank (from 1), video_id, score.

rank: scores every impression of --logs from --from on, as of its own moment. Writes user_id,
video_id, time, page_id, clicked, watch_time_s, expected_watch_time_s, one row per impression.

page: runs the whole funnel over --logs in the order of time: before each watch from --from on it
recommends for that user with what was known then, then the watch happens. Videos of --logs that
the release does not have join its shelf when they are uploaded. A --from before the end of what
the release has learnt is refused: it would be judged on what it knows. Writes query_id, user_id,
time, watched_video_id, rank (from 1), video_id, sources; prints hit rates beside live popularity.
"""

import functools
import pathlib
import sys
import time
from collections.abc import Sequence

from absl import flags

from features import command
from serving.release import manifest as release
from serving.release import stored_root

_RETRIEVE, _RANK, _PAGE = "retrieve", "rank", "page"

_SERVING_ROOT = flags.DEFINE_string("serving_root", None, "Directory of releases.", required=True)
_STAGE = flags.DEFINE_enum("stage", None, [_RETRIEVE, _RANK, _PAGE], "What to do.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "Parquet file to write.", required=True)
_RELEASE = flags.DEFINE_string("release", None, "Version; default: the current one.")
_QUERIES = flags.DEFINE_string("queries", None, "retrieve: Parquet file of queries.")
_K = flags.DEFINE_integer("k", 100, "retrieve, page: videos per query.", lower_bound=1)
_CANDIDATES = flags.DEFINE_string(
    "candidates", None, "retrieve: Parquet file with a column video_id: only these videos."
)
_EXCLUDE_WATCHED = flags.DEFINE_bool(
    "exclude_watched",
    None,
    "Leave out what the query's user has watched. Default: retrieve no, page yes, but no where a "
    "tenth of the watches of the logs are repeats.",
)
_LOGS = flags.DEFINE_string("logs", None, "rank, page: directory of raw logs.")
_FROM = flags.DEFINE_string("from", None, "rank, page: first time to score, ISO 8601, UTC.")
_UNTIL = flags.DEFINE_string("until", None, "rank, page: first time not to read, ISO 8601, UTC.")
_SAMPLE = flags.DEFINE_integer(
    "sample",
    0,
    "page: ask for so many watches, spread over the time; all of them happen. 0 asks for all.",
    lower_bound=0,
)
_ALLOW_LEARNT = flags.DEFINE_bool(
    "allow_learnt",
    False,
    "page: ask for watches that the release has learnt, too. Figures are then too good.",
)
_WORKERS = flags.DEFINE_integer(
    "workers", 0, "page: processes; 0 for as many as there are processors and it pays.", 0
)


def main(argv: Sequence[str]) -> None:
    """Turns flags into arguments and hands over."""
    del argv
    started = time.monotonic()
    needed = {_RETRIEVE: {"queries": _QUERIES.value}, _RANK: {"logs": _LOGS.value}}
    needed[_PAGE] = {"logs": _LOGS.value, "from": _FROM.value}
    for name, value in needed[_STAGE.value].items():
        if not value:
            raise command.InputError(f"--stage={_STAGE.value} needs --{name}.")
    chosen = release.load(_root(), _RELEASE.value)
    run = {_RETRIEVE: _retrieve, _RANK: _rank, _PAGE: _page}[_STAGE.value]
    rows = run(chosen)
    seconds = time.monotonic() - started
    sys.stdout.write(
        f"Wrote {_OUTPUT.value}: {rows} rows by release {chosen.version} in {seconds:.0f} s.\n"
    )


@functools.cache
def _root() -> pathlib.Path:
    return stored_root.read(_SERVING_ROOT.value, _RELEASE.value)


def _retrieve(chosen: release.Release) -> int:
    from serving.batch import retrieval as batch_retrieval

    return batch_retrieval.retrieve(
        chosen,
        queries=pathlib.Path(_QUERIES.value),
        output=pathlib.Path(_OUTPUT.value),
        k=_K.value,
        candidates=pathlib.Path(_CANDIDATES.value) if _CANDIDATES.value else None,
        exclude_watched=bool(_EXCLUDE_WATCHED.value),
    )


def _rank(chosen: release.Release) -> int:
    from serving.batch import ranking as batch_ranking

    return batch_ranking.rank(
        chosen,
        logs_dir=pathlib.Path(_LOGS.value),
        output=pathlib.Path(_OUTPUT.value),
        from_s=command.parse_time(_FROM.value, name="--from"),
        until_s=command.parse_time(_UNTIL.value, name="--until"),
    )


def _page(chosen: release.Release) -> int:
    from serving.batch import backtest, past_funnel

    settings = past_funnel.BacktestConfig(
        from_s=command.parse_time(_FROM.value, name="--from") or 0,
        until_s=command.parse_time(_UNTIL.value, name="--until"),
        k=_K.value,
        sample=_SAMPLE.value,
        workers=_WORKERS.value,
        allow_learnt=_ALLOW_LEARNT.value,
        exclude_watched=_EXCLUDE_WATCHED.value,
    )
    outcome = backtest.run(
        chosen,
        serving_root=_root(),
        logs_dir=pathlib.Path(_LOGS.value),
        output=pathlib.Path(_OUTPUT.value),
        settings=settings,
    )
    sys.stdout.write(outcome.text)
    return outcome.rows


if __name__ == "__main__":
    command.run(
        main, reads=("queries", "candidates", "logs"), writes=("output",), itself=("serving_root",)
    )
