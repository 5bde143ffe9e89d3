from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tl_jax.data.examples import Examples, TokenInputs, make_examples
from tl_jax.data.packing import Layout, fit, pack, place
from tl_jax.files.errors import ConfigError, DataError

lengths_lists = st.lists(st.integers(1, 60), min_size=1, max_size=40)


def store_of(lengths: list[int]) -> Examples:
    """Examples whose every token, type and target tells where it belongs."""
    tokens = [[1000 * i + j for j in range(n)] for i, n in enumerate(lengths)]
    return make_examples(
        tokens,
        types=[[j % 2 for j in range(n)] for n in lengths],
        targets={
            "label": np.arange(len(lengths)) + 1,
            "score": np.ones((len(lengths), 2)),
        },
        token_targets={"tags": [[t + 1 for t in row] for row in tokens]},
        weights={"label": np.arange(len(lengths)) / 4},
        ids=np.arange(len(lengths)) + 500,
    )


def unpack(batch):
    """Reads a batch back by the definition of its fields, with plain loops."""
    found = {}
    rows, slots = batch.ids.shape
    for b in range(rows):
        for s in range(slots):
            at = np.flatnonzero(batch.example[b] == s + 1)
            if batch.ids[b, s] < 0:
                assert batch.ids[b, s] == -1
                assert len(at) == 0
                assert batch.epochs[b, s] == 0
                assert all(batch.weights[k][b, s] == 0 for k in ("label", "score"))
                assert batch.targets["label"][b, s] == 0
                continue
            assert (np.diff(at) == 1).all(), "tokens are contiguous"
            assert int(batch.ids[b, s]) not in found, "an example is laid once"
            found[int(batch.ids[b, s])] = (b, s, at)
    return found


@settings(max_examples=150, deadline=None)
@given(lengths_lists, st.booleans(), st.sampled_from([1, 2, 8]), st.data())
def test_every_example_once_and_all_aligned(lengths, packed, multiple, data):
    store = store_of(lengths)
    layout = Layout(
        packed=packed, max_length=60, narrowest=data.draw(st.sampled_from([16, 32, 60]))
    )
    indices = data.draw(st.permutations(range(len(lengths))))
    epochs = np.arange(len(lengths)) + 3
    batch = pack(store, indices, layout, epochs=epochs, rows_multiple_of=multiple)

    found = unpack(batch)
    assert sorted(found) == [500 + i for i in range(len(lengths))]
    assert batch.tokens.shape in layout.shapes(len(lengths), multiple)
    assert batch.tokens.shape[0] % multiple == 0
    assert (batch.weights["tags"] == (batch.example > 0)).all()
    for padding in (batch.tokens, batch.types, batch.positions, batch.targets["tags"]):
        assert (padding[batch.example == 0] == 0).all()
    for place_in_step, i in enumerate(indices):
        b, s, at = found[500 + i]
        np.testing.assert_array_equal(
            batch.tokens[b, at], 1000 * i + np.arange(lengths[i])
        )
        np.testing.assert_array_equal(batch.types[b, at], np.arange(lengths[i]) % 2)
        np.testing.assert_array_equal(batch.positions[b, at], np.arange(lengths[i]))
        np.testing.assert_array_equal(
            batch.targets["tags"][b, at], batch.tokens[b, at] + 1
        )
        assert batch.targets["label"][b, s] == i + 1
        assert batch.weights["label"][b, s] == np.float32(i / 4)
        assert batch.weights["score"][b, s] == 1
        assert batch.epochs[b, s] == epochs[place_in_step]


def test_leaves_are_int32_and_float32():
    batch = pack(store_of([3, 4]), [0, 1], Layout())
    for leaf in (batch.tokens, batch.types, batch.positions, batch.example, batch.ids):
        assert leaf.dtype == np.int32
    assert batch.targets["score"].dtype == batch.weights["label"].dtype == np.float32
    assert batch.targets["score"].shape == (*batch.ids.shape, 2)


def test_padded_is_one_example_a_row_in_given_order():
    batch = pack(store_of([3, 9, 4]), [2, 0], Layout(packed=False), batch_size=4)
    assert batch.tokens.shape == (4, 32)
    np.testing.assert_array_equal(batch.ids, [[502], [500], [-1], [-1]])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(8, 600), st.sampled_from([1, 3, 8]), st.data())
def test_shapes_are_bounded(batch_size, max_length, multiple, data):
    layout = Layout(
        max_length=max_length,
        narrowest=data.draw(st.sampled_from([None, 64, 96])),
        fewest_rows=data.draw(st.sampled_from([None, 1, 10, 1000])),
    )
    assert layout.widths[-1] == max(max_length, layout.widths[0])
    for width in layout.widths:
        counts = np.array(layout.row_counts(width, batch_size, multiple))
        assert (np.diff(counts) > 0).all()
        assert counts[-1] >= batch_size, "one row an example is always enough"
        assert (counts % multiple == 0).all()
        # Steps of an eighth: eight sizes up to 8, then at most eight a doubling.
        assert len(counts) <= 8 + 8 * np.ceil(max(0, np.log2(batch_size / 8)))
    padded = Layout(packed=False, max_length=max_length)
    assert len(padded.shapes(batch_size)) == len(padded.widths)


def test_place_wastes_little_where_lengths_allow():
    # 8 × 9, 8 × 4 and 8 × 3 fill 8 rows of 16 exactly if each row takes one of each.
    rows, slots, columns = place(np.repeat([4, 9, 3], 8), 16, 8)
    assert rows.max() == 7
    assert slots.max() == 2
    assert columns.max() == 13


def test_place_stops_at_the_slots_of_a_row():
    rows, slots, _ = place(np.ones(9, np.int64), 64, 4)
    assert slots.max() == 3
    assert np.bincount(rows).tolist() == [4, 4, 1]


def test_fit_beats_fixed_layouts_on_lengths_like_real_ones():
    rng = np.random.default_rng(1)
    lengths = np.clip(rng.gamma(4, 7, 4000).astype(int), 3, 78)  # much like MR
    store = store_of(lengths.tolist())
    steps = [rng.choice(4000, 32, replace=False) for _ in range(60)]

    def measure(layout):
        batches = [pack(store, step, layout, batch_size=32) for step in steps]
        shapes = [b.tokens.shape for b in batches]
        # The cost of the docstring's formula, over fresh steps.
        work = np.mean([rows * width * (1 + width / 1000) for rows, width in shapes])
        text = np.mean([b.mask.mean() for b in batches])
        return work * (1 + 0.03 * len(set(shapes))), len(set(shapes)), text

    fitted = fit(Layout(max_length=128), lengths, 32)
    assert fitted == fit(Layout(max_length=128), lengths, 32)
    cost, shapes, text = measure(fitted)
    assert shapes <= 5
    assert text > 0.9
    for narrowest in (None, 64, 128):
        assert cost < measure(Layout(max_length=128, narrowest=narrowest))[0]


def test_fit_keeps_what_is_set():
    lengths = np.arange(3, 60)
    assert fit(Layout(narrowest=48), lengths, 8).narrowest == 48
    assert fit(Layout(fewest_rows=3), lengths, 8).fewest_rows == 3
    assert fit(Layout(packed=False), lengths, 8) == Layout(packed=False)
    assert fit(Layout(), np.zeros(0, np.int64), 8) == Layout()


def test_what_cannot_be_laid_is_refused():
    store = store_of([3, 40, 50])
    with pytest.raises(
        DataError, match=r"2 examples .* of 32 tokens: example 501 has 40"
    ):
        pack(store, [0, 1, 2], Layout(max_length=32))
    with pytest.raises(DataError, match="no examples"):
        pack(store, [], Layout())
    with pytest.raises(ConfigError, match=r"3 examples .* batch of 2"):
        pack(store, [0, 1, 2], Layout(), batch_size=2)
    with pytest.raises(ConfigError, match="1 or more"):
        Layout(max_length=0)


@pytest.mark.parametrize("packed", [True, False])
def test_inputs_are_looked_up_for_every_token(packed):
    plain = store_of([3, 1, 5])
    rows = np.array([2, 0, 1, 1, 0, 0, 2, 2, 1])
    tables = {
        "characters": np.arange(6).reshape(3, 2),
        "states": np.linspace(1, 2, 12).reshape(3, 2, 2),
    }
    examples = replace(plain, inputs=TokenInputs(rows, tables))
    batch = pack(examples.subset([2, 1, 0]), [2, 0], Layout(packed, max_length=8))
    kinds = {name: x.dtype for name, x in batch.inputs.items()}
    assert kinds == {"characters": np.int32, "states": np.float32}
    for number, wanted in ((500, rows[:3]), (502, rows[4:])):
        row, slot = np.argwhere(batch.ids == number)[0]
        at = batch.example[row] == slot + 1
        for name, table in tables.items():
            np.testing.assert_allclose(batch.inputs[name][row][at], table[wanted])
    assert not any(x[~batch.mask].any() for x in batch.inputs.values())
    assert pack(plain, [0], Layout(packed)).inputs == {}
