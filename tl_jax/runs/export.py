"""A run's best checkpoint as a folder that transformers loads."""

from pathlib import Path

from tl_jax.files.errors import ConfigError
from tl_jax.interop.huggingface import save_bert
from tl_jax.models.bert import Bert
from tl_jax.models.heads import Classify, Tag, TagCrf
from tl_jax.runs.evaluate import open_run
from tl_jax.text.subwords import Tokenizer


def export(run: Path, folder: Path, *, encoder_only: bool = False) -> None:
    """Writes encoder, head, labels and tokenizer as a Hugging Face folder.

    Args:
      run: The run directory.
      folder: New or empty.
      encoder_only: Leave head and labels out.

    Raises:
      ConfigError: The run's encoder or head has no counterpart there, or ``folder`` is
        not empty.
    """
    opened = open_run(run)
    encoder = opened.model.encoder
    if not isinstance(encoder, Bert) or not isinstance(opened.text, Tokenizer):
        raise ConfigError(
            f"{run} was trained on word vectors or ELMo, for which transformers has no "
            "model."
        )
    head, params = opened.model.head, opened.params
    if encoder_only:
        head, params = None, {"encoder": params["encoder"]}
    if isinstance(head, TagCrf):
        raise ConfigError(
            f"{run} scores whole sequences of tags, for which transformers has no "
            "model. Export the encoder alone (--encoder-only), or fine-tune without "
            "--crf."
        )
    if isinstance(head, Classify) and encoder.config.pooling != "pooler":
        raise ConfigError(
            f"{run} pools by {encoder.config.pooling}; transformers' classifier reads "
            "the pooler. Export the encoder alone (--encoder-only), or fine-tune with "
            "--pooling pooler."
        )
    save_bert(
        folder,
        encoder.config,
        params,
        head,
        labels=opened.setup.labels if isinstance(head, Classify | Tag) else (),
        tokenizer=opened.text,
    )
