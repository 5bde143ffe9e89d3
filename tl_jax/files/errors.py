"""The errors that a user can mend, and the exit code of each.

Every message says what is wrong, where, and how to mend it. The command prints it
without a traceback (``--debug`` shows one) and leaves with the class's ``exit_code``.
"""

import difflib
from collections.abc import Iterable


class TlJaxError(Exception):
    """Something that the caller can mend; the base of every error raised on purpose."""

    exit_code = 1


class ConfigError(TlJaxError):
    """An option, a plan or a combination of options does not fit."""

    exit_code = 2


class DataError(TlJaxError):
    """A data file cannot be read as what it was named as."""

    exit_code = 3


class WeightsError(TlJaxError):
    """Stored weights do not fit the model, or cannot be read safely."""

    exit_code = 3


class SourceError(TlJaxError):
    """Something named by path, ``hub:`` or ``pypi:`` cannot be had."""

    exit_code = 3


class IntegrityError(TlJaxError):
    """Stored files are not the files that were written."""

    exit_code = 4


class VerificationError(TlJaxError):
    """A run evaluated again did not give the predictions that it recorded."""

    exit_code = 4


class RunBusyError(TlJaxError):
    """Another process works in this run directory."""

    exit_code = 5


class NonFiniteError(TlJaxError):
    """A loss or a gradient was NaN or infinite, and the policy was to stop."""

    exit_code = 6


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Returns `` Did you mean 'x'?`` for the choice nearest to ``name``, or ``""``."""
    near = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""
