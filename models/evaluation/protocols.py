"""Protocols of public data sets, so that a figure can stand beside published ones.

A protocol fixes what is kept out of training, which holdout watches are queries, the cut-offs and
the metrics. What is kept out is decided when examples are made, so a protocol here refuses examples
that were made otherwise and says with which flags to make them.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from features import command
from features.durations import DAY_S


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
    """How figures of one data set are made.

    Attributes:
        ks: Cut-offs of recall and NDCG.
        holdout_days: Days that are kept out of training.
        until_s: End of the holdout, Unix seconds; None where the data set does not fix it.
        exclude_watched: Whether what the user has watched is no candidate.
        last_of_user: Whether only the last holdout watch of each user is a query.
        note: What the figures are, and what they are not.
        made_by: Command that makes the logs, and flags of preprocessing, for messages.
    """

    ks: tuple[int, ...]
    holdout_days: float
    until_s: int | None = None
    exclude_watched: bool = False
    last_of_user: bool = False
    note: str
    made_by: str


PROTOCOLS: Mapping[str, Protocol] = {
    "recflow": Protocol(
        ks=(50, 100, 500, 1000),
        holdout_days=1.0,
        until_s=1_708_272_000,  # 2024-02-18 ends at 16:00 UTC: days are China's.
        note="RecFlow: trained up to 2024-02-17, measured on 2024-02-18; a label is an effective "
        "view. Recall and NDCG are of each label, where the data set's own code averages over "
        "the labels of a request first",
        made_by="--until=2024-02-18T16:00:00 --holdout_days=1",
    ),
    "vk_lsvd": Protocol(
        ks=(10, 50, 100),
        holdout_days=7.0,
        until_s=1_735_689_600 + 27 * 7 * DAY_S,
        exclude_watched=True,
        note="VK-LSVD: trained up to week 25, measured on week 26; a label was liked, shared, "
        "bookmarked or watched to 80 %; a pair of user and video comes once, so what was watched "
        "is no candidate",
        made_by="--holdout_days=7",
    ),
    "movielens_leave_one_out": Protocol(
        ks=(10, 50, 200),
        holdout_days=1.0,
        exclude_watched=True,
        last_of_user=True,
        note="MovieLens, leave one out: the last rating of each user against all films but the "
        "50 rated last before it; published HR@k is recall_at_k, and leaves out all that were "
        "rated, or none. All other ratings are learnt from, those that lie after it among them, "
        "as in the published figures",
        made_by="import_dataset --leave_one_out, then the flags that it names",
    ),
}


def require_fit(name: str, info: Mapping[str, Any]) -> Protocol:
    """Returns a protocol that examples were made for.

    Args:
        name: A key of ``PROTOCOLS``.
        info: What preprocessing recorded of the examples.

    Raises:
        command.InputError: The examples keep other days out of training.
    """
    protocol = PROTOCOLS[name]
    until_s, train_until_s = int(info["until_s"]), int(info["train_until_s"])
    days = (until_s - train_until_s) / DAY_S
    # The end is that of the newest event where --until was not given.
    is_elsewhere = protocol.until_s is not None and not (
        protocol.until_s - DAY_S < until_s <= protocol.until_s
    )
    if abs(days - protocol.holdout_days) > 0.01 or is_elsewhere:
        raise command.InputError(
            f"--protocol={name} keeps the last {protocol.holdout_days:g} days out of training"
            f"{_until(protocol)}; these examples keep {days:g} days up to "
            f"{command.format_time(until_s)}. Make them with: {protocol.made_by}"
        )
    return protocol


def _until(protocol: Protocol) -> str:
    return "" if protocol.until_s is None else f" up to {command.format_time(protocol.until_s)}"
