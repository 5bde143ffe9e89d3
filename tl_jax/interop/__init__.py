"""Interop: weights of other libraries, in and out."""

from tl_jax.interop.huggingface import save_bert as save_bert
from tl_jax.interop.load import load as load
from tl_jax.interop.load import load_model as load_model
from tl_jax.interop.load import load_tokenizer as load_tokenizer
from tl_jax.interop.word_vectors import read_word_vectors as read_word_vectors
