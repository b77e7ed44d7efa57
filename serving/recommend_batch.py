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

import dataclasses
import functools
import pathlib
import sys
import time

from absl import flags

from features import command, config_flags
from features.screen import progress
from serving.batch.config import BacktestConfig, ListConfig, PastConfig
from serving.funnel.page import FunnelConfig
from serving.release import manifest as release
from serving.release import stored_root

_RETRIEVE, _RANK, _PAGE = "retrieve", "rank", "page"

_SERVING_ROOT = config_flags.path("serving_root", "itself", "Directory of releases.", required=True)
_STAGE = flags.DEFINE_enum("stage", None, [_RETRIEVE, _RANK, _PAGE], "What to do.", required=True)
_OUTPUT = config_flags.path("output", "writes", "Parquet file to write.", required=True)
_RELEASE = flags.DEFINE_string("release", None, "Version; default: the current one.")
_QUERIES = config_flags.path("queries", "reads", "retrieve: Parquet file of queries.")
_CANDIDATES = config_flags.path(
    "candidates", "reads", "retrieve: Parquet file with a column video_id: only these videos."
)
_LOGS = config_flags.path("logs", "reads", "rank, page: directory of raw logs.")
_PAST = config_flags.define(PastConfig, of="rank, page")
_LIST = config_flags.define(ListConfig, of="retrieve, page")
_WIDTHS = {field.name for field in dataclasses.fields(FunnelConfig)} - {"order"}
_BACKTEST = config_flags.define(
    BacktestConfig, without={"from_s", "until_s", "k", "exclude_watched", *_WIDTHS}, of="page"
)


def main() -> None:
    """Turns flags into arguments and hands over."""
    started = time.monotonic()
    needed = {_RETRIEVE: {"queries": _QUERIES.value}, _RANK: {"logs": _LOGS.value}}
    needed[_PAGE] = {"logs": _LOGS.value, "from": _PAST.build().from_s}
    for name, value in needed[_STAGE.value].items():
        if value in {None, ""}:
            raise command.InputError(f"--stage={_STAGE.value} needs --{name}.")
    run = {_RETRIEVE: _retrieve, _RANK: _rank, _PAGE: _page}[_STAGE.value]
    with progress.shown("recommend_batch"):
        progress.at("opening the release")
        chosen = release.load(_root(), _RELEASE.value)
        rows, text = run(chosen)
    seconds = time.monotonic() - started
    text += f"Wrote {_OUTPUT.value}: {rows} rows by release {chosen.version} in {seconds:.0f} s.\n"
    sys.stdout.write(text)


@functools.cache
def _root() -> pathlib.Path:
    return stored_root.read(_SERVING_ROOT.value, _RELEASE.value)


def _retrieve(chosen: release.Release) -> tuple[int, str]:
    from serving.batch import retrieval as batch_retrieval

    config = _LIST.build()
    rows = batch_retrieval.retrieve(
        chosen,
        queries=pathlib.Path(_QUERIES.value),
        output=pathlib.Path(_OUTPUT.value),
        k=config.k,
        candidates=pathlib.Path(_CANDIDATES.value) if _CANDIDATES.value else None,
        exclude_watched=bool(config.exclude_watched),
    )
    return rows, ""


def _rank(chosen: release.Release) -> tuple[int, str]:
    from serving.batch import ranking as batch_ranking

    rows = batch_ranking.rank(
        chosen,
        logs_dir=pathlib.Path(_LOGS.value),
        output=pathlib.Path(_OUTPUT.value),
        **dataclasses.asdict(_PAST.build()),
    )
    return rows, ""


def _page(chosen: release.Release) -> tuple[int, str]:
    from serving.batch import backtest

    shared = dataclasses.asdict(_PAST.build()) | dataclasses.asdict(_LIST.build())
    outcome = backtest.run(
        chosen,
        serving_root=_root(),
        logs_dir=pathlib.Path(_LOGS.value),
        output=pathlib.Path(_OUTPUT.value),
        settings=_BACKTEST.build(**shared),
    )
    return outcome.rows, outcome.text


if __name__ == "__main__":
    command.run(main)
