"""The flags of a command, by its signature: what tyro leaves unsaid of a typing error.

tyro names the flag that was meant, but not where a required one lacks as well, which is
just what a misspelt one leaves behind.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_type_hints

from tl_jax.files.errors import did_you_mean


def flags_of(command: Callable[..., None]) -> set[str]:
    """Lists the flags that a function's parameters become, and ``--no-x`` of each."""
    names = {name.replace("_", "-") for name in _names(command)} | {"help"}
    return {f"--{no}{name}" for name in names for no in ("", "no-")}


def misspelt(command: Callable[..., None], words: Sequence[str]) -> Iterator[str]:
    """Yields what is to be said of each word that looks like a flag and is none."""
    known = flags_of(command)
    for word in words:
        flag = word.partition("=")[0].replace("_", "-")
        if flag.startswith("--") and flag not in known:
            yield f"No option is named {flag}.{did_you_mean(flag, sorted(known))}"


def _names(owner: Any) -> Iterator[str]:
    """The names of a function's parameters, those of a dataclass by its fields."""
    plain, annotated = get_type_hints(owner), get_type_hints(owner, include_extras=True)
    names = plain if not is_dataclass(owner) else {f.name for f in fields(owner)}
    for name in names:
        if name == "return":
            continue
        if is_dataclass(plain[name]):
            yield from _names(plain[name])
            continue
        named = (getattr(note, "name", None) for note in get_args(annotated[name])[1:])
        yield next(filter(None, named), name)
