"""What our candidate generation would have said of logged impressions: sources and scores.

The funnel logs both with each impression, and the ranker reads them (paper section 4.1: "crucial
to propagate information from candidate generation into ranking"). A log of another recommender
has neither, or has numbers that mean something else. Here they are made afterwards as the funnel
makes them: the user as of the page's start, the inner product with each video shown, and whether
retrieval would have found it. A model that learnt from the very watches would know the answer, so
it is the caller who must see to it that the model has seen nothing from the page's start on.

Sources besides retrieval are not filled in: how popular, how live, how close to the user's
channels and topics a video was, the ranker reads as numbers anyway.
"""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf

from features import spec, tensors
from features.as_of.examples import Users, candidate_batch
from features.as_of.history import History
from features.as_of.replay import ReplayConfig, Replayer
from features.catalogue import Catalogue, combined
from features.spec import ResolvedSpec, Side
from models.candidate import youth
from serving.funnel import sources
from serving.index import exact_search
from serving.index.exact_search import Floats, Rows
from serving.servables import signatures

# As many as the funnel retrieves by default.
RETRIEVED = 250
_BATCH = 4096
_SOURCES, _SCORE, _RELEASE = COLUMNS = ("candidate_sources", "retrieval_score", "release_id")

Search = Callable[[Floats, int], tuple[Rows, Floats]]
Signature = Callable[..., Mapping[str, tf.Tensor]]


@dataclasses.dataclass(frozen=True)
class PastNominations:
    """Candidate generation of one model, asked about a log.

    Attributes:
        release_id: Release id that stands in the log for the model.
        replayer: Maker of what the query tower is asked.
        resolved: The model's features.
        catalogue: The log's videos.
        embed: Query tower: raw query side -> ``embedding``.
        embeddings: float32 [N, D + 1], of the catalogue's videos.
        search: Search of the model's index, as :meth:`serving.index.index.Index.search`.
    """

    release_id: str
    replayer: Replayer
    resolved: ResolvedSpec
    catalogue: Catalogue
    embed: Signature
    embeddings: Floats
    search: Search

    @classmethod
    def of_model(
        cls,
        release_id: str,
        saved_model: str,
        *,
        resolved: ResolvedSpec,
        catalogue: Catalogue,
        users: Users,
        search: Search | None = None,
    ) -> "PastNominations":
        """Opens both towers.

        Args:
            release_id: Release id that stands in the log for the model.
            saved_model: Directory of the towers, see
                :func:`serving.servables.export.export_query_tower`.
            resolved: Features that the model was trained on.
            catalogue: The log's videos.
            users: The log's users.
            search: Search of what retrieval would; None searches the catalogue, exactly.
        """
        loaded = tf.saved_model.load(saved_model)
        embeddings = _video_embeddings(
            loaded.signatures[signatures.EMBED_VIDEOS], resolved, catalogue
        )
        return cls(
            release_id=release_id,
            replayer=Replayer(
                ReplayConfig(train_until_s=0), resolved=resolved, catalogue=catalogue, users=users
            ),
            resolved=resolved,
            catalogue=catalogue,
            # The signature lives as long as what was loaded.
            embed=lambda _keep=loaded, **raw: _keep.signatures[signatures.DEFAULT](**raw),
            embeddings=embeddings,
            search=search or (lambda queries, k: exact_search.search(embeddings, queries, k)),
        )

    def filled(self, impressions: pa.Table, codes: Mapping[str, int], history: History) -> pa.Table:
        """Returns the impressions with nominations where our funnel logged none.

        Args:
            impressions: Impressions as from :func:`features.as_of.pages.with_pages`, users and
                times all there.
            codes: User id to code in ``history``.
            history: As-of history of these users; what comes after a page's start is not looked at.
        """
        parts = [
            self._filled(impressions.slice(start, _BATCH), codes, history)
            for start in range(0, impressions.num_rows, _BATCH)
        ]
        return pa.concat_tables(parts) if parts else with_columns(impressions)

    def _filled(
        self, impressions: pa.Table, codes: Mapping[str, int], history: History
    ) -> pa.Table:
        impressions = with_columns(impressions)
        missing = combined(pc.is_null(impressions[_RELEASE]))
        if not pc.any(missing).as_py():
            return impressions
        raw, page_of = self.replayer.page_queries(impressions, codes, history, model=spec.CANDIDATE)
        inputs = tensors.to_arrays(raw, self.resolved, spec.CANDIDATE, Side.QUERY)
        answer = self.embed(**{name: tf.constant(values) for name, values in inputs.items()})
        queries = np.asarray(answer["embedding"], np.float32)
        rows = self.catalogue.rows(impressions["video_id"])
        scores = np.einsum("nd,nd->n", queries[page_of], self.embeddings[np.maximum(rows, 0)])
        # A video without an embedding has no score, rather than an absurd one.
        has_none = (rows < 0) | (scores < signatures.UNREACHABLE_BIAS / 2)
        _, best = self.search(queries, min(RETRIEVED, len(self.embeddings)))
        is_retrieved = ~has_none & (scores >= best[page_of, -1])
        lists = pa.array([[], [sources.RETRIEVAL]], pa.list_(pa.string()))
        made = {
            _SOURCES: lists.take(pa.array(is_retrieved.astype(np.int64))),
            _SCORE: pa.array(scores.astype(np.float64), mask=has_none),
            _RELEASE: pa.array([self.release_id] * len(rows)),
        }
        for name, column in made.items():
            kept = combined(impressions[name])
            impressions = impressions.set_column(
                impressions.column_names.index(name), name, pc.if_else(missing, column, kept)
            )
        return impressions


def with_columns(impressions: pa.Table) -> pa.Table:
    """Returns the impressions with the three columns; what was not there is null."""
    types = (pa.list_(pa.string()), pa.float64(), pa.string())
    for name, dtype in zip(COLUMNS, types, strict=True):
        if name not in impressions.column_names:
            impressions = impressions.append_column(name, pa.nulls(impressions.num_rows, dtype))
        elif impressions[name].type != dtype:
            place = impressions.column_names.index(name)
            impressions = impressions.set_column(place, name, impressions[name].cast(dtype))
    return impressions


def _video_embeddings(embed: Signature, resolved: ResolvedSpec, catalogue: Catalogue) -> Floats:
    parts = []
    for start in range(0, len(catalogue), _BATCH):
        rows = np.arange(start, min(start + _BATCH, len(catalogue)), dtype=np.int32)
        raw = candidate_batch(resolved, spec.CANDIDATE, catalogue=catalogue, video_rows=rows)
        inputs = tensors.to_arrays(raw, resolved, spec.CANDIDATE, Side.CANDIDATE)
        answer = embed(**{name: tf.constant(values) for name, values in inputs.items()})
        arrays = {name: np.asarray(values) for name, values in answer.items()}
        parts.append(youth.with_bias(arrays, catalogue.upload_times[rows]))
    return np.concatenate(parts)
