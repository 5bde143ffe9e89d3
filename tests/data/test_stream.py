import threading
import time

import jax
import numpy as np
import pytest

from tl_jax.data.examples import make_examples
from tl_jax.data.packing import Layout
from tl_jax.data.stream import TrainingStream, evaluation_batches, prefetch
from tl_jax.files.errors import ConfigError, DataError

LAYOUT = Layout(max_length=40, narrowest=64, fewest_rows=3)


def examples(count=50):
    rng = np.random.default_rng(0)
    tokens = [rng.integers(1, 99, n) for n in rng.integers(2, 40, count)]
    return make_examples(tokens, targets={"label": np.arange(count)})


def stream(**changes):
    options = {"batch_size": 8, "layout": LAYOUT, "seed": 3} | changes
    return TrainingStream(changes.pop("examples", None) or examples(), **options)


def seen(batch):
    return batch.ids[batch.ids >= 0].tolist()


def equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def test_each_example_once_an_epoch_and_the_tail_is_kept():
    data = stream()
    assert data.steps_per_epoch == 7
    orders = []
    for epoch in range(3):
        batches = [data.batch(epoch * 7 + k) for k in range(7)]
        assert [len(seen(b)) for b in batches] == [8] * 6 + [2]
        assert all((b.epochs[b.slots] == epoch).all() for b in batches)
        orders.append(np.concatenate([data.indices(epoch * 7 + k) for k in range(7)]))
        assert sorted(i for b in batches for i in seen(b)) == list(range(50))
        assert sorted(orders[-1]) == list(range(50))
    assert not (orders[0] == orders[1]).all()
    assert not (orders[1] == orders[2]).all()


def test_a_batch_is_a_pure_function_of_seed_and_step():
    one, two = stream(), stream()
    wanted = [one.batch(n) for n in range(15)]
    for n in reversed(range(15)):
        equal(two.batch(n), wanted[n])
    # A restart anywhere, into a fresh object, and the chain goes on as before.
    for start in range(15):
        fresh = stream()
        for n in range(start, min(start + 2, 15)):
            equal(fresh.batch(n), wanted[n])
    assert any(seen(stream(seed=4).batch(n)) != seen(wanted[n]) for n in range(3))


def test_neighbouring_seeds_do_not_share_epochs():
    # seed + epoch as the key would make (0, 1) and (1, 0) the same order.
    orders = {
        tuple(np.concatenate([data.indices(e * 7 + k) for k in range(7)]))
        for data in (stream(seed=s) for s in range(3))
        for e in range(3)
    }
    assert len(orders) == 9


def test_layout_and_devices_do_not_change_what_is_in_a_step():
    for n in (0, 6, 9):
        step = sorted(seen(stream().batch(n)))
        padded = stream(layout=Layout(packed=False, max_length=40)).batch(n)
        many = stream(rows_multiple_of=8).batch(n)
        assert sorted(seen(padded)) == sorted(seen(many)) == step
        assert many.tokens.shape[0] % 8 == 0


def test_shapes_of_training_are_among_those_promised():
    data = stream(layout=Layout(max_length=40))
    shapes = {data.batch(n).tokens.shape for n in range(14)}
    assert shapes <= set(data.fitted_layout.shapes(8))
    assert len(shapes) <= 4


def test_bad_options_are_refused():
    for wrong in ({"batch_size": 0}, {"seed": -1}, {"rows_multiple_of": 0}):
        with pytest.raises(ConfigError):
            stream(**wrong)
    with pytest.raises(ConfigError, match="step -1"):
        stream().indices(-1)
    with pytest.raises(DataError, match="no examples"):
        TrainingStream(make_examples([[1]]).subset([]), 8, Layout(), 0)


@pytest.mark.parametrize("packed", [True, False])
def test_evaluation_sees_each_example_once_in_few_shapes(packed):
    rng = np.random.default_rng(2)
    store = make_examples([[7] * n for n in rng.integers(2, 41, 333)])
    batches = list(
        evaluation_batches(store, 32, Layout(packed, 40), rows_multiple_of=2)
    )
    ids = [i for b in batches for i in seen(b)]
    assert sorted(ids) == list(range(333))
    assert len({b.tokens.shape for b in batches}) <= (1 if packed else 3)
    if packed:
        assert np.mean([b.mask.mean() for b in batches]) > 0.8
    assert list(evaluation_batches(store.subset([]), 32, Layout(packed, 40))) == []


def test_few_evaluation_batches_get_one_shape_though_they_need_various_rows():
    # 4 batches: the two with 3 examples of 30 need 3 rows of 32, the others need 2.
    store = make_examples([[7] * n for n in [30] * 10 + [2] * 6])
    layout = Layout(max_length=32, narrowest=32, fewest_rows=1)
    batches = list(evaluation_batches(store, 4, layout))
    assert sorted(int(b.mask.any(axis=1).sum()) for b in batches) == [2, 2, 3, 3]
    assert {b.tokens.shape for b in batches} == {(3, 32)}


def test_prefetch_gives_the_same_in_order():
    assert list(prefetch(lambda n: n * n, 3, 9)) == [9, 16, 25, 36, 49, 64]
    assert list(prefetch(lambda n: n, 5, 5)) == []


def alive():
    return [t for t in threading.enumerate() if t.name == "tl_jax-prefetch"]


def test_prefetch_raises_where_the_batch_was_due():
    def batch(n):
        if n == 2:
            raise DataError("step 2 is broken")
        return n

    items = prefetch(batch, 0, 5)
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(DataError, match="step 2"):
        next(items)
    assert not alive()


def test_prefetch_ends_its_thread_when_the_consumer_stops():
    called = []
    items = prefetch(lambda n: called.append(n) or n, 0, 10**9, depth=2)
    assert next(items) == 0
    items.close()
    assert not alive()
    assert len(called) < 10


def test_prefetch_works_ahead_of_the_consumer():
    called = []
    items = prefetch(lambda n: called.append(n) or n, 0, 10, depth=2)
    next(items)
    for _ in range(200):
        if len(called) >= 3:
            break
        time.sleep(0.01)
    assert len(called) in (3, 4)  # one given, two waiting, one in hand
    items.close()
