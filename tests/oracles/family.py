"""Records what transformers computes with BERT's descendants, as record.py with BERT.

    python tests/oracles/family.py

writes tests/oracles/family/ARCHITECTURE: a tiny random model as save_pretrained writes
it, and expected.npz.
"""

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
LENGTHS = (7, 3, 12, 2, 1)
VOCABULARY = 40
POSITIONS = 20
PADS = {"electra": 0, "roberta": 1, "xlm-roberta": 1, "distilbert": 0}
NAMES = {
    "electra": "Electra",
    "roberta": "Roberta",
    "xlm-roberta": "XLMRoberta",
    "distilbert": "DistilBert",
}
ENDS = (
    "Model",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMaskedLM",
)
RECORDED = (
    ("electra", "ForSequenceClassification", "relu"),
    ("electra", "ForMaskedLM", "gelu_new"),
    ("roberta", "ForSequenceClassification", "gelu"),
    ("roberta", "ForMaskedLM", "relu"),
    ("xlm-roberta", "ForQuestionAnswering", "gelu"),
    ("distilbert", "ForSequenceClassification", "gelu"),
    ("distilbert", "ForMaskedLM", "relu"),
)


def tiny_model(kind: str, end: str, activation: str, seed: int = 0) -> Any:
    """Makes a torch model of 2 layers and large random weights."""
    import torch
    import transformers

    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "pad_token_id": PADS[kind],
        "num_labels": 2 if "Question" in end else 3,
        "attn_implementation": "eager",
    }
    if kind == "distilbert":
        sizes |= {"dim": 8, "n_layers": 2, "n_heads": 2, "hidden_dim": 12}
        sizes |= {"activation": activation, "max_position_embeddings": POSITIONS}
    else:
        sizes |= {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
        sizes |= {"intermediate_size": 12, "hidden_act": activation}
        offset = PADS[kind] + 1 if kind != "electra" else 0
        sizes |= {"max_position_embeddings": POSITIONS + offset}
        own = {"embedding_size": 6} if kind == "electra" else {"type_vocab_size": 1}
        sizes |= own | {"layer_norm_eps": 1e-12 if kind == "electra" else 1e-5}
    config = getattr(transformers, f"{NAMES[kind]}Config")(**sizes)
    model = getattr(transformers, NAMES[kind] + end)(config).eval()
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        noise = torch.randn(parameter.shape, generator=generator) * 0.3
        scale = "norm" in name.lower() and name.endswith("weight")
        parameter.data = (1.0 if scale else 0.0) + noise
    model.tie_weights()
    return model


def examples(kind: str) -> list[Any]:
    """Draws examples without the pad, by which RoBERTa counts its positions."""
    from oracles.batches import random_examples

    drawn = random_examples(LENGTHS, VOCABULARY)
    pad = PADS[kind]
    return [e._replace(tokens=np.where(e.tokens == pad, 5, e.tokens)) for e in drawn]


def run(model: Any, batch: Any) -> dict[str, np.ndarray]:
    """Runs a torch model on a padded batch; returns layers and outputs by name."""
    import torch

    kind, mask = model.config.model_type, np.asarray(batch.mask)
    inputs = {"input_ids": np.where(mask, batch.tokens, PADS[kind])}
    inputs |= {"attention_mask": mask}
    if kind == "electra":
        inputs["token_type_ids"] = batch.types
    tensors = {name: torch.tensor(np.asarray(x)).long() for name, x in inputs.items()}
    with torch.no_grad():
        output = model(**tensors, output_hidden_states=True)
    found = {name: x.numpy() for name, x in output.items() if torch.is_tensor(x)}
    layers = {f"layer_{n}": x.numpy() for n, x in enumerate(output.hidden_states)}
    return found | layers


def record(kind: str, end: str, activation: str) -> None:
    """Writes one tiny model and what it makes of random examples."""
    from oracles.batches import padded

    folder = HERE / "family" / (NAMES[kind] + end)
    shutil.rmtree(folder, ignore_errors=True)
    model = tiny_model(kind, end, activation, seed=len(kind + end))
    model.save_pretrained(folder)
    outputs = run(model, padded(examples(kind), max(LENGTHS)))
    np.savez_compressed(folder / "expected.npz", **outputs)


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))
    for row in RECORDED:
        record(*row)
