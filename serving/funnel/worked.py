"""What a page was made of, for those who ask why it is as it is."""

import dataclasses

import numpy as np

from serving.funnel.candidates import Candidates
from serving.funnel.filters import Filters
from serving.live.state import Rates


@dataclasses.dataclass(frozen=True)
class Worked:
    """What a page was made of, for those who ask why it is as it is.

    Attributes:
        embedding: float32 [D + 1] of the viewer; None where there is none.
        filters: Filters, with what they held back.
        gathered: The n candidates.
        rates: How much they were watched at the moment of the page; None without live state.
        seconds: float32 [n], expected watch times, seconds; None on lower rungs.
        order: int [n], candidates, best first.
        chosen: int [k], candidates on the page, best first.
    """

    embedding: np.ndarray | None
    filters: Filters
    gathered: Candidates
    rates: Rates | None
    seconds: np.ndarray | None
    order: np.ndarray
    chosen: np.ndarray
