"""What TFDS says of its own accord, kept away from a command's results."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout


@contextmanager
def quiet_tfds() -> Iterator[None]:
    """Keeps TFDS from warning of what it does not find; errors tell that.

    How far it is with a download goes to stderr.
    """
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        logger.setLevel(level)
