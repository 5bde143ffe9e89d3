from dataclasses import replace

import numpy as np
import pytest

from tl_jax.data.examples import TokenInputs, concatenate, make_examples, ranges
from tl_jax.files.errors import DataError


def small():
    return make_examples(
        [[5, 6], [7], [8, 9, 10]],
        types=[[0, 1], [0], [0, 0, 1]],
        targets={"label": [1, 0, 2], "score": [[0.5, 1], [2, 3], [4, 5]]},
        token_targets={"tags": [[1, 2], [3], [4, 5, 6]]},
        weights={"label": [1, 0.5, 0]},
    )


def test_store_holds_what_was_given():
    store = small()
    assert len(store) == 3
    np.testing.assert_array_equal(store.tokens, [5, 6, 7, 8, 9, 10])
    np.testing.assert_array_equal(store.types, [0, 1, 0, 0, 0, 1])
    np.testing.assert_array_equal(store.lengths, [2, 1, 3])
    np.testing.assert_array_equal(store.ids, [0, 1, 2])
    assert store.targets["label"].dtype == np.int32
    assert store.targets["score"].dtype == np.float32
    np.testing.assert_array_equal(store.targets["tags"], [1, 2, 3, 4, 5, 6])


def test_subset_keeps_global_numbers_and_alignment():
    part = small().subset([2, 0])
    np.testing.assert_array_equal(part.ids, [2, 0])
    np.testing.assert_array_equal(part.tokens, [8, 9, 10, 5, 6])
    np.testing.assert_array_equal(part.offsets, [0, 3, 5])
    np.testing.assert_array_equal(part.targets["label"], [2, 1])
    np.testing.assert_array_equal(part.targets["tags"], [4, 5, 6, 1, 2])
    np.testing.assert_array_equal(part.weights["label"], [0, 1])
    assert len(small().subset([])) == 0


def test_concatenate_numbers_anew_and_fills_weights():
    other = make_examples(
        [[1]],
        targets={"label": [3], "score": [[6.0, 7]]},
        token_targets={"tags": [[9]]},
    )
    both = concatenate([small(), other])
    np.testing.assert_array_equal(both.ids, np.arange(4))
    np.testing.assert_array_equal(both.targets["label"], [1, 0, 2, 3])
    np.testing.assert_array_equal(both.weights["label"], [1, 0.5, 0, 1])
    np.testing.assert_array_equal(both.targets["tags"], [1, 2, 3, 4, 5, 6, 9])
    with pytest.raises(DataError, match="different targets"):
        concatenate([small(), make_examples([[1]])])
    with pytest.raises(DataError, match="nothing"):
        concatenate([])


def test_all_misfits_are_told_at_once():
    with pytest.raises(DataError) as caught:
        make_examples(
            [[1, 2], []],
            types=[[0], []],
            targets={"label": [1]},
            token_targets={"label": [[1, 2, 3], []]},
            weights={"nolabel": [1, 1]},
            ids=[-1, 0],
        )
    for told in (
        "example 1 has no tokens",
        "'types' has 1 entries for the 2 tokens of example 0",
        "targets 'label' has 1 entries for 2 examples",
        "token_targets 'label' has 3 entries for the 2 tokens",
        "no target for the weights 'nolabel'",
        "in targets and in token_targets",
        "must not be negative",
    ):
        assert told in str(caught.value)


def test_ranges_joins_aranges():
    starts, lengths = np.array([4, 0, 9]), np.array([2, 0, 3])
    np.testing.assert_array_equal(ranges(starts, lengths), [4, 5, 9, 10, 11])


def test_concatenated_inputs_keep_their_own_tables():
    parts = [
        replace(
            make_examples([[7, 8], [9]]),
            inputs=TokenInputs(np.array(rows), {"characters": np.array(table)}),
        )
        for rows, table in (([1, 0, 1], [[1], [2]]), ([0, 0, 2], [[3], [4], [5]]))
    ]
    inputs = concatenate(parts).inputs
    assert inputs is not None
    found = inputs.tables["characters"][inputs.index][:, 0]
    assert found.tolist() == [2, 1, 2, 3, 3, 5]
    with pytest.raises(DataError, match="different inputs"):
        concatenate([parts[0], make_examples([[1]])])
