import jax
import numpy as np
import pytest
from oracles.batches import padded, random_examples

from tl_jax.files.errors import WeightsError
from tl_jax.models import heads
from tl_jax.models.bert import Bert, BertConfig
from tl_jax.models.compose import (
    compose,
    flatten_paths,
    graft,
    init_from,
    unflatten_paths,
)
from tl_jax.models.word_vectors import WordVectors, WordVectorsConfig

WORDS = compose(
    WordVectors(WordVectorsConfig(9, embedding_size=4, hidden_size=3)),
    heads.Classify(2),
)
BATCH = padded(random_examples((3, 2), 9), 4)


@pytest.fixture
def params():
    return WORDS.init(jax.random.key(0), BATCH)


def test_word_vector_paths_are_those_of_the_documentation(params):
    assert {path: x.shape for path, x in flatten_paths(params).items()} == {
        "encoder/embedding/embedding": (9, 4),
        "encoder/lstm_0_forward/kernel": (4, 12),
        "encoder/lstm_0_forward/recurrent": (3, 12),
        "encoder/lstm_0_forward/bias": (12,),
        "encoder/lstm_0_backward/kernel": (4, 12),
        "encoder/lstm_0_backward/recurrent": (3, 12),
        "encoder/lstm_0_backward/bias": (12,),
        "head/output/kernel": (6, 2),
        "head/output/bias": (2,),
    }


def test_init_depends_on_the_key_and_on_shapes_only(params):
    other = padded(random_examples((4, 1), 9, seed=5), 4)
    again = WORDS.init(jax.random.key(0), other)
    jax.tree.map(np.testing.assert_array_equal, params, again)
    different = WORDS.init(jax.random.key(1), BATCH)
    for path, leaf in flatten_paths(params).items():
        if not path.endswith("bias"):
            assert (leaf != flatten_paths(different)[path]).any(), path


def test_no_two_kernels_are_drawn_alike():
    config = BertConfig(9, 8, 1, 2, 8, 6)
    model = compose(Bert(config), heads.Classify(8))
    leaves = flatten_paths(model.init(jax.random.key(0), BATCH))
    kernels = [x for x in leaves.values() if x.shape == (8, 8)]
    assert len(kernels) == 8
    for index, one in enumerate(kernels):
        assert all((one != other).any() for other in kernels[:index])


def test_training_needs_a_key(params):
    with pytest.raises(ValueError, match="pass a key"):
        WORDS.apply(params, BATCH, train=True)


def test_features_are_the_encoders(params):
    features = WORDS.features(params, BATCH)
    wanted = WORDS.encoder.apply({"params": params["encoder"]}, BATCH)
    for one, other in zip(*map(jax.tree.leaves, (features, wanted)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_graft_replaces_a_part_and_leaves_the_rest(params):
    loaded = jax.tree.map(lambda x: np.full(x.shape, 2, np.float32), params["encoder"])
    grafted = graft(params, encoder=loaded)
    assert all((x == 2).all() for x in jax.tree.leaves(grafted["encoder"]))
    jax.tree.map(np.testing.assert_array_equal, grafted["head"], params["head"])
    assert not (params["encoder"]["embedding"]["embedding"] == 2).any()


def test_graft_takes_a_part_of_a_part(params):
    table = {"embedding": np.full((9, 4), 3, np.float32)}
    grafted = graft(params, **{"encoder/embedding": table})
    assert (grafted["encoder"]["embedding"]["embedding"] == 3).all()
    for path, leaf in flatten_paths(params).items():
        if path != "encoder/embedding/embedding":
            np.testing.assert_array_equal(flatten_paths(grafted)[path], leaf)


def test_graft_copies_so_that_a_donated_step_leaves_the_weights(params):
    loaded = jax.tree.map(lambda x: x + 1, params["encoder"])
    grafted = graft(params, encoder=loaded)
    step = jax.jit(lambda p: jax.tree.map(lambda x: x * 2, p), donate_argnums=0)
    step(grafted["encoder"])
    assert all(not x.is_deleted() for x in jax.tree.leaves(loaded))


def test_graft_names_every_leaf_that_does_not_fit(params):
    leaves = flatten_paths(params["encoder"])
    del leaves["embedding/embedding"]
    leaves["lstm_0_forward/bias"] = np.zeros(7, np.float32)
    leaves["lstm_0_forward/scale"] = np.zeros(3, np.float32)
    with pytest.raises(WeightsError) as caught:
        graft(params, encoder=unflatten_paths(leaves), haed=params["head"])
    message = str(caught.value)
    assert "encoder/embedding/embedding: missing" in message
    assert "encoder/lstm_0_forward/bias: the weights have (7,)" in message
    assert "(12,)" in message
    assert "encoder/lstm_0_forward/scale: in the weights, not in the model" in message
    assert "haed: no such part. Did you mean 'head'?" in message


def test_graft_knows_parts_by_whole_names(params):
    with pytest.raises(WeightsError, match="enc: no such part"):
        graft(params, enc=params["encoder"])


def test_paths_go_there_and_back(params):
    leaves = flatten_paths(params)
    jax.tree.map(np.testing.assert_array_equal, unflatten_paths(leaves), params)


def test_init_from_draws_what_init_draws_and_takes_the_weights(params):
    loaded = jax.tree.map(lambda x: x + 1, params["encoder"])
    found = init_from(WORDS.init, jax.random.key(0), BATCH, encoder=loaded)
    jax.tree.map(np.testing.assert_array_equal, found["encoder"], loaded)
    jax.tree.map(np.testing.assert_array_equal, found["head"], params["head"])
    table = {"embedding": np.full((9, 4), 3, np.float32)}
    part = init_from(
        WORDS.init, jax.random.key(0), BATCH, **{"encoder/embedding": table}
    )
    grafted = graft(params, **{"encoder/embedding": table})
    jax.tree.map(np.testing.assert_array_equal, part, grafted)
    with pytest.raises(WeightsError, match="Did you mean 'head'"):
        init_from(WORDS.init, jax.random.key(0), BATCH, haed=params["head"])


def test_init_from_does_not_draw_what_is_replaced(params):
    drawn = []

    def record(table):
        drawn.append(table.shape)
        return table

    def init(key, batch):
        found = WORDS.init(key, batch)
        embedding = found["encoder"]["embedding"]
        table = embedding["embedding"]
        # A pure callback is left out of the program where nothing needs its result.
        embedding["embedding"] = jax.pure_callback(record, table, table)
        return found

    key = jax.random.key(0)
    jax.block_until_ready(init_from(init, key, BATCH, encoder=params["encoder"]))
    assert not drawn
    jax.block_until_ready(init_from(init, key, BATCH, head=params["head"]))
    assert drawn == [(9, 4)]
