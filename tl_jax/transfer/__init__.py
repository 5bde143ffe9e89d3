"""Transfer: plans of what is frozen and what learns how fast, and their optimizers."""

from tl_jax.transfer.plans import Plan as Plan
from tl_jax.transfer.plans import Rule as Rule
from tl_jax.transfer.plans import Stage as Stage
from tl_jax.transfer.presets import named_plan as named_plan
from tl_jax.transfer.schedules import warmup_linear as warmup_linear
from tl_jax.transfer.schedules import warmup_then_linear as warmup_then_linear
