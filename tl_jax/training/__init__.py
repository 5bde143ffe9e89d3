"""Training: state, step, placement, loop and checkpoints."""

from tl_jax.training.loop import Training as Training
from tl_jax.training.loop import fit as fit
from tl_jax.training.placement import choose_placement as choose_placement
from tl_jax.training.state import TrainState as TrainState
from tl_jax.training.step import create_state as create_state
from tl_jax.training.step import eval_step as eval_step
from tl_jax.training.step import train_step as train_step
