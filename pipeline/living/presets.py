"""Living sites to choose from: how large, how people come, and how a night's retraining goes.

The defaults of a retraining are for logs of weeks; here they are of a day at first. So the holdout
is hours and models are narrow, and as a day has few examples, they go over them more often: with 8
epochs of a thousand examples a candidate model of a day was still its start, and the gates said so.
"""

import dataclasses
import types
from collections.abc import Mapping

from features.durations import DAY_S, HOUR_S
from pipeline.living.config import LiveConfig
from pipeline.site.config import SiteConfig

# Days that the site has beyond those of a run: for experiments, and so that whoever watches at the
# end is not cut off.
_ROOM_DAYS = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset:
    """A living site.

    Attributes:
        site: The site; days and seed are those of the run.
        live: How people come, and how fast time runs.
        retrain: Flags of ``pipeline.retrain``.
    """

    site: SiteConfig
    live: LiveConfig
    retrain: tuple[str, ...]

    def of(self, *, days: int, seed: int, workers: int) -> "Preset":
        """Returns the site of a run."""
        site = dataclasses.replace(self.site, days=days + _ROOM_DAYS, seed=seed)
        return dataclasses.replace(
            self, site=site, live=dataclasses.replace(self.live, workers=workers)
        )


def _retrain(
    *, holdout_h: float, dim: int, candidate: str, hidden: str, ranker: str, order: int
) -> tuple[str, ...]:
    return (
        f"--preprocess_flags=--holdout_days={holdout_h * HOUR_S / DAY_S:g}",
        f"--candidate_flags=--embedding_dim={dim} --depth=1 {candidate}",
        f"--ranker_flags=--hidden={hidden} {ranker}",
        f"--order_flags=--watches={order}",
    )


PRESETS: Mapping[str, Preset] = types.MappingProxyType(
    {
        "tiny": Preset(
            site=SiteConfig(
                users=160, videos=260, channels=30, topics=8, feedback=1.0, back_catalogue=0.7,
                back_catalogue_days=14, life_hours=40.0,
            ),
            live=LiveConfig(visits_per_day=3.0, tick_s=600),
            retrain=_retrain(
                holdout_h=6, dim=16, candidate="--epochs=3", hidden="32", ranker="--epochs=2",
                order=60,
            ),
        ),
        "small": Preset(
            site=SiteConfig(
                users=1_000, videos=1_500, channels=100, topics=10, feedback=1.0,
                back_catalogue=0.5, back_catalogue_days=14, life_hours=40.0,
            ),
            live=LiveConfig(visits_per_day=2.5, tick_s=120, oracle_pages=1.0),
            retrain=_retrain(
                holdout_h=6, dim=32, candidate="--epochs=40", hidden="128,64",
                ranker="--epochs=8 --dropout=0.2", order=800,
            ),
        ),
        "medium": Preset(
            site=SiteConfig(
                users=3_000, videos=3_000, channels=200, topics=12, feedback=1.0,
                back_catalogue=0.5, back_catalogue_days=14, life_hours=40.0,
            ),
            live=LiveConfig(oracle_pages=1.0),
            retrain=_retrain(
                holdout_h=6, dim=48, candidate="--epochs=30", hidden="256,128",
                ranker="--epochs=6 --dropout=0.2", order=1_000,
            ),
        ),
    }
)  # fmt: skip
