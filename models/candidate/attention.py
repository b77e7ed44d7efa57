"""The watched videos read in their order: self-attention for the query tower.

An average of the bag forgets which video was watched last and what stood before it. Here each watch
is its video's embedding plus one of its place, newest first, and a question made of the newest
watch and of the tower's other inputs looks back at them:

    a_h = softmax over places of <q_h, W_h (x_p + place_p)>,   z = sum over heads of V_h sum a_h x_p

That is the last position of one block of a transformer, the only one that a query needs. Blocks
below it, if asked for, let watches look at each other first, as in SASRec.

In the top block no watch is multiplied by a matrix: <q, W x> = <W' q, x>, and V sum a x is V times
the sum. So its cost is that of reading the bag, once for each head.

Sources: Kang and McAuley, "Self-attentive sequential recommendation", ICDM 2018, for blocks and
places; Xiong et al., "On layer normalization in the transformer architecture", ICML 2020, for the
normalisation before each part. The question that knows the query's other inputs is ours.
"""

import tensorflow as tf
import tf_keras

from models.candidate import layers
from models.config import CandidateConfig

_STDDEV = 0.02
# What a masked place gets in place of its score: no weight is left of it, and no NaN either.
_HIDDEN = -1e9


class SequenceEncoder(tf_keras.layers.Layer):
    """Turns a query's watches, newest first, into one vector.

    Args:
        config: Settings of the candidate model: width of the embeddings, blocks, heads.
        places: Greatest number of watches.
        context: Width of the query's other inputs.
        seed: Seed of the initial weights.
    """

    def __init__(self, config: CandidateConfig, *, places: int, context: int, seed: int) -> None:
        super().__init__(name="sequence_encoder")
        width = config.embedding_dim
        normal = tf_keras.initializers.RandomNormal(stddev=_STDDEV, seed=seed)
        self.place_rows = self.add_weight(
            name="place_rows", shape=[places, width], initializer=normal
        )
        # Only the top one asks a single question; in the others each watch asks.
        self.blocks = [
            _Block(width, config.attention_heads, seed=seed + 10 * i, name=f"attention_block_{i}")
            for i in range(config.attention_blocks)
        ]
        self.question = layers.dense(width, seed=seed + 1, name="attention_question")
        self.question.build([None, context])
        # At zero: a model starts as one without the encoder, so from what its embeddings say.
        self.output_layer = tf_keras.layers.Dense(
            width, kernel_initializer="zeros", name="attention_output"
        )
        self.output_layer.build([None, width])

    def call(self, watches: tf.Tensor, known: tf.Tensor, context: tf.Tensor) -> tf.Tensor:
        """Returns one vector of each query, float32 [B, width].

        Args:
            watches: Embeddings of the watches, newest first, float32 [B, L, width].
            known: bool [B, L]; False is no watch, and nothing reads it.
            context: The query's other inputs, float32 [B, context].
        """
        there = tf.cast(known, tf.float32)[:, :, tf.newaxis]
        states = (watches + self.place_rows) * there
        for block in self.blocks[:-1]:
            states = block(states, states, known) * there
        newest = tf.cast(tf.cumsum(tf.cast(known, tf.int32), axis=1) == 1, tf.float32)
        newest *= there[:, :, 0]
        last = tf.linalg.matvec(states, newest, transpose_a=True)
        question = (last + self.question(context))[:, tf.newaxis]
        return self.output_layer(self.blocks[-1](question, states, known)[:, 0])


class _Block(tf_keras.layers.Layer):
    """Multi-head attention and two dense layers, each normalised before and added to its input."""

    def __init__(self, width: int, heads: int, *, seed: int, name: str) -> None:
        super().__init__(name=name)
        self._heads, self._width = heads, width
        self._norms = [
            tf_keras.layers.LayerNormalization(epsilon=1e-6, name=f"{name}_norm_{part}")
            for part in ("asked", "read", "dense")
        ]
        self._query, self._key, self._value, self._mix = (
            layers.dense(width, seed=seed + place, name=f"{name}_{part}", use_bias=False)
            for place, part in enumerate(("query", "key", "value", "mix"), start=2)
        )
        self._hidden = layers.dense(
            2 * width, seed=seed + 6, name=f"{name}_hidden", activation="relu"
        )
        self._out = layers.dense(width, seed=seed + 7, name=f"{name}_out")
        for layer in [*self._norms, self._query, self._key, self._value, self._mix, self._hidden]:
            layer.build([None, None, width])
        self._out.build([None, None, 2 * width])

    def call(self, question: tf.Tensor, read: tf.Tensor, known: tf.Tensor) -> tf.Tensor:
        """Returns what ``question``, float32 [B, A, width], makes of ``read``, [B, L, width].

        Args:
            question: What asks.
            read: What is looked at.
            known: bool [B, L], which of it there is.
        """
        question = question + self._attention(self._norms[0](question), self._norms[1](read), known)
        return question + self._out(self._hidden(self._norms[2](question)))

    def _attention(self, question: tf.Tensor, read: tf.Tensor, known: tf.Tensor) -> tf.Tensor:
        """Returns the heads' answers, mixed, float32 [B, A, width]."""
        size = self._width // self._heads
        queries = self._split(self._query(question))
        # One question reads cheapest unprojected, see the module; many read what is projected once.
        one = question.shape[1] == 1
        if one:
            keys = tf.reshape(self._key.kernel, [self._width, self._heads, size])
            scores = tf.einsum("bqhd,bld->bhql", tf.einsum("bqhs,dhs->bqhd", queries, keys), read)
        else:
            scores = tf.einsum("bqhs,blhs->bhql", queries, self._split(self._key(read)))
        scores = scores / size**0.5
        scores = tf.where(known[:, tf.newaxis, tf.newaxis], scores, _HIDDEN)
        # A query without any watch would share its weight among places that hold nothing.
        some = tf.cast(tf.reduce_any(known, axis=1), tf.float32)
        weights = tf.nn.softmax(scores) * some[:, tf.newaxis, tf.newaxis, tf.newaxis]
        if one:
            values = tf.reshape(self._value.kernel, [self._width, self._heads, size])
            pooled = tf.einsum("bhql,bld->bqhd", weights, read)
            answers = tf.einsum("bqhd,dhs->bqhs", pooled, values)
        else:
            answers = tf.einsum("bhql,blhs->bqhs", weights, self._split(self._value(read)))
        return self._mix(tf.reshape(answers, [*tf.unstack(tf.shape(question))[:2], self._width]))

    def _split(self, vectors: tf.Tensor) -> tf.Tensor:
        """Returns the parts of each head, [B, n, width] to [B, n, heads, width / heads]."""
        batch, number = tf.unstack(tf.shape(vectors))[:2]
        return tf.reshape(vectors, [batch, number, self._heads, self._width // self._heads])
