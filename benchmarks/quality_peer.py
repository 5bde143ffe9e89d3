"""The other side of `quality.py`: transformers + torch, as its own examples have it.

Texts are cut by transformers' tokenizer, batches padded to their longest example.
Answers are the best of the 20 best starts with the 20 best ends, as in ``run_qa.py``.
Tags are found by the constrained Viterbi search of this library, which serves them
better than the best tag of each token (``argmax_f1``).
"""

import itertools
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
import torch
import transformers
from jaxtyping import Float, Int
from peer_adamw import adamw
from quality_task import CLIP, DECAY, EPOCHS, TASKS, WARMUP, Recipe, Start, Task

from tl_jax.interop.load import find_weights
from tl_jax.metrics import span_qa
from tl_jax.models.crf import iob2_constraints, viterbi
from tl_jax.tasks import classification, srl, tagging
from tl_jax.tasks.span_qa import SpanQa
from tl_jax.tasks.word_tags import tag_ids

IGNORED = -100  # the label that torch's cross-entropy passes over
PADS = {"labels": IGNORED}  # 0 elsewhere
N_BEST, EVAL_BATCH = 20, 64
Feature = dict[str, Any]


class Encoded(NamedTuple):
    """Examples, and what leads their logits back to the rows."""

    features: list[Feature]
    source: list[Any]


@dataclass(frozen=True, eq=False)
class Reader:
    """What turns rows into examples: the tokenizer, the labels, the task's sizes."""

    tokenizer: Any
    labels: tuple[str, ...]
    task: Task
    length: int

    def cut(self, *texts: Any, **how: Any) -> Any:
        """Tokenises texts or pairs, cut where they are too long."""
        return self.tokenizer(*texts, max_length=self.length, **how)


def train_and_score(
    task: Task, seed: int, start: Start | None = None
) -> dict[str, float]:
    """Fine-tunes to the last step, and scores the dev data.

    Args:
      task: What is learnt.
      seed: Keys what is drawn.
      start: Instead, the first head and the order of examples.
    """
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(seed)
    auto, encode, judge = KINDS[task.config.task]
    folder = find_weights(task.config.weights)
    labels = task.learnt.labels(task.train)
    sizes = {} if task.config.task == "span" else {"num_labels": len(labels)}
    model = auto.from_pretrained(folder, attn_implementation="sdpa", **sizes)
    length = min(task.learnt.max_length, model.config.max_position_embeddings)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    reader = Reader(tokenizer, labels, task, length)
    features = encode(reader, task.train, targets=True).features
    orders = draw_orders(len(features), seed)
    if start is not None:
        orders = start.orders
        set_head(model, start)
    train(model, features, TASKS[task.name], orders)
    dev = encode(reader, task.dev, targets=False)
    return judge(reader, task.dev, dev.source, predict(model, dev.features))


def draw_orders(count: int, seed: int) -> list[list[int]]:
    """Draws the order of the examples in each epoch."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randperm(count, generator=generator).tolist() for _ in range(EPOCHS)]


def set_head(model: Any, start: Start) -> None:
    """Replaces the head that was drawn."""
    head = model.qa_outputs if hasattr(model, "qa_outputs") else model.classifier
    with torch.no_grad():
        head.weight.copy_(torch.tensor(start.kernel.T))
        head.bias.copy_(torch.tensor(start.bias))


def train(
    model: Any,
    features: Sequence[Feature],
    recipe: Recipe,
    orders: Sequence[Sequence[int]],
) -> None:
    """AdamW with linear warm-up and decay, an epoch for each order of the examples."""
    optimizer = adamw(model, recipe.rate, DECAY)
    total = EPOCHS * -(-len(features) // recipe.batch_size)
    schedule = transformers.get_linear_schedule_with_warmup(
        optimizer, math.ceil(WARMUP * total), total
    )
    model.train()
    for order in orders:
        for some in grouped(order, recipe.batch_size):
            model(**batch([features[n] for n in some])).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()


def predict(model: Any, features: Sequence[Feature]) -> list[np.ndarray]:
    """The logits of each example: of its classes, or of each token's."""
    found: dict[int, np.ndarray] = {}
    lengths = [len(feature["input_ids"]) for feature in features]
    order = sorted(range(len(features)), key=lengths.__getitem__)
    model.eval()
    for some in grouped(order, EVAL_BATCH):
        with torch.inference_mode():
            output = model(**batch([features[n] for n in some]))
        if "start_logits" in output:
            logits = torch.stack([output.start_logits, output.end_logits], dim=2)
        else:
            logits = output.logits
        for n, own in zip(some, logits.numpy(), strict=True):
            found[n] = own[: lengths[n]] if own.ndim > 1 else own
    return [found[n] for n in range(len(features))]


def batch(features: Sequence[Feature]) -> dict[str, torch.Tensor]:
    """Pads examples to the longest of them."""
    width = max(len(feature["input_ids"]) for feature in features)
    found = {}
    for name, first in features[0].items():
        rows = [feature[name] for feature in features]
        if isinstance(first, list):
            pad = PADS.get(name, 0)
            rows = [row + [pad] * (width - len(row)) for row in rows]
        found[name] = torch.tensor(rows)
    return found


def grouped(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Cuts a sequence into runs of ``size``, the last one perhaps shorter."""
    return (items[n : n + size] for n in range(0, len(items), size))


def plain(encoding: Any) -> Iterator[Feature]:
    """The inputs of each example that a tokenizer cut."""
    names = ("input_ids", "token_type_ids", "attention_mask")
    for values in zip(*(encoding[name] for name in names), strict=True):
        yield dict(zip(names, values, strict=True))


def encode_pairs(reader: Reader, rows: Any, *, targets: bool) -> Encoded:
    """One example a pair, the longer text cut first."""
    features = list(plain(reader.cut(rows.texts, rows.pairs, truncation=True)))
    if targets:
        numbers = classification.row_labels(rows, reader.labels).tolist()
        for feature, number in zip(features, numbers, strict=True):
            feature["labels"] = number
    return Encoded(features, [])


def judge_pairs(
    reader: Reader, rows: Any, source: list[Any], logits: list[np.ndarray]
) -> dict[str, float]:
    """The most probable class."""
    del source
    log_probs = np.array(jax.nn.log_softmax(np.stack(logits)))
    labels = classification.row_labels(rows, reader.labels)
    return classification.scores(log_probs, labels)


def encode_sentences(reader: Reader, rows: Any, *, targets: bool) -> Encoded:
    """One example a sentence; a word's first piece bears its tag."""
    encoding = reader.cut(rows.sentences, truncation=True, is_split_into_words=True)
    features = list(plain(encoding))
    source = [first_pieces(encoding.word_ids(n)) for n in range(len(features))]
    if targets:
        tags = tag_ids(rows, reader.labels)
        for feature, first, own in zip(features, source, tags, strict=True):
            feature["labels"] = [IGNORED] * len(feature["input_ids"])
            for word, token in first.items():
                feature["labels"][token] = int(own[word])
    return Encoded(features, source)


def judge_sentences(
    reader: Reader, rows: Any, source: list[Any], logits: list[np.ndarray]
) -> dict[str, float]:
    """The best legal tags of the first pieces; words that were cut off are O."""
    seen = [own[[*first.values()]] for own, first in zip(logits, source, strict=True)]
    lengths = list(map(len, rows.sentences))

    def named(tags: Sequence[np.ndarray]) -> list[list[str]]:
        return [
            spread_tags(dict(zip(first, own, strict=True)), length, reader.labels)
            for first, own, length in zip(source, tags, lengths, strict=True)
        ]

    each = tagging.scores(rows.tags, named([own.argmax(axis=1) for own in seen]))
    found = tagging.scores(rows.tags, named(best_legal(seen)))
    return found | {"argmax_f1": each["strict_iob2_f1"]}


def encode_roles(reader: Reader, rows: Any, *, targets: bool) -> Encoded:
    """One example a predicate, told by the segment ids; all pieces bear tags."""
    sentences = [rows.words(n) for n in range(len(rows))]
    encoding = reader.cut(sentences, truncation=True, is_split_into_words=True)
    tags = tag_ids(rows, reader.labels) if targets else None
    features, source = [], []
    for n, feature in enumerate(plain(encoding)):
        words = encoding.word_ids(n)
        feature["token_type_ids"] = [int(word == rows.predicate[n]) for word in words]
        if tags is not None:
            feature["labels"] = piece_labels(words, tags[n])
        features.append(feature)
        source.append(first_pieces(words))
    return Encoded(features, source)


def piece_labels(words: Sequence[int | None], tags: Int[np.ndarray, "_"]) -> list[int]:
    """The tag of each piece: I-X for the later ones of a word with B-X."""
    found = []
    before = None
    for word in words:
        tag = 0 if word is None else int(tags[word])
        begins = tag % 2 == 1  # the number of I-X is one more
        found.append(tag + int(begins and word == before))
        before = word
    return found


def judge_roles(
    reader: Reader, rows: Any, source: list[Any], logits: list[np.ndarray]
) -> dict[str, float]:
    """The best legal tags of all pieces; a word has that of its first one."""
    lengths = [len(rows.words(n)) for n in range(len(rows))]

    def named(tags: Sequence[np.ndarray]) -> list[list[str]]:
        return [
            spread_tags({w: own[t] for w, t in first.items()}, length, reader.labels)
            for first, own, length in zip(source, tags, lengths, strict=True)
        ]

    each = srl.scores(rows.tags, named([own.argmax(axis=1) for own in logits]))
    found = srl.scores(rows.tags, named(best_legal(logits)))
    return found | {"argmax_f1": each["f1"]}


def first_pieces(words: Sequence[int | None]) -> dict[int, int]:
    """The token at which each word begins."""
    found: dict[int, int] = {}
    for token, word in enumerate(words):
        if word is not None:
            found.setdefault(word, token)
    return found


def spread_tags(
    tags: Mapping[int, Any], length: int, names: Sequence[str]
) -> list[str]:
    """The names of words' tags; O where a word has none."""
    return [names[int(tags.get(word, 0))] for word in range(length)]


def best_legal(
    logits: Sequence[Float[np.ndarray, "_ N"]],
) -> list[Int[np.ndarray, "_"]]:
    """The best sequences of tags in which no I-X follows anything but X."""
    width = max(map(len, logits))
    constraints = iob2_constraints(logits[0].shape[1])
    search = jax.jit(lambda scores, mask: viterbi(scores, constraints, mask, 1 * mask))
    found: list[np.ndarray] = []
    for some in grouped(logits, EVAL_BATCH):
        scores = np.zeros((EVAL_BATCH, width, logits[0].shape[1]), np.float32)
        mask = np.zeros((EVAL_BATCH, width), bool)
        for n, own in enumerate(some):
            scores[n, : len(own)], mask[n, : len(own)] = own, True
        best = np.asarray(search(scores, mask))
        found += [best[n, : len(own)] for n, own in enumerate(some)]
    return found


def encode_questions(reader: Reader, rows: Any, *, targets: bool) -> Encoded:
    """One example a window, with the same windows as ours."""
    settings = reader.task.learnt
    assert isinstance(settings, SpanQa)
    features, source = [], []
    for n, question in enumerate(rows.questions):
        asked = len(reader.tokenizer(question, add_special_tokens=False).input_ids)
        encoding = reader.cut(
            question,
            rows.contexts[rows.context[n]],
            truncation="only_second",
            # What they call stride is how much windows overlap.
            stride=max(reader.length - 3 - asked - settings.window_step, 0),
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        for k, feature in enumerate(plain(encoding)):
            within = [s == 1 for s in encoding.sequence_ids(k)]
            offsets = np.where(
                np.array(within)[:, None], encoding["offset_mapping"][k], -1
            )
            if targets:
                start, end = place(rows.answers[n][0], offsets)
                feature |= {"start_positions": start, "end_positions": end}
            features.append(feature)
            source.append((n, offsets))
    return Encoded(features, source)


def place(gold: Any, offsets: Int[np.ndarray, "T 2"]) -> tuple[int, int]:
    """First and last token of an answer; [CLS] twice if the window lacks it."""
    begins, ends = offsets.T
    start, end = gold.start, gold.start + len(gold.text)
    text = np.flatnonzero(ends >= 0)
    if not len(text) or begins[text[0]] > start or ends[text[-1]] < end:
        return 0, 0
    first = text[np.flatnonzero(begins[text] <= start)[-1]]
    return int(first), int(text[np.flatnonzero(ends[text] >= end)[0]])


def judge_questions(
    reader: Reader, rows: Any, source: list[Any], logits: list[np.ndarray]
) -> dict[str, float]:
    """The best answer over all windows of a question."""
    settings = reader.task.learnt
    assert isinstance(settings, SpanQa)
    best: dict[str, tuple[float, str]] = {name: (-math.inf, "") for name in rows.ids}
    for (n, offsets), own in zip(source, logits, strict=True):
        text, name = rows.contexts[rows.context[n]], rows.ids[n]
        for score, start, end in spans(own, offsets, settings.max_answer):
            best[name] = max(best[name], (score, text[start:end]))
    answers = {name: text for name, (_, text) in best.items()}
    return span_qa.totals(answers, rows.golds, "squad")


def spans(
    logits: Float[np.ndarray, "T 2"], offsets: Int[np.ndarray, "T 2"], longest: int
) -> Iterator[tuple[float, int, int]]:
    """Score, first and one-past-last character of the best starts and ends."""
    starts, ends = np.argsort(-logits, axis=0)[:N_BEST].T.tolist()
    for start, end in itertools.product(starts, ends):
        inside = offsets[start, 0] >= 0 and offsets[end, 1] >= 0
        if inside and start <= end < start + longest:
            score = float(logits[start, 0] + logits[end, 1])
            yield score, int(offsets[start, 0]), int(offsets[end, 1])


KINDS: Mapping[str, tuple[Any, Callable[..., Encoded], Callable[..., Any]]] = {
    "pair": (
        transformers.AutoModelForSequenceClassification,
        encode_pairs,
        judge_pairs,
    ),
    "span": (
        transformers.AutoModelForQuestionAnswering,
        encode_questions,
        judge_questions,
    ),
    "tag": (
        transformers.AutoModelForTokenClassification,
        encode_sentences,
        judge_sentences,
    ),
    "srl": (transformers.AutoModelForTokenClassification, encode_roles, judge_roles),
}
