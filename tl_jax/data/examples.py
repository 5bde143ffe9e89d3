"""Examples as one ragged store: flat tokens, offsets, and targets beside them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Int

from tl_jax.files.errors import DataError

Ragged = Sequence[Sequence[int]] | Sequence[np.ndarray]


@dataclass(frozen=True, eq=False)
class TokenInputs:
    """What the ``M`` tokens of a store bring beside their ids, looked up in tables.

    Attributes:
      index: Each token's row.
      tables: One array of rows a name, as `Batch.inputs` names them.
    """

    index: Int[np.ndarray, "M"]
    tables: dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Examples:
    """``N`` tokenised examples; example ``i`` is ``tokens[offsets[i]:offsets[i+1]]``.

    Attributes:
      tokens: Vocabulary ids of all examples, end to end (``M`` of them).
      types: Segment id of each token.
      offsets: Where each example starts; the last entry is ``M``.
      ids: Global number of each example; it keys the example's masking and dropout.
      targets: Named targets, ``[N, …]`` each, or ``[M]`` if named in ``token_level``.
      weights: Weights of targets by the same names; a missing one means ones.
      token_level: Names of the targets that have one entry a token.
      inputs: What tokens bring beside their ids; None if they bring nothing.
    """

    tokens: Int[np.ndarray, "M"]
    types: Int[np.ndarray, "M"]
    offsets: Int[np.ndarray, "_"]
    ids: Int[np.ndarray, "N"]
    targets: dict[str, np.ndarray] = field(default_factory=dict)
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    token_level: frozenset[str] = frozenset()
    inputs: TokenInputs | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> Int[np.ndarray, "N"]:
        """The number of tokens of each example."""
        return np.diff(self.offsets)

    def subset(self, indices: Sequence[int] | Int[np.ndarray, "n"]) -> "Examples":
        """Takes some examples, in the order given; they keep their global numbers."""
        chosen = np.asarray(indices, np.int64)
        starts, lengths = spans(self, chosen)
        flat = ranges(starts, lengths)

        def take(name: str, values: np.ndarray) -> np.ndarray:
            return values[flat if name in self.token_level else chosen]

        return Examples(
            tokens=self.tokens[flat],
            types=self.types[flat],
            offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            ids=self.ids[chosen],
            targets={k: take(k, v) for k, v in self.targets.items()},
            weights={k: take(k, v) for k, v in self.weights.items()},
            token_level=self.token_level,
            inputs=self.inputs and replace(self.inputs, index=self.inputs.index[flat]),
        )


def spans(
    examples: Examples, indices: Int[np.ndarray, "n"]
) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"]]:
    """Returns where the chosen examples start in the flat arrays, and their lengths."""
    starts = examples.offsets[indices]
    return starts, examples.offsets[indices + 1] - starts


def ranges(
    starts: Int[np.ndarray, "n"], lengths: Int[np.ndarray, "n"]
) -> Int[np.ndarray, "m"]:
    """Joins ``arange(start, start + length)`` of every pair, without a loop."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(starts - (ends - lengths), lengths)


def make_examples(
    tokens: Ragged,
    types: Ragged | None = None,
    *,
    targets: Mapping[str, Sequence | np.ndarray] | None = None,
    token_targets: Mapping[str, Ragged] | None = None,
    weights: Mapping[str, Sequence | np.ndarray] | None = None,
    token_weights: Mapping[str, Sequence] | None = None,
    ids: Sequence[int] | np.ndarray | None = None,
) -> Examples:
    """Builds the store from one sequence of tokens an example, and checks that all fit.

    Args:
      tokens: Vocabulary ids, one non-empty sequence an example.
      types: Segment ids of the same lengths; zeros by default.
      targets: One entry an example: a number, or an array of one shape.
      token_targets: One sequence an example, one entry a token.
      weights: Weights of ``targets``, by the same names.
      token_weights: Weights of ``token_targets``, by the same names.
      ids: Global numbers; 0, 1, 2, … by default.

    Raises:
      DataError: Something does not fit; all that was found is told at once.
    """
    lengths = np.array([len(t) for t in tokens], np.int64)
    problems = [f"example {i} has no tokens" for i in np.flatnonzero(lengths == 0)]
    problems += _count_problems("targets", targets, lengths)
    problems += _count_problems("weights", weights, lengths)
    problems += _count_problems("ids", None if ids is None else {"ids": ids}, lengths)
    problems += _length_problems(
        "types", None if types is None else {"types": types}, lengths
    )
    problems += _length_problems("token_targets", token_targets, lengths)
    problems += _length_problems("token_weights", token_weights, lengths)
    problems += _name_problems(targets, weights, token_targets, token_weights)
    if ids is not None and len(ids) and min(ids) < 0:
        problems.append("ids must not be negative: -1 marks an empty slot")
    if problems:
        shown = "; ".join(problems[:10])
        more = f"; and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise DataError(f"These examples do not fit together: {shown}{more}.")
    return Examples(
        tokens=_flat(tokens, np.int32),
        types=np.zeros(int(lengths.sum()), np.int8)
        if types is None
        else _flat(types, np.int8),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        ids=np.arange(len(lengths)) if ids is None else np.asarray(ids, np.int64),
        targets={k: _narrow(np.asarray(v)) for k, v in (targets or {}).items()}
        | {k: _narrow(_flat(v)) for k, v in (token_targets or {}).items()},
        weights={k: np.asarray(v, np.float32) for k, v in (weights or {}).items()}
        | {k: _flat(v, np.float32) for k, v in (token_weights or {}).items()},
        token_level=frozenset(token_targets or {}),
    )


def concatenate(parts: Sequence[Examples]) -> Examples:
    """Joins stores into one; the examples are numbered anew, 0 … N-1.

    Raises:
      DataError: There is no part, or the parts' targets or inputs have different names.
    """
    if not parts:
        raise DataError("There is nothing to concatenate: give at least one part.")
    names = {(frozenset(p.targets), p.token_level) for p in parts}
    if len(names) > 1:
        told = " | ".join(str(sorted(p.targets)) for p in parts)
        raise DataError(f"Parts to concatenate have different targets: {told}.")
    inputs = _concatenate_inputs([p.inputs for p in parts])
    lengths = np.concatenate([p.lengths for p in parts])
    weighted = {name for p in parts for name in p.weights}
    return Examples(
        tokens=np.concatenate([p.tokens for p in parts]),
        types=np.concatenate([p.types for p in parts]),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        ids=np.arange(len(lengths)),
        targets={
            k: np.concatenate([p.targets[k] for p in parts]) for k in parts[0].targets
        },
        weights={
            k: np.concatenate([weights_of(p, k) for p in parts]) for k in weighted
        },
        token_level=parts[0].token_level,
        inputs=inputs,
    )


def _concatenate_inputs(parts: Sequence[TokenInputs | None]) -> TokenInputs | None:
    names = [sorted(part.tables) if part else [] for part in parts]
    if any(each != names[0] for each in names):
        told = " | ".join(map(str, names))
        raise DataError(f"Parts to concatenate have different inputs: {told}.")
    found = [part for part in parts if part is not None]
    if not found:
        return None
    sizes = [len(next(iter(part.tables.values()))) for part in found]
    before = np.cumsum([0, *sizes[:-1]])
    return TokenInputs(
        np.concatenate([p.index + n for p, n in zip(found, before, strict=True)]),
        {k: np.concatenate([part.tables[k] for part in found]) for k in names[0]},
    )


def weights_of(examples: Examples, name: str) -> np.ndarray:
    """Returns the weights of a target; ones, one an entry, where none were given."""
    if name in examples.weights:
        return examples.weights[name]
    return np.ones(len(examples.targets[name]), np.float32)


def _count_problems(
    kind: str, group: Mapping[str, Sequence | np.ndarray] | None, lengths: np.ndarray
) -> list[str]:
    return [
        f"{kind} {name!r} has {len(values)} entries for {len(lengths)} examples"
        for name, values in (group or {}).items()
        if len(values) != len(lengths)
    ]


def _length_problems(
    kind: str, group: Mapping[str, Ragged] | None, lengths: np.ndarray
) -> list[str]:
    problems = _count_problems(kind, group, lengths)
    for name, values in (group or {}).items():
        found = [len(v) for v in values]
        problems += [
            f"{kind} {name!r} has {n} entries for the {m} tokens of example {i}"
            for i, (n, m) in enumerate(zip(found, lengths, strict=False))
            if n != m
        ]
    return problems


def _name_problems(
    targets: Mapping | None,
    weights: Mapping | None,
    token_targets: Mapping | None,
    token_weights: Mapping | None,
) -> list[str]:
    slots, tokens = set(targets or {}), set(token_targets or {})
    unknown = (set(weights or {}) - slots) | (set(token_weights or {}) - tokens)
    return [f"there is no target for the weights {n!r}" for n in sorted(unknown)] + [
        f"{n!r} is in targets and in token_targets" for n in sorted(slots & tokens)
    ]


def _flat(ragged: Sequence, dtype: type | None = None) -> np.ndarray:
    if not len(ragged):
        return np.zeros(0, dtype or np.int32)
    flat = np.concatenate([np.asarray(part) for part in ragged])
    return flat if dtype is None else flat.astype(dtype)


def _narrow(values: np.ndarray) -> np.ndarray:
    """Casts to int32 or float32, the types of targets on a device."""
    kind = np.float32 if np.issubdtype(values.dtype, np.floating) else np.int32
    return values.astype(kind)
