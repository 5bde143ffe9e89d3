"""From the name of pretrained weights to an encoder and what feeds it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax

from tl_jax.files.errors import ConfigError, WeightsError
from tl_jax.files.sources import fingerprint, resolve, weights_folder
from tl_jax.interop.elmo import find_elmo
from tl_jax.interop.embedding import embedding_table, is_cased, read_embedding
from tl_jax.interop.huggingface import has_pooler, load_bert
from tl_jax.interop.load import tokenizer_of
from tl_jax.interop.word_vectors import read_word_vectors
from tl_jax.models.bert import Bert, BertConfig
from tl_jax.models.compose import Params
from tl_jax.models.elmo import ElmoConfig
from tl_jax.models.elmo_encoder import Elmo, ElmoEncoderConfig
from tl_jax.models.word_vectors import WordVectors, WordVectorsConfig
from tl_jax.runs.config import RANDOM, FinetuneConfig
from tl_jax.runs.elmo import load_elmo_encoder, refuse_elmo_options
from tl_jax.runs.options import given
from tl_jax.runs.tasks import task_of
from tl_jax.tasks.task import Segments
from tl_jax.text.characters import SPELLING_FILE, SpeltWords
from tl_jax.text.hangul import check_hangul
from tl_jax.text.subwords import Tokenizer, load_tokenizer
from tl_jax.text.training import train_wordpiece
from tl_jax.text.words import WordVocabulary
from tl_jax.transfer.plans import Stage
from tl_jax.transfer.presets import named_plan

Encoder = Bert | WordVectors | Elmo
TextEncoder = Tokenizer | WordVocabulary | SpeltWords
WORDS = "words.json"
# Of a folder of vectors of sub-words.
PIECE_VECTORS, PIECES = "word2vec.txt", "tokenizer.json"
# Options of vectors that are drawn at random, and of the LSTM over any vectors.
_DRAWN = ("units", "vector_size")
_LSTM = ("hidden_size", "dropout", "max_words")


@dataclass(frozen=True)
class Representation:
    """An encoder, its pretrained parameters, and what turns texts into its ids.

    Attributes:
      encoder: The module.
      weights: Loaded parameters by part, as `graft` takes them; empty if random.
      text: The tokenizer or the vocabulary.
      told: One line on what was loaded.
      max_length: The most tokens that the encoder has positions for.
      drawn: Where parameters lie that had to be drawn, as the weights have none.
    """

    encoder: Encoder
    weights: Mapping[str, Any]
    text: TextEncoder
    told: str
    max_length: int = 2**31 - 1
    drawn: str | None = None


def is_encoder(path: Path) -> bool:
    """True for a folder of encoder weights, False for word vectors."""
    return path.is_dir() and any(path.rglob("config.json"))


def load_representation(
    config: FinetuneConfig, texts: Sequence[str], segments: Segments
) -> Representation:
    """Loads what ``config.weights`` names, for data that hold these training texts.

    Args:
      config: The run's options.
      texts: All text of the training data.
      segments: What word vectors do with segment ids.

    Raises:
      SourceError: The weights cannot be had.
      WeightsError: They are not what they are named as.
      ConfigError: An option does not fit this kind of weights, or an uncased vocabulary
        would take Korean texts apart.
    """
    path = None if config.weights == RANDOM else resolve(config.weights)
    if path is not None and (files := find_elmo(path)):
        return Representation(*load_elmo_encoder(config, files, texts, segments))
    refuse_elmo_options(config)
    if path is None:
        return _draw_vectors(config, texts, segments)
    if is_encoder(path):
        return _load_encoder(config, weights_folder(path), texts)
    if all((path / name).is_file() for name in (PIECE_VECTORS, PIECES)):
        return _load_pieces(config, path, segments)
    return _load_vectors(config, path, texts, segments)


def _load_encoder(
    config: FinetuneConfig, folder: Path, texts: Sequence[str]
) -> Representation:
    _refuse(config, (*_DRAWN, *_LSTM), "pretrained encoders, which have their own")
    pooling = config.pooling or "pooler"
    if pooling not in ("pooler", "mean"):
        raise ConfigError(f"--pooling {pooling}: encoders have pooler and mean.")
    if task_of(config).per_token:
        pooling = "none"
    drawn = pooling == "pooler" and not has_pooler(folder)
    encoder, params = load_bert(
        folder,
        pooling=pooling,
        dtype=config.precision,
        pooler_key=jax.random.key(config.seed) if drawn else None,
    )
    tokenizer = tokenizer_of(folder)
    check_hangul(tokenizer, texts, allow_uncased=config.allow_uncased)
    if (config.max_length or 0) > encoder.config.max_positions:
        raise ConfigError(
            f"--max-length {config.max_length}: this encoder has "
            f"{encoder.config.max_positions} positions."
        )
    sizes = encoder.config
    told = f"BERT, {sizes.num_layers} layers of width {sizes.hidden_size}"
    return Representation(
        encoder,
        {"encoder": params},
        tokenizer,
        told,
        sizes.max_positions,
        drawn="encoder/pooler/" if drawn else None,
    )


def _load_vectors(
    config: FinetuneConfig, path: Path, texts: Sequence[str], segments: Segments
) -> Representation:
    if path.is_dir() and not any(path.rglob("*.npy")):
        below = (
            file.parent if file.with_name(PIECES).is_file() else file
            for file in sorted(path.rglob(PIECE_VECTORS))
        )
        hint = "".join(f" Name {vectors}." for vectors in below)
        raise WeightsError(
            f"{path}: no weights that are known here.{hint} A folder holds config.json "
            "and *.safetensors (Hugging Face), options.json and *.hdf5 (ELMo), or "
            "*.npy and *.parquet (word vectors)."
        )
    _refuse(config, _DRAWN, "vectors that are read, which have their own")
    words = WordVocabulary.build(
        texts, max_size=config.max_words, lowercase=not is_cased(path)
    )
    random = config.plan == "random"
    full, table, known = read_embedding(
        path, words, max_words=config.max_words, seed=config.seed
    )
    vocabulary = words if random else full
    encoder = _word_vectors(config, len(vocabulary), table.shape[1], segments)
    weights = {} if random else {"encoder/embedding": {"embedding": table}}
    told = f"{len(vocabulary):,} word vectors of width {table.shape[1]}, " + (
        "drawn at random"
        if random
        else f"{known:,} of the data's {len(words):,} words among them"
    )
    return Representation(encoder, weights, vocabulary, told)


def _load_pieces(
    config: FinetuneConfig, folder: Path, segments: Segments
) -> Representation:
    """Vectors of sub-words, as `tl-jax pretrain vectors --units pieces` writes them."""
    _refuse(config, (*_DRAWN, "max_words"), "vectors that are read with a tokenizer")
    tokenizer = load_tokenizer(folder)
    vectors = read_word_vectors(folder / PIECE_VECTORS)
    table, known = embedding_table(tokenizer.vocabulary, vectors, seed=config.seed)
    rows, width = table.shape
    random = config.plan == "random"
    encoder = _word_vectors(config, rows, width, segments)
    weights = {} if random else {"encoder/embedding": {"embedding": table}}
    source = "drawn at random" if random else f"{known.sum():,} of them read"
    told = f"{rows:,} vectors of sub-words, of width {width}, {source}"
    return Representation(encoder, weights, tokenizer, told)


def _refuse(config: FinetuneConfig, names: Sequence[str], whom: str) -> None:
    if flags := given(config, names):
        raise ConfigError(f"{' and '.join(flags)}: no option of {whom}.")


def _draw_vectors(
    config: FinetuneConfig, texts: Sequence[str], segments: Segments
) -> Representation:
    """Random vectors for the words or the sub-words of the training data."""
    if config.plan not in (None, "random"):
        raise ConfigError(f"--plan {config.plan}: random vectors have the plan random.")
    text: TextEncoder = (
        train_wordpiece(texts, config.max_words)
        if config.units == "pieces"
        else WordVocabulary.build(texts, max_size=config.max_words)
    )
    size = text.vocab_size if isinstance(text, Tokenizer) else len(text)
    encoder = _word_vectors(config, size, config.vector_size, segments)
    told = f"{size:,} vectors of width {config.vector_size}, drawn at random"
    return Representation(encoder, {}, text, told)


def _word_vectors(
    config: FinetuneConfig, rows: int, width: int, segments: Segments
) -> WordVectors:
    pooling = config.pooling or "max"
    if pooling == "pooler":
        raise ConfigError("--pooling pooler: word vectors have last, max and mean.")
    return WordVectors(
        WordVectorsConfig(
            vocab_size=rows,
            embedding_size=width,
            hidden_size=config.hidden_size,
            dropout=config.dropout,
            pooling=pooling,
            segments=segments,
            dtype=config.precision,
        )
    )


def weights_hash(name: str) -> str:
    """SHA-256 of the pretrained weights; empty if there are none."""
    return "" if name == RANDOM else fingerprint(resolve(name))


def usual_plan(name: str, encoder: nn.Module) -> str:
    """The transfer plan where none is asked for."""
    if name == RANDOM:
        return "random"
    match encoder:
        case WordVectors():
            return "slow"
        case Elmo():
            return "freeze"
    return "full"


def stages_of(config: FinetuneConfig, params: Params) -> tuple[Stage, ...]:
    """The stages of the plan that the options name.

    Raises:
      ConfigError: There is no such plan for this encoder, or it does not fit.
    """
    assert config.plan is not None
    read = config.vectors not in (None, RANDOM)
    return named_plan(config.plan, params, vectors_read=read)


def describe(encoder: nn.Module) -> dict[str, Any]:
    """Writes an encoder as JSON can hold it."""
    match encoder:
        case Bert():
            return {"kind": "bert", **asdict(encoder.config)}
        case WordVectors():
            return {"kind": "word_vectors", **asdict(encoder.config)}
        case Elmo():
            return {"kind": "elmo", **asdict(encoder.config)}
    raise TypeError(f"{type(encoder).__name__} is no encoder of a run")


def rebuild(described: Mapping[str, Any]) -> Encoder:
    """Undoes `describe`."""
    sizes: dict[str, Any] = {k: v for k, v in described.items() if k != "kind"}
    match described.get("kind"):
        case "bert":
            return Bert(BertConfig(**sizes))
        case "word_vectors":
            return WordVectors(WordVectorsConfig(**sizes))
        case "elmo":
            bilm = dict(sizes.pop("bilm"))
            bilm["filters"] = tuple(tuple(pair) for pair in bilm["filters"])
            return Elmo(ElmoEncoderConfig(bilm=ElmoConfig(**bilm), **sizes))
    raise WeightsError(f"{described.get('kind')!r} is no kind of encoder known here")


def save_text_encoder(text: TextEncoder, folder: Path) -> None:
    """Writes the tokenizer or the vocabulary into a folder."""
    if isinstance(text, WordVocabulary):
        text.save(folder / WORDS)
    else:  # a tokenizer or spelt words
        text.save(folder)


def load_text_encoder(folder: Path) -> TextEncoder:
    """Reads what `save_text_encoder` wrote."""
    if (folder / SPELLING_FILE).is_file():
        return SpeltWords.load(folder)
    if (folder / WORDS).is_file():
        return WordVocabulary.load(folder / WORDS)
    return load_tokenizer(folder)
