"""Whether two servers give the same pages, of the same users at the same moment."""

import json
import math
import pathlib
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

PAGES = 1000
# Of logarithms of expected watch times, as for models as arrays against SavedModels.
TOLERANCE = 1e-4
_K = 20


def share(addresses: Sequence[str], users: pathlib.Path, *, pages: int = PAGES) -> dict[str, float]:
    """Returns how many pages were compared, how many are the same, and how many in one order.

    Of those that are the same, see :func:`is_same`, the expected watch times are, too.

    Args:
        addresses: HOST:PORT of two servers of one release, with the same history, whose clocks
            show the same moment.
        users: File with one user id per line.
        pages: Number of pages at most, one of each of some users, drawn with seed 1. Both servers
            record them, since not every commit can leave that: so nobody asks twice.
    """
    ids = users.read_text().split()
    chosen = np.random.default_rng(1).permutation(len(ids))[:pages]
    same = in_order = 0
    for number in chosen.tolist():
        ours, base = (_page(address, ids[number]) for address in addresses)
        same += is_same(ours, base)
        videos = [[item["video_id"] for item in page["items"]] for page in (ours, base)]
        in_order += videos[0] == videos[1]
    return {
        "funnel.compared_pages": len(chosen),
        "funnel.same_pages": same,
        "funnel.same_order_pages": in_order,
    }


def is_same(ours: Mapping[str, Any], base: Mapping[str, Any]) -> bool:
    """Whether two pages have the same rung and the same videos in the same order, but for ties.

    Videos whose logits differ by :data:`TOLERANCE` or less may stand in each other's place.
    """
    if ours["rung"] != base["rung"] or len(ours["items"]) != len(base["items"]):
        return False
    return all(map(_is_same_place, ours["items"], base["items"]))


def _is_same_place(ours: Mapping[str, Any], base: Mapping[str, Any]) -> bool:
    seconds = [item["expected_watch_time_s"] for item in (ours, base)]
    if not all(seconds):
        return bool(ours["video_id"] == base["video_id"] and seconds[0] == seconds[1])
    return abs(math.log(seconds[0]) - math.log(seconds[1])) <= TOLERANCE


def _page(address: str, user_id: str) -> dict[str, Any]:
    body: dict[str, Any] = {"user_id": user_id, "k": _K, "context": {"device": "phone"}}
    body["exclude_watched"] = True  # What is left out where nothing is said has changed.
    request = urllib.request.Request(
        f"http://{address}/v1/recommendations",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        page: dict[str, Any] = json.loads(answer.read())
    return page
