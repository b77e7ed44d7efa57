"""Pages that are not all of one kind, and that try what nobody knows yet: after the order stands.

Both take candidates in their order, best first, and return another one; what follows behind the
page stays as it was.
"""

import zlib

import numpy as np

# Candidates that a page is chosen from, for each of its videos.
_DEPTH = 4
# Fresh videos that were shown fewer times than this are uncertain.
MOST_SHOWN = 200
# Of a Beta distribution: as if a new video had been shown so often, at the usual click rate.
_PRIOR_SHOWN = 20.0
_FIRST_PLACE = 2  # The best two stay where they are.


def diversified(order: np.ndarray, embeddings: np.ndarray, *, k: int, weight: float) -> np.ndarray:
    """Returns an order in which a video counts less the more it is like those above it.

        next = argmax (1 - weight) relevance_i - weight max_{j above} cos(v_i, v_j)

    Relevance is the place, from 1 for the first to 0 for the last that is looked at, so that any
    order can be made more diverse.

    Args:
        order: int [n], numbers of candidates, best first.
        embeddings: float32 [n, D], of the candidates by their numbers.
        k: Length of the page.
        weight: Weight of likeness, in [0, 1]; 0 returns the order.

    Source: Carbonell & Goldstein, SIGIR 1998, "The Use of MMR".
    """
    looked_at = order[: _DEPTH * k]
    if not weight or len(looked_at) < 2:
        return order
    norms = np.linalg.norm(embeddings[looked_at], axis=1, keepdims=True)
    vectors = embeddings[looked_at] / np.where(norms > 0, norms, 1.0)
    relevance = 1 - np.arange(len(looked_at)) / len(looked_at)
    score = (1 - weight) * relevance
    closest = np.full(len(looked_at), -np.inf)
    chosen: list[int] = []
    for _ in range(min(k, len(looked_at))):
        value = score - weight * np.where(np.isfinite(closest), closest, 0.0)
        value[chosen] = -np.inf
        best = int(np.argmax(value))
        chosen.append(best)
        closest = np.maximum(closest, vectors @ vectors[best])
    rest = np.setdiff1d(np.arange(len(looked_at)), chosen)
    return np.concatenate([looked_at[chosen], looked_at[rest], order[len(looked_at) :]])


def explored(
    order: np.ndarray,
    *,
    shown: np.ndarray,
    clicked: np.ndarray,
    is_fresh: np.ndarray,
    slots: int,
    k: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Gives some places of a page to fresh videos of which little is known.

        theta_i ~ Beta(a + clicked_i, b + shown_i - clicked_i)

    Those with the largest draw get the places: a video that nobody has seen may be the best, and
    one that was shown in vain drops out by itself (Thompson sampling).

    Args:
        order: int [n], numbers of candidates, best first.
        shown: How often each candidate was shown, float [n], by its number.
        clicked: How often it was clicked then, float [n].
        is_fresh: Whether it was uploaded lately, bool [n].
        slots: Number of places to give.
        k: Length of the page.
        rng: Source of chance.

    Returns:
        The order, int [n], and the candidates that got a place, int [<= slots].

    Source: Chapelle & Li, NeurIPS 2011, "An Empirical Evaluation of Thompson Sampling".
    """
    candidates = order[k - slots :] if slots else order[:0]
    uncertain = candidates[is_fresh[candidates] & (shown[candidates] < MOST_SHOWN)]
    if not len(uncertain) or k <= _FIRST_PLACE:
        return order, np.zeros(0, np.int64)
    rate = (clicked.sum() + 1) / (shown.sum() + 20)
    hits = np.minimum(clicked[uncertain], shown[uncertain])
    drawn = rng.beta(
        rate * _PRIOR_SHOWN + hits, (1 - rate) * _PRIOR_SHOWN + shown[uncertain] - hits
    )
    chosen = uncertain[np.argsort(-drawn, kind="stable")[:slots]]
    rest = order[~np.isin(order, chosen)]
    places = np.sort(rng.choice(np.arange(_FIRST_PLACE, max(k, 3)), len(chosen), replace=False))
    # Each goes in before what stands there by then.
    return np.insert(rest, np.minimum(places - np.arange(len(chosen)), len(rest)), chosen), chosen


def chance(user_id: str, now: int) -> np.random.Generator:
    """Returns the source of chance of a page: the same for a user in the same second."""
    return np.random.default_rng([zlib.crc32(user_id.encode("utf-8", "surrogatepass")), now])


def slots(k: int, share: float, rng: np.random.Generator) -> int:
    """Returns how many places of a page are explored: ``share`` of them on average."""
    return min(int(k * share + rng.random()), max(k - _FIRST_PLACE, 0))
