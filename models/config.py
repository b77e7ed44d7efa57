"""Settings of the models and their training: plain values that check themselves.

A default stands here once; the binaries quote it in their flags. Every saved model holds its
settings as ``config.json``.
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

SAMPLED, FULL, IN_BATCH, MIXED = "sampled", "full", "in_batch", "mixed"
HIERARCHICAL = "hierarchical"
CANDIDATE_LOSSES = (SAMPLED, FULL, IN_BATCH, MIXED, HIERARCHICAL)
EXACT, WEIGHTED, LOGISTIC = "exact", "weighted", "logistic"
RANKER_LOSSES = (EXACT, WEIGHTED, LOGISTIC)
SECONDS, RELATIVE = "seconds", "relative"
RANKER_TARGETS = (SECONDS, RELATIVE)
ADAM, ADAGRAD = "adam", "adagrad"
OPTIMIZERS = (ADAM, ADAGRAD)
MAX_DEPTH = 4
_SEEN_EXAMPLES = 4_000_000

_Config = TypeVar("_Config")


def _require(condition: bool, name: str, rule: str, value: object) -> None:  # noqa: FBT001
    if not condition:
        raise ValueError(f"{name} must {rule}, got {value!r}.")


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
        age_pieces: Number of pieces, each of as many training examples, of a piecewise-linear
            function of the example age that is fed too, so that the model can follow what was
            watched from day to day; 0: the value and its powers alone.
        video_content: Whether what the video's features say is added to its row of the softmax
            weights, so that a video the training never saw has an embedding too. False: the paper's
            rows.
        content_hidden: Units of a hidden ReLU layer over the video's features; 0: linear.
        id_dropout: Chance that a training step sees a video by its content alone, which is how
            unseen videos will be served. Only with ``video_content``.
        share_video_embedding: Whether watched videos and softmax rows share one table. False: two.
        popularity_bias: Whether the softmax biases start at the log of the label counts, plus one.
        recent_biases: Whether the biases are moved, after the training, by what was watched of
            late, as far as the holdout says that it helps; see
            :mod:`models.candidate.recent_biases`.
        normalise: Whether both embeddings are L2-normalised (cosine similarity); the bias stays.
        temperature: Divisor of the inner products, above 0.
        powers: Whether x^2 and sqrt(x) of continuous features are fed too. The paper does so in
            ranking.
        dropout: Share of hidden units dropped during training, in [0, 1).
        bag_dropout: Chance that a training step does not see a value of a query's bag, such as
            a watch, in [0, 1). It keeps the model from learning users by heart.
        exclude: Names of features that the model does not read, for ablations.
        loss: ``sampled``, ``full``, ``in_batch``, ``mixed`` (in-batch and sampled) or
            ``hierarchical``, which has no content of videos and cannot be indexed.
        negatives: S, sampled negatives per step, shared by the batch.
        sampler_power: Exponent of the negatives' weights, (label count + smoothing) ** power; 0:
            uniform.
        sampler_smoothing: Addend to each label count.
    """

    embedding_dim: int = 64
    depth: int = 2
    linear_output: bool = True
    item_to_item: bool = False
    spectral_start: bool = False
    age_pieces: int = 0
    video_content: bool = True
    content_hidden: int = 0
    id_dropout: float = 0.1
    share_video_embedding: bool = False
    popularity_bias: bool = True
    recent_biases: bool = False
    normalise: bool = False
    temperature: float = 1.0
    powers: bool = True
    dropout: float = 0.0
    bag_dropout: float = 0.0
    exclude: tuple[str, ...] = ()
    loss: str = SAMPLED
    negatives: int = 2048
    sampler_power: float = 1.0
    sampler_smoothing: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "exclude", tuple(self.exclude))
        _require(self.embedding_dim >= 1, "embedding_dim", "be 1 or more", self.embedding_dim)
        _require(0 <= self.depth <= MAX_DEPTH, "depth", f"be in [0, {MAX_DEPTH}]", self.depth)
        _require(self.age_pieces >= 0, "age_pieces", "be 0 or more", self.age_pieces)
        _require(self.content_hidden >= 0, "content_hidden", "be 0 or more", self.content_hidden)
        _require(0 <= self.id_dropout < 1, "id_dropout", "be in [0, 1)", self.id_dropout)
        _require(self.temperature > 0, "temperature", "be above 0", self.temperature)
        _require(0 <= self.dropout < 1, "dropout", "be in [0, 1)", self.dropout)
        _require(0 <= self.bag_dropout < 1, "bag_dropout", "be in [0, 1)", self.bag_dropout)
        _require(self.loss in CANDIDATE_LOSSES, "loss", f"be in {CANDIDATE_LOSSES}", self.loss)
        alone = not (self.normalise or self.share_video_embedding)
        _require(
            alone or self.loss != HIERARCHICAL,
            "loss",
            "not be hierarchical with normalise or share_video_embedding",
            self.loss,
        )
        _require(self.negatives >= 1, "negatives", "be 1 or more", self.negatives)
        _require(0 <= self.sampler_power <= 4, "sampler_power", "be in [0, 4]", self.sampler_power)
        _require(
            self.sampler_smoothing >= 0, "sampler_smoothing", "be 0 or more", self.sampler_smoothing
        )

    @property
    def hidden(self) -> tuple[int, ...]:
        """Widths of the ReLU layers, bottom first; () at depth 0."""
        return tuple(self.embedding_dim * 2**i for i in reversed(range(self.depth)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class RankerConfig:
    """Settings of the ranker (paper section 4).

    Attributes:
        hidden: Widths of the ReLU layers, bottom first; () is a linear model. The paper's best
            is 1024, 512, 256.
        towers: Number of such towers that are averaged, 1 or more; cost grows with it, and the loss
            varies less with the seed.
        loss: Loss of single impressions: ``exact`` (odds are expected watch time at any click
            rate), ``weighted`` (the paper's, for small click rates) or ``logistic`` (odds of a
            click).
        target: Weight of a click: ``seconds`` watched, or ``relative``, seconds in relation to
            videos of like duration, see :mod:`models.ranking.duration_target`.
        watch_cap_s: Watch seconds above it count as it; 0: no cap. Always seconds, also where
            the target is relative.
        powers: Whether x^2 and sqrt(x) of continuous features are fed too.
        pairwise: Weight, 0 or more, of the loss of pairs of impressions of one user beside the
            loss of single ones, see :func:`models.losses.same_user_pair_loss`. Where it is above
            0, the logit has a part that reads the query alone and is left out of the pairs, so
            that their loss does not pull at how long a user watches. The paper has neither.
        wide: Whether one weight for each id of the candidate's univalent features (video, channel,
            ...) is added to the logit, beside the tower: what a video itself is worth needs few
            examples then, where an embedding needs many.
        dropout: Share of hidden units dropped during training, in [0, 1).
        exclude: Names of features that the model does not read, for ablations.
    """

    hidden: tuple[int, ...] = (512, 256)
    towers: int = 1
    loss: str = EXACT
    target: str = SECONDS
    watch_cap_s: float = 0.0
    powers: bool = True
    pairwise: float = 0.3
    wide: bool = False
    dropout: float = 0.0
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(int(width) for width in self.hidden))
        object.__setattr__(self, "exclude", tuple(self.exclude))
        _require(all(w >= 1 for w in self.hidden), "hidden", "be widths of 1 or more", self.hidden)
        _require(self.towers >= 1, "towers", "be 1 or more", self.towers)
        _require(self.loss in RANKER_LOSSES, "loss", f"be in {RANKER_LOSSES}", self.loss)
        _require(self.target in RANKER_TARGETS, "target", f"be in {RANKER_TARGETS}", self.target)
        _require(
            (self.loss, self.target) != (LOGISTIC, RELATIVE),
            "target",
            f"be {SECONDS} with loss={LOGISTIC}, which reads no watch time",
            self.target,
        )
        _require(self.watch_cap_s >= 0, "watch_cap_s", "be 0 or more", self.watch_cap_s)
        _require(self.pairwise >= 0, "pairwise", "be 0 or more", self.pairwise)
        _require(0 <= self.dropout < 1, "dropout", "be in [0, 1)", self.dropout)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Settings of a training run, of either model.

    Attributes:
        epochs: Passes over the training examples at most; exactly so many without a holdout; 0:
            by the number of examples, see :meth:`fitted_to`.
        batch_size: B, examples per step; 0: by the number of examples, see :meth:`fitted_to`.
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
        stop_metric: Holdout metric that decides; "" is the model's own default.
        holdout_examples: Holdout examples looked at in a round, at most; 0: all.
        memory_gb: Training splits of up to this size are held in memory, larger ones streamed.
        mixed_precision: Whether layers of the candidate model multiply in bfloat16 while they are
            trained; weights, loss and softmax stay in float32, and so does what is saved.
    """

    epochs: int = 12
    batch_size: int = 0
    learning_rate: float = 0.001
    embedding_learning_rate: float = 0.0
    decay: bool = False
    optimizer: str = ADAM
    embedding_optimizer: str = ""
    clip_norm: float = 0.0
    seed: int = 1
    evaluations_per_epoch: int = 1
    patience: int = 3
    stop_metric: str = ""
    holdout_examples: int = 20_000
    memory_gb: float = 3.0
    mixed_precision: bool = False

    def __post_init__(self) -> None:
        rounds = self.evaluations_per_epoch
        _require(rounds >= 1, "evaluations_per_epoch", "be 1 or more", rounds)
        not_negative = ("embedding_learning_rate", "clip_norm", "holdout_examples", "memory_gb")
        for name in (*not_negative, "epochs", "patience", "batch_size", "seed"):
            _require(getattr(self, name) >= 0, name, "be 0 or more", getattr(self, name))
        _require(math.isfinite(self.clip_norm), "clip_norm", "be finite", self.clip_norm)
        _require(self.learning_rate > 0, "learning_rate", "be above 0", self.learning_rate)
        _require(
            self.embedding_optimizer in {"", *OPTIMIZERS},
            "embedding_optimizer",
            f"be in {OPTIMIZERS} or empty",
            self.embedding_optimizer,
        )
        _require(self.optimizer in OPTIMIZERS, "optimizer", f"be in {OPTIMIZERS}", self.optimizer)

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
CANDIDATE_TRAINING = TrainingConfig(epochs=0, patience=0, decay=True)
# The ranker has more examples than the candidate model, and its metrics need whole pages. The
# order within users is learnt last, when the learning rate is small, so all epochs are run.
RANKER_TRAINING = TrainingConfig(
    epochs=3, decay=True, holdout_examples=100_000, evaluations_per_epoch=2, patience=6
)


def to_json(configs: Mapping[str, Any]) -> str:
    """Returns config dataclasses by name as one JSON object."""
    plain = {name: dataclasses.asdict(config) for name, config in configs.items()}
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


def parse_widths(texts: Sequence[str]) -> tuple[int, ...]:
    """Returns layer widths from a flag: ["512", "256"] or, for a linear model, [] or ["none"].

    Raises:
        ValueError: A part is not a whole number.
    """
    words = [text.strip() for text in texts if text.strip()]
    if [word.lower() for word in words] in ([], ["none"]):
        return ()
    if not all(word.isdigit() for word in words):
        raise ValueError(f"hidden must be whole numbers such as 512,256, got {','.join(texts)!r}.")
    return tuple(int(word) for word in words)
