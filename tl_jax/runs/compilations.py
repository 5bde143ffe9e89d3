"""What a program compiles, kept for the next one."""

import os

import jax

from tl_jax.files.sources import cache_home


def keep_compilations() -> None:
    """Lets the next process load what this one compiles, from the cache folder.

    What JAX's own environment variables say goes before. To be called by a program, not
    by a library, before anything is compiled.
    """
    for name, value in (
        ("jax_compilation_cache_dir", str(cache_home() / "xla")),
        ("jax_persistent_cache_min_compile_time_secs", 0.5),
    ):
        if name.upper() not in os.environ:
            jax.config.update(name, value)
