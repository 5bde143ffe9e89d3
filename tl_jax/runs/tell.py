"""What a command tells a person goes to stderr; stdout is for results alone."""

import sys


def tell(text: str) -> None:
    """Prints one line of information."""
    print(text, file=sys.stderr, flush=True)
