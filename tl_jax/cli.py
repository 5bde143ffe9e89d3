"""The command ``tl-jax``: options in, results on stdout, everything else on stderr.

Exit codes: 0 done; 1 an error in the program; 2 a wrong option or combination; 3 data
or weights that cannot be read or had; 4 stored files or predictions that are not those
recorded; 5 the run directory is in use; 6 training became NaN or infinite; 7 the disk
failed a read or a write; 8 another process of the training is gone; 130 and 143 stopped
by SIGINT or SIGTERM.
"""

import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import tyro

from tl_jax.commands import COMMANDS, GROUPS, doctor
from tl_jax.files.errors import ConfigError, TlJaxError, did_you_mean
from tl_jax.flags import misspelt
from tl_jax.runs.compilations import keep_compilations
from tl_jax.runs.host_memory import keep_freed_memory


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command and leaves with its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    sys.exit(_run([word for word in given if word != "--debug"], debug))


def _run(given: list[str], debug: bool) -> int:
    warnings.formatwarning = _warning
    try:
        keep_freed_memory()
        keep_compilations()
        _check_command(given)
        group = given[0] if given and given[0] in GROUPS else None
        tyro.extras.subcommand_cli_from_dict(
            GROUPS[group] if group else COMMANDS,
            prog=f"tl-jax {group}" if group else "tl-jax",
            description="Transfer learning for language in JAX. "
            "--debug shows the traceback of any error.",
            args=given[1:] if group else given,
        )
        sys.stdout.flush()  # here its errors are still told by their codes
    except SystemExit as left:
        if left.code == 2:  # tyro has told what is wrong
            for told in misspelt(_command(given), given):
                print(f"tl-jax: {told}", file=sys.stderr)
        raise
    except BrokenPipeError:
        _give_up_output()  # whoever read it has left
        return 0
    except KeyboardInterrupt:
        return _failed(130, "stopped by SIGINT", debug)
    except TlJaxError as error:
        return _failed(error.exit_code, str(error), debug)
    except OSError as error:
        try:
            sys.stdout.flush()
        except OSError:
            _give_up_output()
        where = f"{error.filename}: " if error.filename else ""
        return _failed(7, f"{where}{error.strerror or error}", debug)
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
        hint = "This is an error in tl-jax; --debug shows where."
        return _failed(1, f"{problem}\n{hint}", debug)
    return 0


def _check_command(given: list[str]) -> None:
    """Refuses an unknown command with the nearest name."""
    if given and not given[0].startswith("-") and given[0] not in COMMANDS:
        raise ConfigError(
            f"No command is named {given[0]!r}.{did_you_mean(given[0], COMMANDS)} "
            f"Known: {', '.join(COMMANDS)}."
        )


def _command(given: list[str]) -> Callable[..., None]:
    """The function of the command that is asked for."""
    first, second = (*given, "", "")[:2]
    return GROUPS.get(first, {}).get(second) or COMMANDS.get(first, doctor)


def _warning(message: Warning | str, category: type[Warning], *place: Any) -> str:
    """A warning as a person needs it; those that are for programmers tell where."""
    if category is UserWarning:
        return f"tl-jax: {message}\n"
    return f"tl-jax: {category.__name__}: {message} ({place[0]}:{place[1]})\n"


def _give_up_output() -> None:
    """Lets what stdout still holds go nowhere; Python would try again when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _failed(code: int, message: str, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"tl-jax: {message}", file=sys.stderr)
    return code
