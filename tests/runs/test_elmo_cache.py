"""States of a frozen biLM: computed once, the same as at each step, never damaged."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from tiny_elmo import SMALL_BILM, save_tiny_elmo
from tiny_runs import write_tsv
from tiny_tasks import write_entities, write_pairs, write_questions, write_roles

from tl_jax.data.examples import TokenInputs, make_examples
from tl_jax.models.compose import Params
from tl_jax.models.elmo import BiLm, character_cnn
from tl_jax.models.elmo_encoder import CHARACTERS, STATES
from tl_jax.runs import elmo_cache, elmo_features
from tl_jax.runs.config import FinetuneConfig
from tl_jax.runs.elmo_cache import find_sentences, remember_states
from tl_jax.runs.evaluate import evaluate
from tl_jax.runs.finetune import finetune
from tl_jax.runs.job import Job, prepare, task_predictor, with_states
from tl_jax.text.characters import word_characters


@pytest.fixture(scope="module")
def elmo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_elmo(tmp_path_factory.mktemp("elmo"))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TL_JAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "elmo"


def options(task: Any, elmo: Path, folder: Path, **more: Any) -> FinetuneConfig:
    write, suffix = FILES[task]
    file = folder / f"data{suffix}"
    write(file, 12, 3)
    return FinetuneConfig(
        task=task,
        train=(str(file),),
        dev=str(file),
        weights=str(elmo),
        max_length=24,
        batch_size=8,
        learning_rate=1e-2,
        epochs=1,
        devices=1,
        hidden_size=8,
        vectors="random",
        vector_size=4,
        **more,
    )


FILES = {
    "classify": (write_tsv, ".tsv"),
    "pair": (write_pairs, ".tsv"),
    "regress": (write_pairs, ".tsv"),
    "span": (write_questions, ".json"),
    "tag": (write_entities, ".conll"),
    "srl": (write_roles, ".conll"),
}


@pytest.fixture(scope="module")
def prepared(
    elmo: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Job, Params]:
    return prepare(options("classify", elmo, tmp_path_factory.mktemp("data")))


def states_of(job: Job, params: Params) -> np.ndarray:
    """The states of the training tokens, which the job is to have found."""
    inputs = with_states(job, params).encoded["train"].examples.inputs
    assert inputs is not None
    return np.array(inputs.tables[STATES])[inputs.index]


def test_sentences_are_runs_of_words_of_one_example() -> None:
    table = word_characters(["", "a", "b", "c", "b"], length=5)
    table[0] = 0  # a separator
    tokens = [[1, 2, 0, 3], [1, 2], [3, 0, 1, 2], [0], [2], [1, 4]]
    examples = make_examples(tokens)
    index = np.concatenate([np.array(t) for t in tokens])
    examples = replace(examples, inputs=TokenInputs(index, {CHARACTERS: table}))
    found = find_sentences(examples)
    lengths = [len(words) for words in found.words]
    assert lengths == [2, 1, 1]
    assert found.words[0].tolist() == [1, 2]
    assert {int(words[0]) for words in found.words[1:]} == {2, 3}
    b, c = (3, 4) if found.words[1].tolist() == [2] else (4, 3)
    # 0 is no word; "a b" has rows 1 and 2, wherever it stands.
    assert found.places.tolist() == [1, 2, 0, c, 1, 2, c, 0, 1, 2, 0, b, 1, 2]
    again = find_sentences(examples.subset([5, 3, 2, 4, 1]))
    assert again.sha256 == found.sha256
    assert find_sentences(examples.subset([0, 1])).sha256 != found.sha256


@pytest.mark.parametrize(
    ("task", "at", "more"),
    [
        ("classify", "input", {"elmo_norm": True}),
        ("pair", "both", {}),
        ("regress", "output", {}),
        ("span", "both", {}),
        ("tag", "output", {"crf": True}),
        ("srl", "input", {}),
    ],
)
def test_every_task_decides_as_without_the_cache(
    task: str, at: str, more: dict[str, Any], elmo: Path, tmp_path: Path
) -> None:
    job, params = prepare(options(task, elmo, tmp_path, elmo_at=at, **more))
    rng = np.random.default_rng(0)
    for name in ("mix_input", "mix_output"):
        if name in params["encoder"]:
            params["encoder"][name]["s"] = rng.normal(size=3).astype(np.float32)
    cached = with_states(job, params)
    predict = task_predictor(job.task, job.model, job.setup.config)
    found, wanted = (
        predict(params, one.encoded["dev"].examples, None) for one in (cached, job)
    )
    assert found is not None and wanted is not None
    inputs = cached.encoded["dev"].examples.inputs
    assert inputs is not None and [*inputs.tables] == [STATES]
    for mine, theirs in zip(
        jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True
    ):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=2e-6)


def test_states_are_computed_once_for_later_runs(
    prepared: tuple[Job, Params], monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    job, params = prepared
    read: list[int] = []

    def numbered(
        bilm: BiLm, params: Params, sentences: Any, table: Any, layers: Any
    ) -> Iterator[tuple[int, np.ndarray]]:
        read.append(len(sentences))
        for number, words in enumerate(sentences):
            yield number, np.full((len(words), len(layers), 32), number, np.float32)

    monkeypatch.setattr(elmo_cache, "read_states", numbered)
    first = states_of(job, params)
    texts = {tuple(text.split()) for text in job.parts["train"].rows.texts}
    assert read == [len(texts)]  # dev holds the same sentences
    assert set(np.unique(first)) == set(range(len(texts)))
    again, others = prepare(replace(job.setup.config, seed=5))
    np.testing.assert_array_equal(states_of(again, others), first)
    assert len(read) == len(list(cache.iterdir())) == 1
    # Others of another precision, and of other weights.
    states_of(*prepare(replace(job.setup.config, precision="bfloat16")))
    weights = replace(job.setup, weights={"sha256": "other"})
    states_of(replace(job, setup=weights), params)
    assert len(read) == len(list(cache.iterdir())) == 3


def test_what_learns_or_is_not_known_is_not_kept(
    prepared: tuple[Job, Params], cache: Path, elmo: Path
) -> None:
    job, params = prepared
    examples = job.encoded["train"].examples
    known = remember_states(
        examples, job.setup, job.model.encoder, params, compute=False
    )
    assert known is examples
    for changes in ({"plan": "slow"}, {"elmo_cache": False}):
        other, drawn = prepare(replace(job.setup.config, **changes))
        kept = with_states(other, drawn).encoded["train"].examples
        assert kept.inputs is not None and CHARACTERS in kept.inputs.tables
    assert not cache.exists()


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-4])


@pytest.mark.parametrize(
    ("damage", "name", "told"),
    [
        (flip, "states.bin", "contents differ"),
        (cut, "states.bin", "truncated"),
        (flip, "MANIFEST.json", "MANIFEST.json: contents differ"),
        (Path.unlink, "states.bin", "missing"),
        # As if it had been killed: there is no manifest yet.
        (Path.unlink, "MANIFEST.json", ""),
    ],
)
def test_damaged_states_are_told_of_and_computed_anew(
    damage: Any,
    name: str,
    told: str,
    prepared: tuple[Job, Params],
    cache: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    job, params = prepared
    wanted = states_of(job, params)
    (folder,) = cache.iterdir()
    damage(folder / name)
    (folder / "states.bin.tmp-1-0123abcd").write_bytes(b"left by a killed process")
    capfd.readouterr()
    np.testing.assert_array_equal(states_of(job, params), wanted)
    shown = capfd.readouterr().err
    assert told in shown and "reads" in shown
    assert {file.name for file in folder.iterdir()} == {
        ".lock",
        "states.bin",
        "MANIFEST.json",
    }


def test_without_room_nothing_is_kept(
    prepared: tuple[Job, Params],
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    job, params = prepared
    usage = elmo_cache.shutil.disk_usage("/")._replace(free=100)
    monkeypatch.setattr(elmo_cache.shutil, "disk_usage", lambda _: usage)
    kept = with_states(job, params).encoded["train"].examples
    assert kept.inputs is not None and CHARACTERS in kept.inputs.tables
    assert "no room to keep" in capfd.readouterr().err
    assert not list(cache.rglob("states*"))


def test_a_run_reads_them_and_is_evaluated_with_and_without(
    elmo: Path, tmp_path: Path, cache: Path
) -> None:
    config = options("tag", elmo, tmp_path, crf=True, elmo_at="both")
    results = finetune(config, tmp_path / "run")
    mixes = results["elmo_mixes"]
    assert [sum(mixes[at]["weights"]) for at in ("input", "output")] == [
        pytest.approx(1, abs=1e-6)
    ] * 2
    wanted = results["parts"]["dev"]["metrics"]
    assert evaluate(tmp_path / "run", config.dev)["metrics"] == wanted
    for file in cache.rglob("states.bin"):
        file.unlink()
    assert evaluate(tmp_path / "run", config.dev)["metrics"] == wanted
    assert not list(cache.rglob("states.bin"))  # an evaluation keeps nothing


def test_each_distinct_word_goes_through_the_characters_once(
    elmo: Path, prepared: tuple[Job, Params], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, params = prepared
    weights = params["encoder"]["bilm"]
    read: list[np.ndarray] = []
    compute = elmo_features._read_words

    def counted(config: Any, params: Any, characters: np.ndarray) -> Any:
        read.append(characters)
        return compute(config, params, characters)

    monkeypatch.setattr(elmo_features, "_WORDS", 4)
    monkeypatch.setattr(elmo_features, "_read_words", counted)
    bilm = BiLm(SMALL_BILM)
    lines = [line.split() for line in ("a film a film", "the film", "a bore is a bore")]
    found = dict(elmo_features.stateless_states(bilm, weights, lines, [0], 2))
    words = sorted({word for line in lines for word in line})
    spelt = np.concatenate(read[:-1])
    assert sum(row.any() for row in spelt) == len(words)  # beside <S> and </S>
    cnn = character_cnn(SMALL_BILM)
    characters = word_characters(words, length=SMALL_BILM.max_characters)
    vectors: Any = cnn.apply({"params": weights["characters"]}, characters)
    for number, line in enumerate(lines):
        mine = np.asarray(vectors)[[words.index(word) for word in line]]
        np.testing.assert_allclose(found[number][0][:, :16], mine, atol=1e-5)
