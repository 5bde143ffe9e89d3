"""Records what transformers computes, for machines where it is not installed.

    python tests/oracles/record.py [MINILM_FOLDER]

writes tests/oracles/bert/ARCHITECTURE (a tiny random model as save_pretrained writes
it, and expected.npz) and, given MiniLM's folder, tests/oracles/minilm.npz. The models
have large random weights: with BERT's own 0.02, attention is nearly uniform and an
activation's argument nearly zero, and a wrong one would hardly show.
"""

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
LENGTHS = (7, 3, 12, 2, 1)
VOCABULARY = 40
ARCHITECTURES = {
    "BertModel": "gelu",
    "BertForSequenceClassification": "gelu_new",
    "BertForTokenClassification": "relu",
    "BertForQuestionAnswering": "gelu",
    "BertForMaskedLM": "gelu_new",
    "BertForNextSentencePrediction": "relu",
    "BertForPreTraining": "gelu",
}
MINILM_TEXTS = (
    ("Crème brûlée in a naïve café — déjà vu!", None),
    ("영화가 정말 재미있었다. 다시 보고 싶다.", None),
    ("", None),
    ("Where was it filmed?", "The film was shot in Reykjavík, 1999."),
    ("A text that is much longer than it may be. " * 12, None),
)
MINILM_LENGTH = 32
MINILM_TOKENS = 3  # of each text, to keep the file small


def tiny_model(architecture: str, activation: str, seed: int = 0) -> Any:
    """Makes a torch model with hidden size 16, 2 layers and large random weights."""
    import torch
    import transformers

    config = transformers.BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=24,
        max_position_embeddings=20,
        hidden_act=activation,
        num_labels=2 if "Question" in architecture else 3,
        attn_implementation="eager",
    )
    model = getattr(transformers, architecture)(config).eval()
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        noise = torch.randn(parameter.shape, generator=generator) * 0.3
        centre = 1.0 if name.endswith("LayerNorm.weight") else 0.0
        parameter.data = centre + noise
    model.tie_weights()
    return model


def run(
    model: Any, tokens: np.ndarray, types: np.ndarray, mask: np.ndarray
) -> dict[str, np.ndarray]:
    """Runs a torch model; returns its layers and every output by name."""
    import torch

    inputs = {"input_ids": tokens, "token_type_ids": types, "attention_mask": mask}
    inputs = {name: torch.tensor(x).long() for name, x in inputs.items()}
    with torch.no_grad():
        output = model(**inputs, output_hidden_states=True)
    found = {name: x.numpy() for name, x in output.items() if torch.is_tensor(x)}
    layers = {f"layer_{n}": x.numpy() for n, x in enumerate(output.hidden_states)}
    return found | layers


def record_tiny(architecture: str, activation: str) -> None:
    """Writes one tiny model and what it makes of random examples."""
    from batches import padded, random_examples

    folder = HERE / "bert" / architecture
    shutil.rmtree(folder, ignore_errors=True)
    model = tiny_model(architecture, activation, seed=len(architecture))
    # One of them in shards, so that an index is among the recorded folders.
    shard = "8KB" if architecture == "BertForPreTraining" else "1GB"
    model.save_pretrained(folder, max_shard_size=shard)
    batch = padded(random_examples(LENGTHS, VOCABULARY), max(LENGTHS))
    outputs = run(model, batch.tokens, batch.types, batch.mask)
    np.savez_compressed(folder / "expected.npz", **outputs)


def record_minilm(folder: Path) -> None:
    """Writes the first tokens' states of every layer of MiniLM."""
    import transformers

    model = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    first, second = zip(*MINILM_TEXTS, strict=True)
    encoded = [
        tokenizer(a, b, truncation=True, max_length=MINILM_LENGTH, padding="max_length")
        for a, b in zip(first, second, strict=True)
    ]
    names = ("input_ids", "token_type_ids", "attention_mask")
    inputs = [np.array([e[name] for e in encoded], np.int32) for name in names]
    outputs = run(model, *inputs)
    kept = {
        name: x[:, :MINILM_TOKENS] if name.startswith("layer_") else x
        for name, x in outputs.items()
        if name.startswith("layer_") or name == "pooler_output"
    }
    inputs = dict(zip(("tokens", "types", "mask"), inputs, strict=True))
    np.savez_compressed(HERE / "minilm.npz", **inputs, **kept)


if __name__ == "__main__":
    for name, activation in ARCHITECTURES.items():
        record_tiny(name, activation)
    if len(sys.argv) > 1:
        record_minilm(Path(sys.argv[1]))
