"""The train step and the evaluation step: pure functions that nothing decorates."""

from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax

from tl_jax.metrics.sums import CarriedLoss, Loss, Ratio, Sums
from tl_jax.models.batch import Batch
from tl_jax.models.compose import Params, flatten_paths, unflatten_paths
from tl_jax.training.state import TrainState
from tl_jax.transfer.plans import Plan, Rule

TrainStep = Callable[..., tuple[TrainState, Sums]]
EvalStep = Callable[..., Sums]

EVERYTHING = Plan(Rule(".*"))


def create_state(
    params: Params,
    optimizer: optax.GradientTransformation,
    plan: Plan = EVERYTHING,
    *,
    seed: int = 0,
    carry: Any = (),
) -> TrainState:
    """Makes the state of step 0; the optimizer's covers what the plan trains."""
    trained, _ = plan.split(params)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(trained),
        seed=jax.random.key_data(jax.random.key(seed)),
        carry=carry,
    )


def train_step(
    loss: Loss | CarriedLoss,
    optimizer: optax.GradientTransformation,
    plan: Plan = EVERYTHING,
    *,
    accumulate: int = 1,
) -> TrainStep:
    """Makes ``step(state, batch, axis=None) -> (state, sums)``.

    The loss is a sum and a weight. Gradients of sums are added up, over ``accumulate``
    equal parts of the batch's rows and over the devices of ``axis``, and divided once
    by the whole weight, so that one device and many give the same update.

    A step whose loss or gradient is not finite leaves parameters, optimizer and carry
    as they are; ``sums["finite"]`` is 1 for a good step and 0 for such a one.
    ``sums["gradient_norm"]`` is the norm before clipping.

    Args:
      loss: ``loss(params, batch, key, train=…) -> Sums`` with an entry "loss". Where
        the state has a carry: ``loss(params, batch, key, carry, train=…) -> (Sums,
        carry)``, with no gradient back through what it is given.
      optimizer: Updates the trained part of the parameters.
      plan: Says which part that is; nothing else is differentiated.
      accumulate: Number of parts, computed one after the other; 1 with a carry.
    """

    def step(
        state: TrainState, batch: Batch, *, axis: str | None = None
    ) -> tuple[TrainState, Sums]:
        trained, frozen = plan.split(state.params)
        carried = bool(jax.tree.leaves(state.carry))
        if carried and accumulate > 1:
            raise ValueError("A step with a carry takes its batch as a whole.")

        def objective(trained: Params, part: Batch) -> tuple[jax.Array, Any]:
            inputs = join(trained, frozen), part, state.key
            if carried:
                carried_loss = cast(CarriedLoss, loss)
                sums, carry = carried_loss(*inputs, state.carry, train=True)
            else:
                sums, carry = cast(Loss, loss)(*inputs, train=True), ()
            return jnp.asarray(sums["loss"].total), (sums, carry)

        gradients, (sums, carry) = _accumulated(
            jax.grad(objective, has_aux=True), trained, batch, accumulate
        )
        if axis is not None:
            gradients, sums = jax.lax.psum((gradients, sums), axis)
        weight = jnp.maximum(sums["loss"].weight, jnp.finfo(jnp.float32).tiny)
        norm = optax.tree.norm(gradients) / weight
        finite = jnp.isfinite(norm) & jnp.isfinite(sums["loss"].total)

        def move(
            trained: Params, opt_state: optax.OptState
        ) -> tuple[Params, optax.OptState]:
            means = jax.tree.map(lambda g: g / weight, gradients)
            updates, opt_state = optimizer.update(means, opt_state, trained)
            return cast(Params, optax.apply_updates(trained, updates)), opt_state

        # A branch: to select between old and new, XLA would copy both of Adam's means.
        trained, opt_state = jax.lax.cond(
            finite, move, lambda *kept: kept, trained, state.opt_state
        )
        one = jnp.ones(())
        sums |= {
            "gradient_norm": Ratio(norm, one),
            "finite": Ratio(finite.astype(jnp.float32), one),
        }
        params = join(trained, frozen)
        # A step that is not finite hands on what it was given.
        carry = jax.tree.map(lambda a, b: jnp.where(finite, a, b), carry, state.carry)
        after = TrainState(state.step + 1, params, opt_state, state.seed, carry)
        return after, sums

    return step


def eval_step(loss: Loss) -> EvalStep:
    """Makes ``step(params, batch, axis=None) -> sums``, without dropout."""

    def step(params: Params, batch: Batch, *, axis: str | None = None) -> Sums:
        sums = loss(params, batch, train=False)
        return sums if axis is None else jax.lax.psum(sums, axis)

    return step


def join(trained: Params, frozen: Params) -> Params:
    """Undoes `Plan.split`."""
    return unflatten_paths(flatten_paths(trained) | flatten_paths(frozen))


def _accumulated(
    gradient: Callable[[Params, Batch], tuple[Params, Any]],
    trained: Params,
    batch: Batch,
    parts: int,
) -> tuple[Params, Any]:
    """The gradient and what is summed beside it, added up over parts of the rows."""
    if parts == 1:
        return gradient(trained, batch)

    def part(before: Any, fields: dict[str, Any]) -> tuple[Any, None]:
        own = gradient(trained, Batch(**fields))
        return jax.tree.map(jnp.add, before, own), None

    # Every parts-th row: each device's rows are spread over all parts, so that all
    # devices work at each of them.
    split = jax.tree.map(
        lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), vars(batch)
    )
    first = Batch(**jax.tree.map(lambda x: x[0], split))
    shapes = jax.eval_shape(gradient, trained, first)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.scan(part, zeros, split)[0]
