"""Settings of the models and their training: plain values that check themselves.

Each setting stands here once, with its default, bounds and meaning; the flags of the commands and
their help follow from it (:mod:`features.config_flags`). Every saved model holds its settings as
``config.json``.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from features.config import Bounds, Config, Flag, OneOf, Place, check, require

SAMPLED, FULL, IN_BATCH = "sampled", "full", "in_batch"
AVERAGE, ATTENTION = "average", "attention"
QUERY_ENCODERS = (AVERAGE, ATTENTION)
CANDIDATE_LOSSES = (SAMPLED, FULL, IN_BATCH)
EXACT, WEIGHTED, LOGISTIC = "exact", "weighted", "logistic"
RANKER_LOSSES = (EXACT, WEIGHTED, LOGISTIC)
ADAM, ADAGRAD = "adam", "adagrad"
OPTIMIZERS = (ADAM, ADAGRAD)
MAP, RECALL = "map_at_100", "recall_at_100"
CANDIDATE_STOP_METRICS = (MAP, RECALL)
OBJECTIVE, LOG_LOSS, PER_USER_LOSS = "objective", "log_loss", "per_user_loss"
RANKER_STOP_METRICS = (OBJECTIVE, LOG_LOSS, PER_USER_LOSS)
MAX_DEPTH = 4
_SEEN_EXAMPLES = 4_000_000

_Config = TypeVar("_Config")


_Count = Annotated[int, Bounds(ge=1)]
_CountOr0 = Annotated[int, Bounds(ge=0)]
_Weight = Annotated[float, Bounds(ge=0)]
_Share = Annotated[float, Bounds(ge=0, lt=1)]
_Rate = Annotated[float, Bounds(gt=0)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CandidateConfig:
    """Settings of the candidate model (paper section 3).

    Attributes:
        embedding_dim: D, width of query and video embeddings, and of the video and search-token
            input embeddings. 256 in the paper.
        depth: Hidden ReLU layers, 0 to 4. The last is D wide, each one below it twice as wide;
            depth 0 is one linear layer.
        linear_output: Whether a linear layer of width D stands on top of the ReLU layers. Without
            it the query embedding is the last ReLU's output, as in the paper, so never negative.
        item_to_item: Whether the embeddings of the watched videos themselves are added to the query
            embedding, newest first with learned weights, so that a video leads to the one that
            follows it. False: the paper's averages, all through the layers.
        spectral_start: Whether the embeddings of watched videos and the softmax rows start from the
            factors of how often one follows another, see :mod:`models.candidate.spectral_start`;
            only with ``item_to_item``, and not where a warm start gives them.
        query_encoder: What else the query tower makes of the watches: ``average``, nothing, or
            ``attention``: what a question finds in them when it looks back at them in their order,
            see :mod:`models.candidate.attention`.
        attention_blocks: Number of blocks of self-attention; only with ``query_encoder=attention``.
        attention_heads: Number of heads of a block, a divisor of ``embedding_dim``.
        age_pieces: Number of pieces, each of as many training examples, of a piecewise-linear
            function of the example age that is fed too, so that the model can follow what was
            watched from day to day; 0: the value and its powers alone.
        video_content: Whether what the video's features say is added to its row of the softmax
            weights, so that a video the training never saw has an embedding too. False: the paper's
            rows.
        id_dropout: Chance that a training step sees a video by its content alone, which is how
            unseen videos will be served. Only with ``video_content``.
        vector_id_dropout: Chance likewise where videos have a vector: it says enough to do without
            the id, if the model has learnt to.
        popularity_bias: Whether the softmax biases start at the log of the label counts, plus one.
        recent_biases: Whether the biases are moved, after the training, by what was watched of
            late, as far as the holdout says that it helps; see
            :mod:`models.candidate.recent_biases`.
        powers: Whether x^2 and sqrt(x) of continuous features are fed too. The paper does so in
            ranking.
        dropout: Share of hidden units dropped during training, in [0, 1).
        bag_dropout: Chance that a training step does not see a value of a query's bag, such as
            a watch, in [0, 1). It keeps the model from learning users by heart.
        exclude: Names of features that the model does not read, for ablations.
        loss: What the softmax is over: ``sampled`` negatives, the ``full`` vocabulary, or
            ``in_batch`` labels.
        negatives: S, sampled negatives per step, shared by the batch.
        sampler_power: Exponent of the negatives' weights, (label count + smoothing) ** power; 1:
            as often as they are labels, 0: uniform.
        sampler_smoothing: Addend to each label count.
    """

    embedding_dim: _Count = 64
    depth: Annotated[int, Bounds(ge=0, le=MAX_DEPTH)] = 2
    linear_output: bool = True
    item_to_item: bool = False
    spectral_start: bool = False
    query_encoder: Annotated[str, OneOf(*QUERY_ENCODERS)] = AVERAGE
    attention_blocks: _Count = 1
    attention_heads: _Count = 4
    age_pieces: _CountOr0 = 0
    video_content: bool = True
    id_dropout: _Share = 0.1
    vector_id_dropout: _Share = 0.4
    popularity_bias: bool = True
    recent_biases: bool = False
    powers: bool = True
    dropout: _Share = 0.0
    bag_dropout: _Share = 0.0
    exclude: tuple[str, ...] = ()
    loss: Annotated[str, OneOf(*CANDIDATE_LOSSES)] = SAMPLED
    negatives: _Count = 2048
    sampler_power: Annotated[float, Bounds(ge=0, le=4)] = 1.0
    sampler_smoothing: _Weight = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "exclude", tuple(self.exclude))
        check(self)
        require(
            self.query_encoder != ATTENTION or self.embedding_dim % self.attention_heads == 0,
            "attention_heads",
            f"divide embedding_dim={self.embedding_dim}",
            self.attention_heads,
        )

    @property
    def hidden(self) -> tuple[int, ...]:
        """Widths of the ReLU layers, bottom first; () at depth 0."""
        return tuple(self.embedding_dim * 2**i for i in reversed(range(self.depth)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class RankerConfig:
    """Settings of the ranker (paper section 4).

    Attributes:
        hidden: Widths of the ReLU layers, bottom first; none: a linear model. The paper's best
            is 1024, 512, 256.
        loss: Loss of single impressions: ``exact`` (exp(x), the odds, is expected watch time at
            any click rate), ``weighted`` (the paper's, for click rates near 0) or ``logistic``
            (odds of a click, from clicks alone).
        watch_cap_s: Watch seconds above it count as it; 0: no cap.
        powers: Whether x^2 and sqrt(x) of continuous features are fed too.
        pairwise: Weight, 0 or more, of the loss of pairs of impressions of one user beside the
            loss of single ones, see :func:`models.losses.same_user_pair_loss`. Where it is above
            0, the logit has a part that reads the query alone and is left out of the pairs, so
            that their loss does not pull at how long a user watches. The paper has neither.
        dropout: Share of hidden units dropped during training, in [0, 1).
        exclude: Names of features that the model does not read, for ablations.
    """

    hidden: Annotated[tuple[int, ...], Bounds(ge=1)] = (512, 256)
    loss: Annotated[str, OneOf(*RANKER_LOSSES)] = EXACT
    watch_cap_s: _Weight = 0.0
    powers: bool = True
    pairwise: _Weight = 0.3
    dropout: _Share = 0.0
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(int(width) for width in self.hidden))
        object.__setattr__(self, "exclude", tuple(self.exclude))
        check(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig(Config):
    """Settings of a training run, of either model.

    Attributes:
        epochs: Passes over the training examples at most; exactly so many without a holdout; 0:
            4 to 20, by the number of examples (:meth:`fitted_to`).
        warm_epochs: Passes at most after a warm start, over the examples that the older model has
            not learnt and some that it has.
        warm_older: Examples that the older model has learnt, for each that it has not, which are
            gone over again after a warm start; 1000: all there are.
        warm_keep: Share of an older candidate model's video embeddings that is kept at a warm
            start, in [0, 1]; the rest is where a new one would start, see ``spectral_start``.
        warm_least: Training examples below which a model starts anew where that is allowed
            (``or_cold``): it costs little more, and few steps do not take an old one far.
        batch_size: B, examples per step; 0: 64 to 1024, by the number of examples.
        learning_rate: Learning rate of dense weights, above 0.
        embedding_learning_rate: Learning rate of embedding tables, whose rows see few steps; 0:
            that of dense weights.
        decay: Whether learning rates fall to 0 in a straight line over all epochs.
        optimizer: Optimizer of dense weights, ``adam`` or ``adagrad``.
        embedding_optimizer: Optimizer of embedding tables, ``adam`` or ``adagrad``; "": that of
            dense weights. Rows that a step does not touch cost nothing with either; ``adagrad``
            needs two thirds of the memory.
        clip_norm: Largest global norm of the gradients, over all weights and workers, to which
            longer ones are scaled; 0: no clipping.
        seed: Seed of weights, order of examples, negatives and dropout.
        evaluations_per_epoch: Rounds that an epoch is cut into; each ends with a look at the
            holdout and a checkpoint.
        patience: Rounds without a better holdout metric before training stops; 0: half of the
            epochs, at least 3.
        stop_metric: Holdout metric that decides which weights are best; ``objective`` is the
            training loss of the ranker, pairs included. Empty: that of the model, which is recall
            of a candidate model, MAP where there are up to 200 videos.
        holdout_examples: Holdout examples looked at in a round, at most; 0: all.
        memory_gb: Training splits of up to this size are held in memory, larger ones streamed.
    """

    epochs: _CountOr0 = 12
    warm_epochs: _Count = 4
    warm_older: _Weight = 1.0
    warm_keep: Annotated[float, Bounds(ge=0, le=1)] = 0.5
    warm_least: _CountOr0 = 0
    batch_size: _CountOr0 = 0
    learning_rate: _Rate = 0.001
    embedding_learning_rate: _Weight = 0.0
    decay: bool = False
    optimizer: Annotated[str, OneOf(*OPTIMIZERS)] = ADAM
    embedding_optimizer: Annotated[str, OneOf("", *OPTIMIZERS)] = ""
    clip_norm: _Weight = 0.0
    seed: _CountOr0 = 1
    evaluations_per_epoch: _Count = 1
    patience: _CountOr0 = 3
    stop_metric: str = ""
    holdout_examples: _CountOr0 = 20_000
    memory_gb: _Weight = 3.0

    def fitted_to(self, num_examples: int) -> "TrainingConfig":
        """Returns the settings with what is 0 ("by the number of examples") chosen.

        The batch size is the power of two that makes about 64 steps of an epoch, within 64 and
        1024: a small data set would otherwise be over after a handful of steps, and early
        stopping would judge a model that has hardly moved. For the same reason a small data set
        is gone over more often: the model sees about four million examples, in 4 to 20 epochs.

        Args:
            num_examples: Number of training examples, 1 or more.
        """
        suited = 2 ** round(math.log2(max(num_examples, 1) / 64)) if num_examples > 64 else 64
        epochs = self.epochs or min(max(round(_SEEN_EXAMPLES / max(num_examples, 1)), 4), 20)
        return dataclasses.replace(
            self,
            batch_size=self.batch_size or min(max(int(suited), 64), 1024),
            epochs=epochs,
            # Learning rates fall to the end, and with them the noise: the last rounds are the best.
            patience=self.patience or max(3, epochs // 2),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class WarmStart(Config):
    """An older model to start from, see :mod:`models.training.warm_start`.

    Attributes:
        directory: Older model of the same kind: ids that its vocabularies have keep their rows, new
            ones start as new. Default: none.
        or_cold: Whether training starts anew where that model does not fit; it is an error
            otherwise.
    """

    directory: Annotated[pathlib.Path | None, Flag("warm_start"), Place("reads")] = None
    or_cold: Annotated[bool, Flag("warm_or_cold")] = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class RefitConfig(Config):
    """How a measured candidate model learns the newest before it serves.

    Attributes:
        epochs: Passes over all examples at most, 1 or more; never more steps than half of those
            of the first training, but one pass.
        learning_rate: Learning rate of all weights at the start, above 0; it falls to 0.
        newest_weight: Number of times that an example of the holdout counts, 1 or more: what is
            watched next is more like the newest days than like all days together.
        seed: Seed of new rows, the order of examples and the negatives.
    """

    epochs: _Count = 3
    learning_rate: _Rate = 0.001
    newest_weight: _Count = 7
    seed: _CountOr0 = 1


COLD = WarmStart()
# What models.train_candidate does by default. Width, half-empty bags and a falling learning rate
# were chosen on KuaiRand; depth, item-to-item part, its start and the pieces of the example age on
# a simulated site of 3,000 videos. docs/results/candidate.md has what they are worth.
CANDIDATE_MODEL = CandidateConfig(
    embedding_dim=128,
    depth=2,
    item_to_item=True,
    spectral_start=True,
    age_pieces=24,
    recent_biases=True,
    bag_dropout=0.5,
)
# After a warm start it goes over all again, so that the few newer examples are not learnt by heart.
CANDIDATE_TRAINING = TrainingConfig(
    epochs=0, patience=0, decay=True, warm_epochs=3, warm_older=1000.0
)
# The ranker has more examples than the candidate model, and its metrics need whole pages. The
# order within users is learnt last, when the learning rate is small, so all epochs are run. After a
# warm start a second pass makes it no better.
RANKER_TRAINING = TrainingConfig(
    epochs=3,
    warm_epochs=1,
    warm_older=3.0,
    warm_least=100_000,
    decay=True,
    holdout_examples=100_000,
    evaluations_per_epoch=2,
    patience=6,
    stop_metric=OBJECTIVE,
)


def to_json(configs: Mapping[str, Any]) -> str:
    """Returns config dataclasses, or the JSON values of saved ones, by name as one JSON object."""
    plain = {
        name: dict(config) if isinstance(config, Mapping) else dataclasses.asdict(config)
        for name, config in configs.items()
    }
    return json.dumps(plain, indent=1, sort_keys=True) + "\n"


def from_mapping(config_class: type[_Config], values: Mapping[str, Any]) -> _Config:
    """Makes a config from the JSON values of a saved one.

    Another version's are refused: its weights may mean something else.

    Raises:
        ValueError: Unknown or missing keys, or values that break a rule.
    """
    known = {field.name for field in dataclasses.fields(config_class)}  # type: ignore[arg-type]
    unknown, missing = sorted(set(values) - known), sorted(known - set(values))
    if unknown or missing:
        raise ValueError(
            f"{config_class.__name__} has the settings {sorted(known)}, got {unknown} besides, "
            f"and no {missing}."
        )
    return config_class(**values)
