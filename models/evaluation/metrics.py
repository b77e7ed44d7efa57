"""Offline metrics of both stages: arrays in, numbers out. NumPy only, no model, no file.

Retrieval: rank every video of the corpus for a query, never a sample of it; the rank of the
label gives recall@k and mean average precision. Ranking: the paper's weighted, per-user loss
(section 4.3), AUC, XAUC, error and calibration of the expected watch time.

Metrics that need an interval come as *sums per user* (:class:`UserSums`), because users, not
rows, are what :mod:`models.evaluation.intervals` draws again.
"""

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from models.evaluation import pair_counts
from models.evaluation import repeat_bias as repeats

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
# Rows to leave out per query: a list of row arrays, or CSR (offsets [Q + 1], rows [nnz]).
Excluded = tuple[npt.NDArray[Any], npt.NDArray[Any]]
# Scores of one batch held at a time: 32M float32 are 128 MB.
_MAX_SCORES = 32_000_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class UserSums:
    """A metric as sum over users of ``numerator`` / sum over users of ``denominator``.

    Attributes:
        numerator: Numerator of each user, float64 [U].
        denominator: Denominator of each user, float64 [U], 0 for a user who has nothing to measure.
        pairwise: Whether rows were counted in pairs with those of OTHER users (AUC, XAUC): a user
            drawn twice changes both sides of a pair; see :mod:`models.evaluation.intervals`.
    """

    numerator: Floats
    denominator: Floats
    pairwise: bool = False

    @property
    def value(self) -> float:
        """The metric; NaN where nothing could be measured."""
        total = float(self.denominator.sum())
        return float(self.numerator.sum()) / total if total > 0 else float("nan")


def sums_by_user(
    values: npt.ArrayLike, user_codes: Ints, num_users: int, *, where: npt.ArrayLike | None = None
) -> UserSums:
    """Returns the mean of ``values`` over rows as sums per user.

    Args:
        values: Value of each row, float [n].
        user_codes: User of each row, int64 [n] in [0, num_users).
        num_users: U, number of users.
        where: bool [n], the rows that count (a slice); all rows by default.
    """
    used = np.ones(len(user_codes)) if where is None else np.asarray(where, np.float64)
    weighted = np.where(used > 0, np.asarray(values, np.float64), 0.0)
    return UserSums(
        numerator=_total(user_codes, weighted, num_users),
        denominator=_total(user_codes, used, num_users),
    )


def _total(codes: Ints, weights: npt.NDArray[Any], size: int) -> Floats:
    return np.bincount(codes, weights=weights, minlength=size).astype(np.float64)


def codes_of(ids: npt.ArrayLike) -> Ints:
    """Returns int64 [n], the same code for the same id, codes from 0 without gaps."""
    array = np.asarray(ids)
    if array.dtype.kind in "iu":
        return np.unique(array, return_inverse=True)[1].astype(np.int64)
    encoded = pa.array(array.tolist()).dictionary_encode(null_encoding="encode")
    return encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)


# ---- retrieval


def label_ranks(
    query_embeddings: npt.NDArray[Any],
    video_embeddings: npt.NDArray[Any],
    label_rows: npt.ArrayLike,
    *,
    batch: int = 1024,
    watched: npt.NDArray[np.int64] | None = None,
    repeat_bias: float = 0.0,
) -> Ints:
    """Ranks every video for every query by inner product; returns the rank of the label.

    Exact, over the full corpus. Ties are counted against the label (all videos with the same
    score stand before it), so a collapsed model that scores everything alike gets rank N.

    Args:
        query_embeddings: Query embeddings, float32 [Q, D].
        video_embeddings: Video embeddings, float32 [N, D].
        label_rows: int [Q], row of the label video; -1 where it is not in the corpus.
        batch: Queries per matrix product at most; less where N is large.
        watched: int64 [Q, L], rows that each query has watched; -1 is ignored.
        repeat_bias: Addend to their scores, see :mod:`models.evaluation.repeat_bias`.

    Returns:
        int64 [Q] from 1. N + 1, a miss, where the label is not in the corpus.
    """
    rows = np.asarray(label_rows, np.int64)
    videos = np.ascontiguousarray(video_embeddings.T)
    ranks = np.empty(len(rows), np.int64)
    step = query_batch_size(len(video_embeddings), batch)
    for start in range(0, len(rows), step):
        part = slice(start, min(start + step, len(rows)))
        scores = query_embeddings[part] @ videos
        if watched is not None:
            bags = watched[part]
            owner = np.repeat(np.arange(len(bags)), bags.shape[1])
            repeats.add_to(scores, owner, bags.ravel(), bias=repeat_bias)
        ranks[part] = score_ranks(scores, rows[part])
    return ranks


def query_batch_size(num_videos: int, batch: int = 1024) -> int:
    """Returns how many queries to score at once, so that one block of scores fits in memory."""
    return max(1, min(batch, _MAX_SCORES // max(1, num_videos)))


def score_ranks(
    scores: npt.NDArray[Any], label_rows: npt.ArrayLike, *, exclude: Excluded | None = None
) -> Ints:
    """Returns the rank of each label, int64 [Q], in a block of scores; see :func:`label_ranks`.

    Args:
        scores: float [Q, N]. Where ``exclude`` is given the excluded entries become -inf here.
        label_rows: Row of each label, int [Q], -1 where it is not in the corpus.
        exclude: Rows that may not be shown to a query (seen-filter), in one array, of query i from
            offset i to i + 1: int [Q + 1] and int [E]; -1 is ignored. An excluded label is a miss.

    Example:
        >>> score_ranks(np.array([[0.9, 0.1, 0.5], [0.9, 0.1, 0.5]]), [2, -1]).tolist()
        [2, 4]
    """
    rows = np.asarray(label_rows, np.int64)
    num_videos = scores.shape[1]
    misses = rows < 0
    if exclude is not None:
        offsets, excluded = exclude
        queries = np.repeat(np.arange(len(rows)), np.diff(offsets))[excluded >= 0]
        excluded = excluded[excluded >= 0]
        misses |= np.bincount(queries[excluded == rows[queries]], minlength=len(rows)) > 0
        scores[queries, excluded] = -np.inf
    label_scores = scores[np.arange(len(rows)), np.maximum(rows, 0)]
    # Not "scores >= label": a NaN must never look better than it is, for a video or the label.
    behind = np.count_nonzero(scores < label_scores[:, np.newaxis], axis=1)
    return np.where(misses, num_videos + 1, num_videos - behind).astype(np.int64)


def top_rows(scores: npt.NDArray[Any], k: int) -> Ints:
    """Returns int64 [Q, min(k, N)], the rows of the highest scores, best first.

    Example:
        >>> top_rows(np.array([[0.1, 0.9, 0.5]]), 2).tolist()
        [[1, 2]]
    """
    k = min(k, scores.shape[1])
    part = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    order = np.argsort(-np.take_along_axis(scores, part, axis=1), axis=1, kind="stable")
    return np.take_along_axis(part, order, axis=1).astype(np.int64)


def recall_at_k(ranks: npt.ArrayLike, k: int) -> float:
    """Returns the share of queries whose label is among the first k; NaN without queries.

    Example:
        >>> recall_at_k([1, 5, 101, 10], 10)
        0.75
    """
    hits = np.asarray(ranks) <= k
    return float(hits.mean()) if hits.size else float("nan")


def reciprocal_ranks(ranks: npt.ArrayLike, k: int | None = None) -> Floats:
    """Returns 1 / rank per query, 0 beyond rank k: the average precision of ONE relevant video.

    Example:
        >>> reciprocal_ranks([1, 4, 101], 100).tolist()
        [1.0, 0.25, 0.0]
    """
    array = np.asarray(ranks, np.float64)
    return np.where(array <= (np.inf if k is None else k), 1.0 / array, 0.0)


def discounted_gains(ranks: npt.ArrayLike, k: int) -> Floats:
    """Returns NDCG@k of queries with one label each, float64 [n]: 1 / log2(1 + rank) up to k.

    Args:
        ranks: int [n], rank of each label, 1 the best.
        k: Cut-off.

    Example:
        >>> discounted_gains([1, 3, 11], 10).tolist()
        [1.0, 0.5, 0.0]

    Source: Järvelin and Kekäläinen, TOIS 2002; with one label the ideal gain is 1.
    """
    ranks = np.asarray(ranks, np.float64)
    return np.where(ranks <= k, 1 / np.log2(1 + ranks), 0.0)


def mean_average_precision(ranks: npt.ArrayLike, k: int | None = None) -> float:
    """Returns the mean of 1 / rank, which is MAP (MAP@k) where each query has one label.

    Example:
        >>> mean_average_precision([1, 2, 4, 101], k=100)  # (1 + 1/2 + 1/4 + 0) / 4
        0.4375
    """
    values = reciprocal_ranks(ranks, k)
    return float(values.mean()) if values.size else float("nan")


# ---- ranking


def weighted_per_user_loss(  # noqa: PLR0917  The five columns of the definition, in its order.
    scores: npt.ArrayLike,
    clicked: npt.ArrayLike,
    watch_time_s: npt.ArrayLike,
    user_ids: npt.ArrayLike,
    page_ids: npt.ArrayLike,
) -> float:
    """Returns mispredicted watch time as a share of total watch time over impression pairs.

    A pair is one clicked and one unclicked impression shown to a user on a single page. Where
    the unclicked one has the higher score, the clicked one's watch time is mispredicted; equal
    scores count half. So 0 is perfect and 0.5 is chance.

    Example:
        >>> weighted_per_user_loss([3, 1, 2], [1, 1, 0], [30, 10, 0], 3 * ["u"], 3 * [1])  # 10 / 40
        0.25

    Args:
        scores: float [n], any scale, no NaN.
        clicked: Whether each impression was clicked, bool or 0/1 [n].
        watch_time_s: float [n], seconds, >= 0; only that of clicked impressions is read.
        user_ids: User of each impression, [n] ints, strings or bytes.
        page_ids: Page of each impression, [n] ints, strings or bytes; counts within its user only.

    Returns:
        Share in [0, 1]; NaN where no page has both a clicked and an unclicked impression.

    Raises:
        ValueError: A score or a watch time is not a number, or a watch time is negative.

    Source: Covington et al., RecSys 2016, section 4.3; ties counting half is ours.
    """
    users = codes_of(user_ids)
    return pair_loss_by_user(
        scores, clicked, watch_time_s, user_codes=users, page_ids=page_ids
    ).value


def pair_loss_by_user(
    scores: npt.ArrayLike,
    clicked: npt.ArrayLike,
    watch_time_s: npt.ArrayLike,
    *,
    user_codes: Ints,
    page_ids: npt.ArrayLike,
    num_users: int | None = None,
) -> UserSums:
    """Returns :func:`weighted_per_user_loss` as (mispredicted, total) watch seconds per user.

    O(n log n) whatever the page sizes. Arguments as there; ``user_codes`` int64 in [0, U).
    """
    is_click = np.asarray(clicked).astype(bool)
    watch = np.where(is_click, np.asarray(watch_time_s, np.float64), 0.0)
    if not (np.isfinite(watch).all() and (watch >= 0).all()):
        raise ValueError("watch_time_s must be finite and >= 0 for every clicked impression.")
    page_codes = codes_of(page_ids)
    groups = user_codes * (page_codes.max(initial=0) + 1) + page_codes
    ahead, equal, unclicked = pair_counts.unclicked_rivals(
        np.asarray(scores, np.float64), is_click, groups
    )
    size = int(user_codes.max(initial=-1)) + 1 if num_users is None else num_users
    return UserSums(
        numerator=_total(user_codes, watch * (ahead + 0.5 * equal), size),
        denominator=_total(user_codes, watch * unclicked, size),
    )


def auc(scores: npt.ArrayLike, clicked: npt.ArrayLike) -> float:
    """Returns the chance a clicked row outscores an unclicked one, ties half; NaN without both.

    Example:
        >>> auc([0.9, 0.8, 0.3, 0.1], [1, 0, 1, 0])  # 3 of 4 pairs
        0.75
    """
    return auc_by_user(scores, clicked).value


def auc_by_user(
    scores: npt.ArrayLike,
    clicked: npt.ArrayLike,
    *,
    user_codes: Ints | None = None,
    num_users: int = 1,
) -> UserSums:
    """Returns :func:`auc` as sums per user.

    Each row brings the number of rows of the other class, and the number of those that it is
    ordered rightly against: a pair counts from both of its ends, which leaves the ratio as it is.
    """
    score, is_click = np.asarray(scores, np.float64), np.asarray(clicked).astype(bool)
    everyone = np.zeros(len(score), np.int64)
    ahead, equal, unclicked = pair_counts.unclicked_rivals(score, is_click, everyone)
    behind, equal_clicks, clicks = pair_counts.unclicked_rivals(-score, ~is_click, everyone)
    right = np.where(
        is_click,
        unclicked - ahead - 0.5 * equal,
        clicks - behind - 0.5 * equal_clicks,
    )
    rivals = np.where(is_click, unclicked, clicks)
    return _pair_sums(right, rivals, user_codes=user_codes, num_users=num_users)


def xauc_by_user(
    predicted: npt.ArrayLike,
    watch_time_s: npt.ArrayLike,
    *,
    user_codes: Ints | None = None,
    num_users: int = 1,
) -> UserSums:
    """Returns the share of row pairs with different watch times that are ordered right, ties half.

    As sums per user, as :func:`auc_by_user` does; O(n log^2 n).

    Example:
        >>> xauc_by_user([3, 1, 2], [60, 10, 5]).value == 2 / 3  # Of 10 s and 5 s the wrong one
        True

    Source: Zhan et al., KDD 2022, "Deconfounding Duration Bias in Watch-time Prediction";
    all pairs, not a sample.
    """
    score = np.asarray(predicted, np.float64)
    target = np.asarray(watch_time_s, np.float64)
    if np.isnan(score).any() or np.isnan(target).any():
        raise ValueError("predicted and watch_time_s must not be NaN.")
    right = 0.5 * (
        pair_counts.smaller_in_both(score, target) + pair_counts.smaller_in_both(-score, -target)
    )
    _, inverse, counts = np.unique(target, return_inverse=True, return_counts=True)
    rivals = len(target) - counts[inverse]
    return _pair_sums(right, rivals, user_codes=user_codes, num_users=num_users)


def _pair_sums(
    right: npt.NDArray[Any],
    rivals: npt.NDArray[Any],
    *,
    user_codes: Ints | None,
    num_users: int,
) -> UserSums:
    codes = np.zeros(len(right), np.int64) if user_codes is None else user_codes
    return UserSums(
        numerator=_total(codes, right, num_users),
        denominator=_total(codes, rivals, num_users),
        pairwise=True,
    )


def calibration_bins(predicted: npt.ArrayLike, bins: int = 10) -> Ints:
    """Returns int64 [n] in [0, bins): the quantile bin of each prediction.

    Equal predictions share a bin, so that some bins may be empty.

    Example:
        >>> calibration_bins([0.1, 0.4, 0.2, 0.3], 2).tolist()
        [0, 1, 0, 1]
    """
    values = np.asarray(predicted, np.float64)
    if not values.size:
        return np.zeros(0, np.int64)
    edges = np.quantile(values, np.arange(1, bins) / bins)
    return np.searchsorted(edges, values, side="right").astype(np.int64)
