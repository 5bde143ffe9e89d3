"""Tiny models, batches and streams that the tests of several rooms share."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tl_jax.data.examples import Examples, make_examples
from tl_jax.data.packing import Layout, pack
from tl_jax.metrics.sums import Ratio, Sums
from tl_jax.models.batch import Batch, mean_tokens
from tl_jax.models.bert import Bert, BertConfig
from tl_jax.models.compose import (
    Model,
    Params,
    compose,
    flatten_paths,
    unflatten_paths,
)
from tl_jax.models.dropout import dropout as drop
from tl_jax.models.dropout import token_noise
from tl_jax.models.heads import Classify
from tl_jax.models.word_vectors import WordVectors, WordVectorsConfig

# Compiler options that undo the tests' own (see conftest.py), for what depends on them.
AS_FOR_USERS = {
    "xla_backend_optimization_level": 3,
    "xla_cpu_use_fusion_emitters": True,
}
VOCABULARY, WIDTH, LENGTH, CLASSES = 50, 16, 16, 3


def tiny_bert(*, dropout: float = 0.1, **changes: Any) -> Model:
    """A Bert of 5,891 parameters with a head of three classes."""
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "num_layers": 2,
        "num_heads": 2,
        "intermediate_size": 32,
        "max_positions": LENGTH,
        "hidden_dropout": dropout,
        "attention_dropout": dropout,
    }
    return compose(
        Bert(BertConfig(**(sizes | changes))), Classify(CLASSES, dropout=dropout)
    )


def tiny_word_vectors(*, dropout: float = 0.1, **changes: Any) -> Model:
    """A biLSTM over word vectors, of 1,539 parameters."""
    sizes = {"vocab_size": VOCABULARY, "embedding_size": 8, "hidden_size": 8}
    config = WordVectorsConfig(**(sizes | {"dropout": dropout} | changes))
    return compose(WordVectors(config), Classify(CLASSES, dropout=dropout))


def random_examples(
    count: int,
    *,
    seed: int = 0,
    weights: np.ndarray | None = None,
    longest: int = LENGTH,
) -> Examples:
    """Examples of 3 … ``longest`` tokens; the label is told by the first one."""
    draw = np.random.default_rng(seed)
    lengths = draw.integers(3, longest + 1, count)
    tokens = [draw.integers(0, VOCABULARY, n) for n in lengths]
    types = [(np.arange(n) >= n // 2).astype(int) for n in lengths]
    labels = np.array([t[0] % CLASSES for t in tokens], np.int32)
    given = {} if weights is None else {"label": weights.astype(np.float32)}
    return make_examples(tokens, types, targets={"label": labels}, weights=given)


def padded(width: int = LENGTH) -> Layout:
    """One example a row, of one width."""
    return Layout(packed=False, max_length=width)


def uneven_batch(rows: int = 8, seed: int = 0) -> Batch:
    """A batch whose weight lies unevenly on its rows, some of which have none."""
    weights = np.resize([3.0, 0.25, 0.0, 0.0, 1.0, 1.0, 0.5, 7.0], rows)
    examples = random_examples(rows, seed=seed, weights=weights)
    return pack(examples, np.arange(rows), padded(), epochs=seed)


def drawn(model: Model, seed: int = 0, batch: Batch | None = None) -> Params:
    """Random parameters, biases and scales as well, so that every part is heard.

    Drawn by numpy in the shapes of the model's own, which compiles nothing. A model
    that reads more than tokens needs a batch that has it.
    """
    draw = np.random.default_rng(seed)
    batch = uneven_batch() if batch is None else batch
    shapes = jax.eval_shape(model.init, jax.random.key(0), batch)

    def values(path: str, shape: tuple[int, ...]) -> jax.Array:
        centre = 1.0 if path.endswith("scale") else 0.0
        return jnp.asarray(draw.normal(centre, 0.2, shape), jnp.float32)

    leaves = flatten_paths(shapes)
    return unflatten_paths({p: values(p, x.shape) for p, x in leaves.items()})


def bag_params(seed: int = 0) -> Params:
    """Parameters of `bag_loss`: an embedding of 50 × 4 and a layer of 4 × 3."""
    draw = np.random.default_rng(seed)
    table = draw.normal(0, 1, (VOCABULARY, 4)).astype(np.float32)
    kernel = draw.normal(0, 1, (4, CLASSES)).astype(np.float32)
    return {
        "encoder": {"embedding": {"embedding": jnp.array(table)}},
        "head": {"kernel": jnp.array(kernel), "bias": jnp.zeros(CLASSES)},
    }


def bag_loss(
    params: Params, batch: Batch, key: jax.Array | None = None, *, train: bool
) -> Sums:
    """Classifies the mean of dropped-out word vectors: compiles in no time."""
    vectors = params["encoder"]["embedding"]["embedding"][batch.tokens]
    if train and key is not None:
        vectors = drop(vectors, 0.2, token_noise(key, batch), 0)
    pooled = mean_tokens(vectors, batch)
    bias = params["head"]["bias"][None, None, :]
    logits = pooled @ params["head"]["kernel"] + bias
    labels, weights = batch.targets["label"], batch.weights["label"]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    right = (logits.argmax(axis=-1) == labels).astype(jnp.float32)
    weight = weights.sum()
    return {
        "loss": Ratio((weights * losses).sum(), weight),
        "accuracy": Ratio((weights * right).sum(), weight),
    }


def same_bits(left: Any, right: Any) -> bool:
    """True if two trees have the same leaves, bit by bit and in name."""
    a = jax.tree_util.tree_leaves_with_path(left)
    b = jax.tree_util.tree_leaves_with_path(right)
    return [p for p, _ in a] == [p for p, _ in b] and all(
        np.asarray(x).tobytes() == np.asarray(y).tobytes()
        for (_, x), (_, y) in zip(a, b, strict=True)
    )


def farthest(left: Any, right: Any) -> float:
    """The largest absolute difference between two trees of one structure."""
    distances = jax.tree.map(
        lambda x, y: float(np.max(np.abs(np.asarray(x) - np.asarray(y)), initial=0)),
        left,
        right,
    )
    return max(jax.tree.leaves(distances))
