"""Heads of foreign checkpoints, whose classes may stand in another order."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_runs import WORDS, write_tsv
from tiny_tasks import write_entities, write_questions

from tl_jax.data.packing import Layout, pack
from tl_jax.runs.config import FinetuneConfig
from tl_jax.runs.job import prepare
from tl_jax.runs.stored_head import stored_head

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
ENDS = {
    "classify": "ForSequenceClassification",
    "tag": "ForTokenClassification",
    "span": "ForQuestionAnswering",
}
WRITERS = {
    "classify": (write_tsv, ".tsv"),
    "tag": (write_entities, ".conll"),
    "span": (write_questions, ".json"),
}
OURS = {"classify": ["0", "1"], "tag": ["O", "B-0", "I-0", "B-1", "I-1"], "span": []}


def save_theirs(folder: Path, task: str, names: list[str]) -> Any:
    """Saves a model of transformers with random weights and these classes."""
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=len(PIECES),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        initializer_range=0.5,
        **({"id2label": dict(enumerate(names))} if names else {}),
    )
    model = getattr(transformers, f"Bert{ENDS[task]}")(config).eval()
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    return model


def options(folder: Path, task: str, **more: Any) -> FinetuneConfig:
    write, suffix = WRITERS[task]
    write(folder / f"data{suffix}", 16, 1)
    file, weights = str(folder / f"data{suffix}"), str(folder / "theirs")
    known: Any = {"task": task, "train": (file,), "dev": file, "weights": weights}
    return FinetuneConfig(**known, packed=False, devices=1, **more)


@pytest.mark.parametrize(
    ("task", "names"),
    [
        ("classify", ["1", "0"]),
        ("tag", ["I-1", "B-0", "I-0", "B-1", "O"]),
        ("span", []),
    ],
)
def test_logits_are_theirs_by_the_names_of_the_classes(
    task: str, names: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = save_theirs(tmp_path / "theirs", task, names)
    job, params = prepare(options(tmp_path, task))
    told = capsys.readouterr().err
    assert f"the head is that of Bert{ENDS[task]}" in told
    assert ("put in order by name" in told) == bool(names)
    assert list(job.setup.labels) == (OURS[task] or ["answer"])
    batch = pack(job.encoded["train"].examples, range(4), Layout(packed=False))
    logits = np.asarray(job.model.apply(params, batch, train=False))
    order = [names.index(name) for name in OURS[task]] or [0, 1]
    for row, real in enumerate(batch.mask):
        wanted = their_logits(theirs, batch.tokens[row, real], batch.types[row, real])
        found = logits[row, 0] if task == "classify" else logits[row, real]
        np.testing.assert_allclose(found, wanted[..., order], atol=1e-4)


def their_logits(model: Any, tokens: np.ndarray, types: np.ndarray) -> np.ndarray:
    import torch

    inputs = {"input_ids": tokens, "token_type_ids": types}
    tensors = {name: torch.tensor(x[None].astype(int)) for name, x in inputs.items()}
    with torch.no_grad():
        output = model(**tensors)
    if "start_logits" in output:
        return torch.stack([output.start_logits, output.end_logits], -1)[0].numpy()
    return output.logits[0].numpy()


@pytest.mark.parametrize(
    ("task", "names", "more", "why"),
    [
        ("classify", ["NEG", "POS"], {}, "only it has NEG, POS; only the data have 0"),
        ("classify", ["0", "1"], {"pooling": "mean"}, "it reads the pooler"),
        ("tag", ["O", "B-0", "I-0"], {}, "3 classes and the data 5; only the data"),
        ("tag", ["O", "B-0", "I-0", "B-1", "O"], {}, "5 classes and the data 5"),
    ],
)
def test_heads_of_other_classes_are_left_out_and_told(
    task: str,
    names: list[str],
    more: dict[str, Any],
    why: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    save_theirs(tmp_path / "theirs", task, names)
    _, params = prepare(options(tmp_path, task, **more))
    told = capsys.readouterr().err
    assert f"the head of Bert{ENDS[task]} is left out" in told
    assert why in told
    kernel = np.asarray(params["head"]["output"]["kernel"])
    assert kernel.shape == (16, len(OURS[task]))
    assert abs(kernel).max() < 0.3  # drawn as new ones are, not as theirs


def test_a_crf_begins_with_the_stored_emissions(tmp_path: Path) -> None:
    names = OURS["tag"][::-1]
    theirs = save_theirs(tmp_path / "theirs", "tag", names)
    _, params = prepare(options(tmp_path, "tag", crf=True))
    kernel = theirs.classifier.weight.detach().numpy().T
    np.testing.assert_array_equal(params["head"]["output"]["kernel"], kernel[:, ::-1])
    assert not np.any(params["head"]["between"])


def test_a_head_for_another_task_says_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_theirs(tmp_path / "theirs", "classify", ["0", "1"])
    config = options(tmp_path, "tag")
    job, _ = prepare(config)
    assert "head" not in capsys.readouterr().err
    assert stored_head(config.weights, job.model, job.setup.labels) == {}
