"""What an evaluation measures and how: plain values, the flags of models.evaluate."""

import dataclasses
from typing import Annotated

from features.config import Bounds, Flag, OneOf, check, require
from models.evaluation import protocols


@dataclasses.dataclass(frozen=True, kw_only=True)
class RetrievalConfig:
    """How retrieval is measured.

    Attributes:
        ks: Cut-offs of recall, ascending.
        exclude_watched: Never recommend what the query's watch bag holds. A label in it is then
            a miss, as it would be in production.
        list_size: Videos per query that coverage, mean age and MAP@k look at.
        ndcg: Whether NDCG is measured at the cut-offs too, as protocols of data sets have it.
    """

    ks: Annotated[tuple[int, ...], Bounds(ge=1)] = (10, 50, 100, 200, 500)
    exclude_watched: bool = False
    list_size: int = 100
    ndcg: bool = False

    def __post_init__(self) -> None:
        check(self)
        require(bool(self.ks), "ks", "be one or more numbers", self.ks)

    @property
    def main_k(self) -> int:
        """The cut-off that slices and the summary show: the one nearest to ``list_size``."""
        return min(self.ks, key=lambda k: (abs(k - self.list_size), k))


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is measured and how.

    Attributes:
        ks: Cut-offs of recall.
        exclude_watched: Whether what the user watched is left out of what is recommended; a holdout
            watch of such a video is then a miss.
        max_queries: Holdout watches that retrieval is measured on, drawn at random where there
            are more; 0 takes all. Cost is their number times the corpus, for each system.
        replicates: Resamples of users behind an interval.
        seed: Seed of the drawn queries, the resamples and the learned baselines.
        factorisation: Whether to fit matrix factorisations beside the other retrieval baselines:
            WARP, and ALS and BPR (the extra factorisation) where it is installed.
        live: Whether to measure popularity as of each query too. It sees what others watched
            in the holdout before the query, which the model and the other baselines do not.
        linear: Whether to train the linear ranking baseline.
        protocol: Protocol of a public data set, which then decides the cut-offs,
            ``exclude_watched`` and ``max_queries``; empty for none.
        gbdt: Whether to train gradient-boosted trees (the extra gbdt; left out with a note where it
            is not installed).
    """

    ks: Annotated[tuple[int, ...], Flag("k"), Bounds(ge=1)] = (10, 50, 100, 200, 500)
    exclude_watched: bool = False
    max_queries: Annotated[int, Bounds(ge=0)] = 20_000
    replicates: Annotated[int, Flag("bootstrap"), Bounds(ge=1)] = 1000
    seed: int = 0
    factorisation: bool = False
    live: bool = False
    linear: bool = True
    gbdt: bool = False
    protocol: Annotated[str, OneOf("", *protocols.PROTOCOLS)] = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "ks", tuple(sorted(set(self.ks))))
        check(self)
        require(bool(self.ks), "ks", "be one or more numbers", self.ks)
