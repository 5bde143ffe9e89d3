"""Korean text before vocabularies that take its syllables apart."""

import re
from collections.abc import Sequence

from tl_jax.files.errors import ConfigError
from tl_jax.text.subwords import Tokenizer

HANGUL_LIMIT = 0.3  # above this share of Hangul such a vocabulary is refused
_HANGUL = re.compile("[\u1100-\u11ff\u3130-\u318f\ua960-\ua97f\uac00-\ud7ff]+")
_LETTERS = re.compile(r"[^\W\d_]+")


def hangul_share(texts: Sequence[str]) -> float:
    """Returns the share of the texts' letters that are Hangul; 0 without letters."""
    letters = sum(len(run) for text in texts for run in _LETTERS.findall(text))
    hangul = sum(len(run) for text in texts for run in _HANGUL.findall(text))
    return hangul / letters if letters else 0.0


def hangul_warning(tokenizer: Tokenizer, texts: Sequence[str]) -> str | None:
    """Says why an uncased vocabulary does not suit the texts, or None if all is well.

    An uncased vocabulary strips accents by NFD, which also takes each Hangul syllable
    apart into jamo that the vocabulary was not made for (google-research/bert#135).
    One that lower-cases without that, or puts the syllables together again, does well.
    """
    if not tokenizer.splits_hangul:
        return None
    share = hangul_share(texts)
    if share <= HANGUL_LIMIT:
        return None
    return (
        f"{share:.0%} of the letters are Hangul, and this vocabulary strips accents, "
        "as uncased ones do: it splits each syllable into jamo (NFD), so that most of "
        "the text is lost. Use a model with a cased or a Korean vocabulary (such as "
        "klue/bert-base)"
    )


def check_hangul(
    tokenizer: Tokenizer, texts: Sequence[str], *, allow_uncased: bool = False
) -> None:
    """Refuses an uncased vocabulary where over 30 % of the letters are Hangul.

    Raises:
      ConfigError: It is so, and ``allow_uncased`` is False.
    """
    warning = None if allow_uncased else hangul_warning(tokenizer, texts)
    if warning:
        raise ConfigError(f"{warning}, or pass --allow-uncased to go on as it is.")
