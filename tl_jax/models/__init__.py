"""Models: arrays in, arrays out; a config dataclass stands beside each model."""

from tl_jax.models.batch import Batch as Batch
from tl_jax.models.bert import Bert as Bert
from tl_jax.models.bert import BertConfig as BertConfig
from tl_jax.models.compose import Model as Model
from tl_jax.models.compose import compose as compose
from tl_jax.models.compose import graft as graft
from tl_jax.models.heads import Classify as Classify
from tl_jax.models.word_vectors import WordVectors as WordVectors
from tl_jax.models.word_vectors import WordVectorsConfig as WordVectorsConfig
