"""The program: ``tl-jax``, or ``python -m tl_jax``."""

import os
import signal
from typing import NoReturn


def main() -> None:
    """Runs the command; Ctrl-C while it is still being imported is told like later."""
    own = signal.getsignal(signal.SIGINT)
    if own is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)
    from tl_jax.cli import main as command

    signal.signal(signal.SIGINT, own)
    command()


def _leave(*_: object) -> NoReturn:
    """Leaves at once: an exception within JAX's hook of the collector would be lost."""
    os.write(2, b"tl-jax: stopped by SIGINT\n")
    os._exit(130)


if __name__ == "__main__":
    main()
