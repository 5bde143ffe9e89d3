"""A function of (params, batch) over a whole data set, each example exactly once."""

from collections.abc import Callable

import jax
import numpy as np

from tl_jax.data.examples import Examples
from tl_jax.data.packing import Layout
from tl_jax.data.stream import evaluation_batches
from tl_jax.models.batch import Array, Batch
from tl_jax.models.compose import Params
from tl_jax.training.placement import Placement
from tl_jax.training.signals import StopRequest

Predict = Callable[[Params, Examples, StopRequest | None], np.ndarray | None]


def predictor(
    function: Callable[[Params, Batch], Array],
    placement: Placement,
    layout: Layout,
    batch_size: int,
) -> Predict:
    """Makes ``predict(params, examples, stop)``, compiled once for all its calls.

    Args:
      function: Gives one entry an example slot, ``[B, S, …]``.
      placement: Devices and how they are used.
      layout: How examples are laid into rows.
      batch_size: Examples at a time.

    Returns:
      A function that gives the entries in the examples' order, ``[N, …]``; or None if
      a stop was requested while it ran. The next batch is dispatched before the last
      one's result is fetched.
    """
    compiled = placement.map(function)

    def predict(
        params: Params, examples: Examples, stop: StopRequest | None = None
    ) -> np.ndarray | None:
        rows = {int(number): row for row, number in enumerate(examples.ids)}
        found: list[np.ndarray | None] = [None] * len(examples)
        pending: list[tuple[Batch, Array]] = []

        def fetch() -> None:
            batch, values = pending.pop(0)
            host = jax.device_get(values)
            for number, value in zip(
                batch.ids[batch.slots], host[batch.slots], strict=True
            ):
                found[rows[int(number)]] = value

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
        return np.stack([value for value in found if value is not None])

    return predict
