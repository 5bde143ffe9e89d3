"""``python -m tl_jax`` is ``tl-jax``."""

from tl_jax.cli import main

if __name__ == "__main__":
    main()
