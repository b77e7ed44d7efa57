r"""Who comes back: content users come more often, and those who are not stop coming.

    x   = (sum of satisfaction of the watches + empty_page x pages without a click)
          / (watches + pages without a click)                      what a visit was worth
    c  <- memory c + (1 - memory) x                                contentment, 0 at first
    visits per day     x exp(attachment c)
    P(stops coming after a visit) = loss (1 - c) / 2
    P(is back on a day)           = recovery

Satisfaction is that of :mod:`pipeline.site.satisfaction`, in (-1, 1). So a policy that brings what
people are glad of earns visits, and one that wastes their time loses users.
"""

import numpy as np

from pipeline.living.config import LiveConfig


class Returning:
    """What N users think of the site.

    Attributes:
        contentment: float64 [N], in (-1, 1).
        is_away: bool [N], whether each stopped coming.
        worth: float64 [N], sum over the visit that is on of what was watched and of empty pages.
        parts: int64 [N], number of these.
    """

    def __init__(self, config: LiveConfig, users: int) -> None:
        """Starts with users who think nothing yet."""
        self.contentment = np.zeros(users)
        self.is_away = np.zeros(users, bool)
        self.worth = np.zeros(users)
        self.parts = np.zeros(users, np.int64)
        self._config = config

    def watched(self, rows: np.ndarray, satisfaction: np.ndarray) -> None:
        """Takes in watches; ``rows`` int [n] may repeat, ``satisfaction`` float [n]."""
        np.add.at(self.worth, rows, satisfaction)
        np.add.at(self.parts, rows, 1)

    def saw_nothing(self, rows: np.ndarray) -> None:
        """Takes in pages of which nothing was clicked, int [n]."""
        np.add.at(self.worth, rows, self._config.empty_page)
        np.add.at(self.parts, rows, 1)

    def end_visit(self, rows: np.ndarray, rng: np.random.Generator) -> None:
        """Lets visits end, of ``rows`` int [n], which must not repeat."""
        config = self._config
        some = self.parts[rows] > 0
        worth = self.worth[rows] / np.maximum(self.parts[rows], 1)
        before = self.contentment[rows]
        after = np.where(some, config.memory * before + (1 - config.memory) * worth, before)
        self.contentment[rows] = after
        self.worth[rows], self.parts[rows] = 0.0, 0
        self.is_away[rows] |= rng.random(len(rows)) < config.loss * (1 - after) / 2

    def new_day(self, rng: np.random.Generator) -> None:
        """Lets some who stopped coming come again."""
        self.is_away &= rng.random(len(self.is_away)) >= self._config.recovery

    def eagerness(self) -> np.ndarray:
        """Returns the factor on the visits of each user, float64 [N]; 0 for who stopped coming."""
        wanted = np.exp(self._config.attachment * self.contentment)
        return np.where(self.is_away, 0.0, wanted)
