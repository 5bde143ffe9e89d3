"""The program: ``tl-jax``, or ``python -m tl_jax``."""

import sys


def main() -> None:
    """Runs the command; Ctrl-C while it is still being imported is told like later."""
    try:
        from tl_jax.cli import main as command
    except KeyboardInterrupt:
        print("tl-jax: stopped by SIGINT", file=sys.stderr)
        sys.exit(130)
    command()


if __name__ == "__main__":
    main()
