"""A run's best checkpoint as a folder that transformers loads."""

from pathlib import Path

from tl_jax.files.errors import ConfigError
from tl_jax.interop.huggingface import save_bert
from tl_jax.models.bert import Bert
from tl_jax.models.heads import Classify, Tag
from tl_jax.runs.evaluate import open_run
from tl_jax.text.subwords import Tokenizer


def export(run: Path, folder: Path) -> None:
    """Writes encoder, head, labels and tokenizer as a Hugging Face folder.

    Raises:
      ConfigError: The run's encoder has no counterpart there, or ``folder`` is not
        empty.
    """
    opened = open_run(run)
    encoder = opened.model.encoder
    if not isinstance(encoder, Bert) or not isinstance(opened.text, Tokenizer):
        raise ConfigError(
            f"{run} was trained on word vectors or ELMo, for which transformers has no "
            "model."
        )
    head = opened.model.head
    if isinstance(head, Classify) and encoder.config.pooling != "pooler":
        raise ConfigError(
            f"{run} pools by {encoder.config.pooling}; transformers' classifier reads "
            "the pooler. Fine-tune with --pooling pooler to export."
        )
    save_bert(
        folder,
        encoder.config,
        opened.params,
        head,
        labels=opened.setup.labels if isinstance(head, Classify | Tag) else (),
        tokenizer=opened.text,
    )
