"""What pre-training starts from: a vocabulary, the text prepared on disk, a model."""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import jax

from tl_jax.data.documents import Document, read_documents
from tl_jax.data.examples import make_examples
from tl_jax.data.masking import make_masking
from tl_jax.data.next_sentence import PairRules
from tl_jax.data.packing import Layout, pack
from tl_jax.data.pretraining_stream import PretrainingStream
from tl_jax.data.shards import Pieces, Prepared, open_prepared, prepare
from tl_jax.files.errors import ConfigError
from tl_jax.files.manifest import MANIFEST, sha256_file
from tl_jax.files.sources import resolve, weights_folder
from tl_jax.interop.bert_config import (
    HeadConfig,
    make_head,
    read_config,
    read_head_config,
)
from tl_jax.interop.bert_names import FAMILIES
from tl_jax.interop.huggingface import load_bert, load_bert_model
from tl_jax.models.bert import Bert, BertConfig, require_segments
from tl_jax.models.compose import Model, Params, compose, init_from
from tl_jax.runs.pretrain_config import PretrainBertConfig, Size
from tl_jax.runs.pretraining import DATA, text_hash
from tl_jax.runs.tell import tell
from tl_jax.text.hangul import check_hangul
from tl_jax.text.subwords import Tokenizer, load_tokenizer
from tl_jax.text.training import Reread, train_wordpiece

# Turc et al. 2019, https://arxiv.org/abs/1908.08962: layers and width; heads of 64.
SIZES: dict[Size, tuple[int, int]] = {
    "tiny": (2, 128),
    "mini": (4, 256),
    "small": (4, 512),
    "base": (12, 768),
    "large": (24, 1024),
}
_VOCABULARY_TEXT = 200_000_000  # characters that a vocabulary is trained on, at most
_HANGUL_TEXTS = 10_000  # sentences that are looked at
_CHARACTERS_AT_ONCE = 8_000_000


def choose_tokenizer(config: PretrainBertConfig) -> Tokenizer:
    """Loads a tokenizer, or trains one on the text.

    Raises:
      ConfigError: An uncased vocabulary would take Korean text apart.
    """
    if config.tokenizer is not None:
        tokenizer = load_tokenizer(Path(config.tokenizer))
    elif config.from_weights is not None:
        tokenizer = load_tokenizer(weights_folder(resolve(config.from_weights)))
    else:
        tokenizer = train_wordpiece(
            Reread(partial(_some_text, config)),
            config.vocab_size,
            lowercase=config.lowercase,
        )
        tell(f"a vocabulary of {tokenizer.vocab_size:,} pieces was trained")
    documents = read_documents(config.text, config.lines, on_bad=config.on_bad)
    some = chain.from_iterable(document.segments for document in documents)
    sample = list(islice(some, _HANGUL_TEXTS))
    check_hangul(tokenizer, sample, allow_uncased=config.allow_uncased)
    return tokenizer


def _some_text(config: PretrainBertConfig) -> Iterator[str]:
    """Yields the text, up to an equal share of the limit from every file."""
    share = _VOCABULARY_TEXT // max(1, len(config.text) + len(config.lines))
    parts = [((name,), ()) for name in config.text]
    parts += [((), (name,)) for name in config.lines]
    for files, lines in parts:
        documents = read_documents(files, lines, on_bad=config.on_bad)
        left = share
        for segment in chain.from_iterable(d.segments for d in documents):
            yield segment
            left -= len(segment)
            if left <= 0:
                break


def prepare_parts(
    config: PretrainBertConfig, tokenizer: Tokenizer, run: Path
) -> dict[str, Prepared]:
    """Tokenises train and dev text into ``run/data``, or opens what is there already.

    Raises:
      IntegrityError: What is there is damaged.
      DataError: Text cannot be read.
    """
    parts = {"train": (config.text, config.lines)}
    if config.dev:
        held_out = (config.dev, ()) if config.text else ((), config.dev)
        parts["dev"] = held_out
    return {
        name: _prepare(config, tokenizer, run / DATA / name, *files)
        for name, files in parts.items()
    }


def _prepare(
    config: PretrainBertConfig,
    tokenizer: Tokenizer,
    folder: Path,
    files: tuple[str, ...],
    lines: tuple[str, ...],
) -> Prepared:
    rules = PairRules(
        config.max_length,
        (tokenizer.specials(pair=False), tokenizer.specials(pair=True)),
        next_sentence=config.nsp,
        short=config.short_rate,
        passes=config.passes if folder.name == "train" else 1,
        seed=config.seed,
    )
    documents = read_documents(files, lines, on_bad=config.on_bad)
    backend = hashlib.sha256(tokenizer.backend.to_str().encode()).hexdigest()
    first = next(documents)  # a file that is not there is told before it is hashed
    source = {
        "text": {name: text_hash(name) for name in files},
        "lines": {name: text_hash(name) for name in lines},
        "tokenizer": backend,
        "rules": {**asdict(rules), "row_length": config.row_length},
    }
    if (folder / MANIFEST).is_file():
        there = open_prepared(folder)
        if there.source == json.loads(json.dumps(source)):
            return there
    folder.parent.mkdir(parents=True, exist_ok=True)
    pieces = _tokenised(chain([first], documents), tokenizer)
    rows = config.row_length
    prepare(folder, pieces, rules, tokenizer.vocab_size, source, row_length=rows)
    return open_prepared(folder)


def _tokenised(documents: Iterator[Document], tokenizer: Tokenizer) -> Iterator[Pieces]:
    """Tokenises many documents at once, which uses all cores."""
    for some in _together(documents):
        texts = [segment for document in some for segment in document.segments]
        pieces = iter(tokenizer.pieces(texts))
        for document in some:
            own = list(islice(pieces, len(document.segments)))
            yield Pieces(own, document.connected)


def _together(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Yields documents of some millions of characters at a time."""
    some: list[Document] = []
    length = 0
    for document in documents:
        some.append(document)
        length += sum(map(len, document.segments))
        if length > _CHARACTERS_AT_ONCE:
            yield some
            some, length = [], 0
    if some:
        yield some


def data_of(parts: dict[str, Prepared], run: Path) -> dict[str, Any]:
    """Tells what each part holds, and the hash that stands for all of its files."""
    return {
        name: {
            **part.counts,
            "row_length": part.row_length,
            "source": part.source,
            "sha256": sha256_file(run / DATA / name / MANIFEST),
        }
        for name, part in parts.items()
    }


def stream_of(
    config: PretrainBertConfig,
    prepared: Prepared,
    tokenizer: Tokenizer,
    rows_multiple_of: int,
) -> PretrainingStream:
    """The masked batches of a part."""
    most = config.max_predictions or math.ceil(config.max_length * config.mask_rate)
    return PretrainingStream(
        prepared,
        frame=tokenizer.frame,
        masking=make_masking(
            tokenizer,
            rate=config.mask_rate,
            most=most,
            whole_words=config.whole_words,
            seed=config.seed,
        ),
        batch_size=config.batch_size,
        seed=config.seed,
        rows_multiple_of=rows_multiple_of,
        part=jax.process_index(),
        parts=jax.process_count(),
    )


def build_model(encoder: BertConfig, *, nsp: bool) -> Model:
    """Pairs an encoder with the heads that Hugging Face's class of it has.

    Raises:
      ConfigError: Its family has no next-sentence head.
    """
    family = FAMILIES[encoder.model_type]
    end = "ForPreTraining" if nsp else "ForMaskedLM"
    if end not in family.kinds or family.name == "Electra":
        raise ConfigError(
            f"{encoder.model_type} is not pre-trained in this way: use BERT"
            + (", or --no-nsp." if nsp and "ForMaskedLM" in family.kinds else ".")
        )
    return compose(
        Bert(encoder), make_head(HeadConfig(family.name + end, (), 0.0), encoder)
    )


def initial(
    config: PretrainBertConfig, tokenizer: Tokenizer
) -> tuple[BertConfig, Params]:
    """Draws the parameters of step 0, and puts those to continue from in their places.

    Raises:
      ConfigError: The sizes do not fit the options.
      WeightsError: The weights cannot be read.
    """
    parts: dict[str, Any] = {}
    pooling = "pooler" if config.nsp else "none"
    if config.from_weights is not None:
        folder = weights_folder(resolve(config.from_weights))
        key = jax.random.key(config.seed)
        module, weights = load_bert(
            folder, pooling=pooling, dtype=config.precision, pooler_key=key
        )
        encoder = module.config
        parts = {"encoder": weights} | _stored_heads(folder, nsp=config.nsp)
    elif config.config is not None:
        place = Path(config.config)
        encoder = read_config(place, pooling=pooling, dtype=config.precision)
        encoder = replace(encoder, vocab_size=tokenizer.vocab_size)
    else:
        layers, width = SIZES[config.size]
        encoder = BertConfig(
            vocab_size=tokenizer.vocab_size,
            hidden_size=width,
            num_layers=layers,
            num_heads=width // 64,
            intermediate_size=4 * width,
            pooling=pooling,
            dtype=config.precision,
        )
    loops = {"remat": config.remat, "scan_layers": config.scan_layers}
    encoder = replace(encoder, **loops)
    _check_sizes(config, encoder, tokenizer)
    model = build_model(encoder, nsp=config.nsp)
    sample = pack(make_examples([[tokenizer.special.cls]]), [0], Layout(max_length=8))
    key = jax.random.key(config.seed)
    return encoder, init_from(model.init, key, sample, **parts)


def _check_sizes(
    config: PretrainBertConfig, encoder: BertConfig, tokenizer: Tokenizer
) -> None:
    if tokenizer.vocab_size > encoder.vocab_size:
        raise ConfigError(
            f"The tokenizer has {tokenizer.vocab_size:,} pieces and the weights' "
            f"embedding {encoder.vocab_size:,}: take the tokenizer of the weights."
        )
    if config.nsp:
        require_segments(encoder, "Next-sentence prediction")
    if config.max_length > encoder.max_positions:
        raise ConfigError(
            f"--max-length {config.max_length}: this encoder has "
            f"{encoder.max_positions} positions."
        )


def _stored_heads(folder: Path, *, nsp: bool) -> dict[str, Any]:
    """Loads the heads that the weights come with and that the model has."""
    named = read_head_config(folder).architecture
    if not named.endswith(("ForMaskedLM", "ForPreTraining")):
        tell(f"{folder} holds no masked-LM head; it begins at random")
        return {}
    _, params = load_bert_model(folder)
    head = params["head"]
    masked_lm = head.get("masked_lm", head)
    if not nsp:
        return {"head": masked_lm}
    found = {"head/masked_lm": masked_lm}
    if "next_sentence" in head:
        found["head/next_sentence"] = head["next_sentence"]
    return found
