"""Records how torch and transformers fine-tune a tiny BERT, for machines without them.

    python tests/oracles/training.py

writes tests/oracles/training.npz: losses and gradient norms of twenty steps of AdamW
with a linear warm-up and decay and the norm clipped to 1, from the recorded weights of
tests/oracles/bert/BertForSequenceClassification, and some weights at the end.
"""

import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

HERE = Path(__file__).parent
MODEL = HERE / "bert" / "BertForSequenceClassification"
STEPS, WARMUP, PEAK, DECAY = 20, 5, 2e-3, 0.01


class Inputs(NamedTuple):
    """One batch, padded: ids, segments and mask ``[B, T]``; labels ``[B]``."""

    tokens: np.ndarray
    types: np.ndarray
    mask: np.ndarray
    labels: np.ndarray


def inputs(
    step: int, *, vocabulary: int, classes: int, rows: int = 8, length: int = 12
) -> Inputs:
    """Draws the batch of a step; the label is told by the first token."""
    draw = np.random.default_rng(step)
    # Never 0: torch gives the padding's row no gradient, wherever it stands.
    tokens = draw.integers(1, vocabulary, (rows, length)).astype(np.int32)
    lengths = draw.integers(3, length + 1, (rows, 1))
    mask = (np.arange(length)[None, :] < lengths).astype(np.int32)
    types = (np.arange(length)[None, :] >= lengths // 2).astype(np.int32) * mask
    labels = (tokens[:, 0] % classes).astype(np.int32)
    return Inputs(tokens, types, mask, labels)


def load(folder: Path, classes: int, **changes: Any) -> Any:
    """Loads a torch classifier without dropout; a head that is missing is random."""
    import torch
    import transformers

    torch.manual_seed(0)
    return transformers.BertForSequenceClassification.from_pretrained(
        folder,
        num_labels=classes,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        attn_implementation="eager",
        **changes,
    ).train()


def train(
    model: Any, batches: list[Inputs], peak: float
) -> tuple[np.ndarray, np.ndarray]:
    """Fine-tunes a torch model in place; returns losses and norms before the clip."""
    import torch
    import transformers

    plain = ("bias", "LayerNorm.weight")
    named = list(model.named_parameters())
    groups = [
        {"params": [p for n, p in named if n.endswith(plain)], "weight_decay": 0.0},
        {"params": [p for n, p in named if not n.endswith(plain)]},
    ]
    optimizer = torch.optim.AdamW(groups, lr=peak, weight_decay=DECAY)
    schedule = transformers.get_linear_schedule_with_warmup(
        optimizer, WARMUP, len(batches)
    )
    losses, norms = [], []
    for batch in batches:
        tokens, types, mask, labels = (torch.tensor(x).long() for x in batch)
        loss = model(
            input_ids=tokens, token_type_ids=types, attention_mask=mask, labels=labels
        ).loss
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        norms.append(norm.item())
    return np.array(losses), np.array(norms)


def record() -> dict[str, np.ndarray]:
    """Trains the tiny model; returns what test_step.py compares with."""
    model = load(MODEL, 3)
    batches = [inputs(n, vocabulary=40, classes=3) for n in range(STEPS)]
    losses, norms = train(model, batches, PEAK)
    classifier = model.classifier.weight.detach().numpy().T
    words = model.bert.embeddings.word_embeddings.weight.detach().numpy()
    return {"losses": losses, "norms": norms, "classifier": classifier, "words": words}


if __name__ == "__main__":
    sys.stdout.write(f"{HERE / 'training.npz'}\n")
    np.savez_compressed(HERE / "training.npz", **record())
