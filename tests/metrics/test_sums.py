import math

import jax
import jax.numpy as jnp
import numpy as np

from tl_jax.metrics.sums import Ratio, add, mean


def ratio(total, weight):
    return Ratio(jnp.float32(total), jnp.float32(weight))


def test_parts_are_added_up_and_divided_once():
    """Four devices of means 8, 4, 1, 1 over 1, 1, 4, 4 tokens: 2.0, never 3.5."""
    weights = [1.0, 1.0, 4.0, 4.0]
    parts = [
        {"loss": ratio(value * w, w), "hits": ratio(w, 2 * w)}
        for value, w in zip([8.0, 4.0, 1.0, 1.0], weights, strict=True)
    ]
    whole = parts[0]
    for part in parts[1:]:
        whole = add(whole, part)
    assert mean(whole) == {"loss": 2.0, "hits": 0.5}
    assert np.mean([mean(part)["loss"] for part in parts]) == 3.5


def test_a_weight_of_zero_gives_nan():
    found = mean({"none": ratio(0.0, 0.0), "some": ratio(3.0, 2.0)})
    assert math.isnan(found["none"])
    assert found["some"] == 1.5


def test_host_arrays_are_divided_as_well():
    sums = jax.device_get({"loss": ratio(6.0, 4.0)})
    assert mean(sums) == {"loss": 1.5}
    assert type(mean(sums)["loss"]) is float


def test_sums_of_what_is_not_finite_stay_so():
    found = mean(add({"loss": ratio(jnp.nan, 1.0)}, {"loss": ratio(1.0, 1.0)}))
    assert math.isnan(found["loss"])
