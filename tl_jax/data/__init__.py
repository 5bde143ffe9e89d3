"""Data: files, TFDS and packages → examples → batches of fixed shapes."""

from tl_jax.data.examples import Examples as Examples
from tl_jax.data.examples import make_examples as make_examples
from tl_jax.data.packing import Layout as Layout
from tl_jax.data.packing import pack as pack
from tl_jax.data.readers import read_labelled as read_labelled
from tl_jax.data.stream import TrainingStream as TrainingStream
from tl_jax.data.stream import evaluation_batches as evaluation_batches
