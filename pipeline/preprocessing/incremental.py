"""A preprocessing run that replays only the days that its cache does not have.

The pieces are :mod:`pipeline.preprocessing.periods`, which days there are and what they depend on,
and :mod:`pipeline.preprocessing.example_cache`, which keeps their examples. Here they are put
together for one run.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping

import polars as pl
import pyarrow as pa
from absl import logging

from features import vectors
from features.spec import ResolvedSpec
from pipeline.preprocessing import example_generation, periods
from pipeline.preprocessing.config import PreprocessConfig
from pipeline.preprocessing.example_cache import ExampleCache, Raw
from pipeline.steps import fingerprints

# What history and catalogue read of the videos besides the features of origin "videos".
_VIDEO_COLUMNS = ("upload_time", "channel_id", "topics")


class IncrementalRun:
    """One run beside a cache.

    Args:
        config: Configuration with ``cache``.
        resolved: The data set's features.
        output: Directory of this run, with its clean ``videos`` and ``users``.
        until_s: End of the log, exclusive, Unix seconds.
        train_until_s: End of training, exclusive, Unix seconds.
    """

    def __init__(
        self,
        config: PreprocessConfig,
        resolved: ResolvedSpec,
        output: pathlib.Path,
        *,
        until_s: int,
        train_until_s: int,
    ) -> None:
        if config.cache is None:
            raise ValueError("an incremental run needs a cache.")
        self._config = config
        self._resolved = resolved
        self._output = output
        self._until_s = until_s
        self._cache = ExampleCache(pathlib.Path(config.cache), train_until_s=train_until_s)
        self._keys = self._cache.keys()
        self._settings = self._describe()
        self._made: list[periods.Period] = []
        self._all: list[periods.Period] = []

    def _describe(self) -> str:
        """Returns what examples depend on besides events, videos and users."""
        config = self._config
        return json.dumps(
            {
                "features": [dataclasses.asdict(f) for f in self._resolved.features],
                "feedback": self._resolved.feedback,
                "from_s": config.from_s,
                "examples_per_user": config.examples_per_user,
                "completed_only": config.completed_only,
                "seed": config.seed,
                "code": fingerprints.of_code(("features",)),
                "hashes": pl.__version__,
            }
        )

    def cached(self) -> example_generation.Cached:
        """Returns what replay is told."""
        origins = {"video_id": ("videos", _VIDEO_COLUMNS), "user_id": ("users", ())}
        entities = {}
        for key, (table, columns) in origins.items():
            read = [f.column for f in self._resolved.features if f.origin == table]
            read += [column for _, column in vectors.read_by(self._resolved.features, table)]
            if (self._output / table).exists():
                entities[key] = (str(self._output / table), (*columns, *dict.fromkeys(read)))
        return example_generation.Cached(
            digests=periods.Digests(entities, until_s=self._until_s),
            settings=self._settings,
            keys=self._keys,
        )

    def bring_in(self, raw: Raw) -> dict[str, int]:
        """After the replay: puts cached examples beside those just made.

        Returns:
            ``periods`` of the log, ``replayed`` ones of them, ``cached_examples`` of the others.
        """
        digests = periods.read_digests(self._output)
        self._all = periods.periods_of(digests, self._settings)
        self._made = [period for period in self._all if period.key not in self._keys]
        reused = [period for period in self._all if period.key in self._keys]
        config = self._config
        taken = self._cache.bring_in(
            reused, raw, self._resolved, most=config.examples_per_user, seed=config.seed
        )
        logging.info(
            "Replayed %d of %d days; %d examples of the others came from %s.",
            *(len(self._made), len(self._all), taken, config.cache),
        )
        return {"periods": len(self._all), "replayed": len(self._made), "cached_examples": taken}

    def keep(self, raw: Raw, schemas: Mapping[str, pa.Schema]) -> None:
        """Keeps what was made for later runs; called after the audit."""
        self._cache.keep(self._made, raw, schemas)
        self._cache.remove_outdated(self._all)
