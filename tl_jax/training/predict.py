"""A function of (params, batch) over a whole data set, each example exactly once."""

from collections.abc import Callable
from operator import itemgetter
from typing import Any

import jax
import numpy as np

from tl_jax.data.examples import Examples
from tl_jax.data.packing import Layout
from tl_jax.data.stream import evaluation_batches
from tl_jax.models.batch import Batch
from tl_jax.models.compose import Params
from tl_jax.training.placement import Placement
from tl_jax.training.signals import StopRequest

Predict = Callable[[Params, Examples, StopRequest | None], list[Any] | None]


def predictor(
    function: Callable[[Params, Batch], Any],
    placement: Placement,
    layout: Layout,
    batch_size: int,
    *,
    per_token: bool = False,
) -> Predict:
    """Makes ``predict(params, examples, stop)``, compiled once for all its calls.

    Args:
      function: Gives a tree of arrays with one entry an example slot, ``[B, S, …]``.
      placement: Devices and how they are used.
      layout: How examples are laid into rows.
      batch_size: Examples at a time.
      per_token: The entries are one a token, ``[B, T, …]``.

    Returns:
      A function that gives each example's entry, or its tokens' entries, in the
      examples' order; or None if a stop was requested while it ran. The next batch is
      dispatched before the last one's result is fetched.
    """
    compiled = placement.map(function)

    def predict(
        params: Params, examples: Examples, stop: StopRequest | None = None
    ) -> list[Any] | None:
        numbers = {int(number): n for n, number in enumerate(examples.ids)}
        found: list[Any] = [None] * len(examples)
        pending: list[tuple[Batch, Any]] = []

        def fetch() -> None:
            batch, values = pending.pop(0)
            host = jax.device_get(values)
            for row, slot in zip(*np.nonzero(batch.slots), strict=True):
                mine = batch.example[row] == slot + 1 if per_token else slot
                entry = jax.tree.map(itemgetter((row, mine)), host)
                found[numbers[int(batch.ids[row, slot])]] = entry

        batches = evaluation_batches(
            examples, batch_size, layout, rows_multiple_of=placement.count
        )
        for batch in batches:
            if stop is not None and stop.requested is not None:
                return None
            pending.append((batch, compiled(params, batch)))
            if len(pending) > 1:
                fetch()
        while pending:
            fetch()
        return found

    return predict
