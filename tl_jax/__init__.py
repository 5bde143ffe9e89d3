"""Transfer learning for language in JAX: representation ∘ head, under a plan."""

__version__ = "0.1.0"
