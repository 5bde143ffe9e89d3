import json
from dataclasses import replace

import numpy as np
import pytest

from tl_jax.files.errors import ConfigError, DataError, NonFiniteError
from tl_jax.interop.word_vectors import read_word_vectors
from tl_jax.report.vectors import report_vectors, trained_vectors
from tl_jax.runs.config import FinetuneConfig
from tl_jax.runs.job import prepare
from tl_jax.runs.pretrain_vectors import PretrainVectorsConfig, pretrain_vectors
from tl_jax.text.subwords import load_tokenizer
from tl_jax.training.log import read_log, without_clock

SIZE = 12


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Sentences of two topics; one word in ten is of the other one."""
    draw = np.random.default_rng(0)
    file = tmp_path_factory.mktemp("text") / "text.txt"
    topics = [[f"{name}{k}" for k in range(8)] for name in ("cat", "car")]
    lines = []
    for n in range(600):
        foreign = (draw.random(9) < 0.1).astype(int)
        lines.append(" ".join(topics[(n + f) % 2][draw.integers(8)] for f in foreign))
    file.write_text("\n".join(lines) + "\n")
    return file


def config_of(method, text, **changes):
    given = {"size": SIZE, "window": 3, "learning_rate": 0.1}
    given |= {"sample": 0.0} if method == "skipgram" else {}
    return PretrainVectorsConfig((str(text),), method, **(given | changes))


# gensim leaves files without a header open.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("method", ["skipgram", "glove"])
def test_words_of_a_topic_come_together_and_files_hold_the_vectors(
    tmp_path, text, method
):
    judged = tmp_path / "pairs.tsv"
    judged.write_text(
        "cat0\tcat1\t9\ncar2\tcar3\t9\ncat4\tcar4\t1\ncat5\tcar5\t1\nCAT6\tcar6\t1\n"
        "cat0\tdog\t5\n"
    )
    epochs = 10
    own = {"x_max": 10.0} if method == "glove" else {}
    given = {"similarity": (str(judged),), "epochs": epochs}
    config = config_of(method, text, **given, **own)
    results = pretrain_vectors(config, tmp_path / "run")
    assert results == json.loads((tmp_path / "run/results.json").read_text())
    # 2 of 5 pairs tie at the top: the best ρ is that of the gold's own ties.
    assert results["similarity"]["pairs"]["covered"] == 5
    assert results["similarity"]["pairs"]["spearman"] > 0.8
    assert (results["words"], results["tokens"]) == (16, 5400)
    log = read_log(tmp_path / "run/metrics.jsonl")
    assert log[-1]["loss"] < 0.9 * log[0]["loss"]
    assert [r["step"] for r in log] == sorted({r["step"] for r in log})
    run = json.loads((tmp_path / "run/run.json").read_text())
    assert run["config"]["window"] == 3 and run["config"]["epochs"] == epochs
    expected = ["glove.txt", "metrics.jsonl", "results.json", "run.json"]
    names = sorted(p.name for p in (tmp_path / "run").iterdir() if p.name != ".lock")
    assert names == [*expected, "word2vec.txt"]
    with_header = read_word_vectors(tmp_path / "run/word2vec.txt")
    without = read_word_vectors(tmp_path / "run/glove.txt", kind="glove")
    assert with_header.words == without.words and len(without.words) == 16
    np.testing.assert_array_equal(with_header.vectors, without.vectors)
    keyed = pytest.importorskip("gensim.models").KeyedVectors
    for name, header in (("word2vec.txt", False), ("glove.txt", True)):
        theirs = keyed.load_word2vec_format(
            str(tmp_path / "run" / name), no_header=header
        )
        assert tuple(theirs.index_to_key) == without.words
        np.testing.assert_array_equal(theirs.vectors, without.vectors)
    with pytest.raises(ConfigError, match="already holds a run"):
        pretrain_vectors(config, tmp_path / "run")


def test_vectors_of_sub_words_go_into_a_classifier(tmp_path, tiny):
    lines = (tiny / "train.tsv").read_text(encoding="utf-8").splitlines()[1:]
    text = tmp_path / "text.txt"
    text.write_text("\n".join(line.split("\t")[0] for line in lines) + "\n")
    config = config_of("skipgram", text, units="pieces", max_words=40, min_count=1)
    results = pretrain_vectors(config, tmp_path / "vectors")
    folder = tmp_path / "vectors" / "model"
    table, tokenizer = (
        read_word_vectors(folder / "word2vec.txt"),
        load_tokenizer(folder),
    )
    assert results["words"] == len(table.words) <= tokenizer.vocab_size <= 40
    assert any(word.startswith("##") for word in table.words)
    assert {*table.words} <= {*tokenizer.vocabulary}
    job, params = prepare(
        FinetuneConfig(
            "classify",
            (str(tiny / "train.tsv"),),
            str(tiny / "dev.tsv"),
            str(folder),
            plan="freeze",
            devices=1,
        )
    )
    embedding = params["encoder"]["embedding"]["embedding"]
    assert embedding.shape == (tokenizer.vocab_size, SIZE)
    for number, piece in enumerate(tokenizer.vocabulary):
        if piece in table.words:
            wanted = table.vectors[table.index()[piece]]
            np.testing.assert_array_equal(embedding[number], wanted)
    examples, texts = job.encoded["train"].examples, job.parts["train"].rows.texts
    (wanted,) = tokenizer.encode(texts[:1], max_length=128).tokens
    np.testing.assert_array_equal(examples.tokens[: examples.lengths[0]], wanted)


@pytest.mark.parametrize("method", ["skipgram", "glove"])
def test_the_same_seed_gives_the_same_bytes(tmp_path, text, method):
    config = config_of(method, text, epochs=1)
    seeds = (0, 0, 1)
    files = [
        pretrain_vectors(replace(config, seed=seed), tmp_path / str(n))["files"]
        for n, seed in enumerate(seeds)
    ]
    assert files[0] == files[1]
    assert files[0]["word2vec.txt"] != files[2]["word2vec.txt"]
    logs = [without_clock(read_log(tmp_path / n / "metrics.jsonl")) for n in "01"]
    assert logs[0] == logs[1]


def test_skipgrams_rate_falls_linearly(tmp_path, text):
    pretrain_vectors(config_of("skipgram", text, epochs=4), tmp_path / "run")
    rates = [r["learning_rate"] for r in read_log(tmp_path / "run/metrics.jsonl")]
    np.testing.assert_allclose(rates, [0.1, 0.075, 0.05, 0.025], rtol=1e-6)


def test_wrong_options_are_told_together(tmp_path, text):
    config = config_of("glove", text, size=0, x_max=-1.0, epochs=0, seed=2**32)
    with pytest.raises(ConfigError) as caught:
        pretrain_vectors(config, tmp_path / "run")
    for name in ("--size 0", "--x-max -1.0", "--epochs 0", "--seed 4294967296"):
        assert name in str(caught.value)


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        ("glove", {"negatives": 9, "sample": 1e-5}, "--negatives and --sample: no opt"),
        ("skipgram", {"x_max": 9.0, "memory": 5}, "--x-max and --memory: no option of"),
        ("skipgram", {"sample": 1.0}, "--sample 1.0: from 0 to below 1"),
        ("skipgram", {"max_words": 1}, "--max-words 1: it must be 2 or more"),
    ],
)
def test_options_without_effect_are_refused(tmp_path, text, method, changes, message):
    with pytest.raises(ConfigError, match=message):
        pretrain_vectors(config_of(method, text, **changes), tmp_path / "run")


def test_a_loss_that_is_not_finite_stops_it(tmp_path, text):
    config = config_of("glove", text, learning_rate=1e30, epochs=5)
    with pytest.raises(NonFiniteError, match="lower --learning-rate"):
        pretrain_vectors(config, tmp_path / "run")
    left = {p.name for p in (tmp_path / "run").iterdir()}
    assert left == {"run.json", "metrics.jsonl", ".lock"}


@pytest.mark.parametrize(
    ("method", "lines", "changes"),
    [
        ("glove", "a\nb\n" * 20, {}),
        ("skipgram", "a\nb\n" * 20, {}),
        ("skipgram", "a b\n", {"sample": 1e-3}),  # all words are thinned out
    ],
)
def test_text_without_neighbours_is_told_and_gives_no_vectors(
    tmp_path, method, lines, changes
):
    text = tmp_path / "text.txt"
    text.write_text(lines)
    config = config_of(method, text, min_count=1, **changes)
    with pytest.raises(DataError, match=r"text\.txt: no two words"):
        pretrain_vectors(config, tmp_path / "run")
    assert not list((tmp_path / "run").glob("word2vec*"))


def test_report_tells_the_scores_of_vectors(tmp_path, text):
    judged = tmp_path / "pairs.tsv"
    judged.write_text("cat0\tcat1\t9\ncat4\tcar4\t1\ncat0\tdog\t5\n")
    config = config_of("skipgram", text, epochs=1, similarity=(str(judged),))
    found = pretrain_vectors(config, tmp_path / "scored")["similarity"]["pairs"]
    pretrain_vectors(config_of("glove", text, epochs=1), tmp_path / "plain")
    runs = [tmp_path / "scored", tmp_path / "plain"]
    assert all(map(trained_vectors, runs))
    assert not trained_vectors(tmp_path)
    head, _, *rows = report_vectors(runs).splitlines()
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in (head, *rows)]
    assert cells[0][-1] == "pairs"
    assert cells[1][:3] == [str(runs[0]), "skipgram", str(SIZE)]
    assert cells[1][-1] == f"{100 * found['spearman']:.1f} (67%)"
    assert cells[2][-1] == "–"
