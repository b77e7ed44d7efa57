"""Weighted draws out of many items that lie in a hierarchy of groups, and their exact chances.

Grouped items stand in the order of their groups, for instance topic, then language within the
topic, then niche. A stock gives each item a weight. A draw names a group at the finest level and
takes an item of it with probability weight / sum of weights; where the group has no weight it
falls back to the group one level up, at last to all items. One draw is a binary search, so
a million videos cost little more than a thousand.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np


def draw_columns(cumulative: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Draws column numbers by the weights of each row.

    Args:
        cumulative: float [n, K], running sums of the weights, above 0 at the end.
        uniform: float [n, m], in [0, 1).

    Returns:
        int64 [n, m], column numbers.
    """
    target = uniform * cumulative[:, -1:]
    columns = (target[:, :, None] >= cumulative[:, None, :]).sum(axis=2)
    return np.minimum(columns, cumulative.shape[1] - 1)


class GroupedItems:
    """Items in the order of their groups.

    Attributes:
        order: int64 [V], item at each place.
        sizes: Number of values of each level, coarse to fine.
    """

    def __init__(self, sizes: Sequence[int], digits: Sequence[np.ndarray]) -> None:
        """Sorts the items.

        Args:
            sizes: Number of values of each level, coarse to fine.
            digits: int [V] for each level, the value of each item.
        """
        self.sizes = tuple(sizes)
        key = self._keys(digits)
        self.order = np.argsort(key[-1], kind="stable")
        self._item_keys = key
        # For each level, the place where each group begins, and the end of the last.
        self._bounds = [
            np.searchsorted(level[self.order], np.arange(int(np.prod(sizes[: depth + 1])) + 1))
            for depth, level in enumerate(key)
        ]

    def _keys(self, digits: Sequence[np.ndarray]) -> list[np.ndarray]:
        keys, key = [], np.zeros((), np.int64)
        for size, digit in zip(self.sizes, digits, strict=True):
            key = key * size + digit
            keys.append(key)
        return keys

    def stock(self, weights: np.ndarray) -> "Stock":
        """Gives the items weights, float [V], 0 or above."""
        running = np.zeros(len(self.order) + 1)
        np.cumsum(weights[self.order], out=running[1:])
        masses = [running[bounds[1:]] - running[bounds[:-1]] for bounds in self._bounds]
        return Stock(items=self, weights=weights, running=running, masses=masses)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stock:
    """Grouped items with weights.

    Attributes:
        items: The items in the order of their groups.
        weights: float [V], weight of each item.
        running: float64 [V + 1], running sums in the order of the items.
        masses: float64 [groups] for each level, sums of the groups.
    """

    items: GroupedItems
    weights: np.ndarray
    running: np.ndarray
    masses: list[np.ndarray]

    def draw(
        self, rng: np.random.Generator, digits: Sequence[np.ndarray], *, strict: bool = False
    ) -> np.ndarray:
        """Draws one item for each wish.

        Args:
            rng: Source of randomness; one number per wish is taken.
            digits: int [...] for each level, coarse to fine: the wished group.
            strict: Whether a group at the first level that has no weight gives nothing.

        Returns:
            int64 [...], item, or -1 where there is none.
        """
        keys = self.items._keys(digits)
        low = np.zeros(keys[-1].shape, np.int64)
        high = np.full(keys[-1].shape, 0 if strict else len(self.items.order))
        for key, bounds, mass in zip(keys, self.items._bounds, self.masses, strict=True):
            has_some = mass[key] > 0
            low = np.where(has_some, bounds[key], low)
            high = np.where(has_some, bounds[key + 1], high)
        start, end = self.running[low], self.running[high]
        # Rounding must not lead past the last item that has weight.
        target = np.minimum(start + rng.random(low.shape) * (end - start), np.nextafter(end, 0))
        place = np.searchsorted(self.running, target, side="right") - 1
        items = self.items.order[np.clip(place, 0, len(self.items.order) - 1)]
        return np.where(end > start, items, -1)

    def spread(self, wishes: np.ndarray, *, strict: bool = False) -> np.ndarray:
        """Returns the chances of the items when a group is wished at random.

        Args:
            wishes: float [B, *sizes], probability of each group at the finest level.
            strict: Whether a group at the first level that has no weight gives nothing.

        Returns:
            float64 [B, V]; rows sum to what the wishes sum to, less what ``strict`` leaves out.
        """
        batch = len(wishes)
        wish = wishes.reshape(batch, -1).astype(np.float64)
        chances = np.zeros((batch, len(self.weights)))
        for depth in reversed(range(len(self.masses))):
            mass = self.masses[depth]
            has_some = mass > 0
            share = np.where(has_some, wish / np.where(has_some, mass, 1), 0)
            chances += share[:, self.items._item_keys[depth]]
            unmet = np.where(has_some, 0, wish)
            wish = unmet.reshape(batch, -1, self.items.sizes[depth]).sum(axis=2)
        if self.running[-1] > 0 and not strict:
            chances += wish / self.running[-1]
        return chances * self.weights
