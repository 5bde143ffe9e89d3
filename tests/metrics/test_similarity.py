import numpy as np
import pytest

from tl_jax.files.errors import DataError
from tl_jax.metrics.similarity import (
    analogy_scores,
    read_analogies,
    read_similarities,
    similarity_scores,
)


def gensim_vectors(words, vectors):
    keyed = pytest.importorskip("gensim.models").KeyedVectors(vectors.shape[1])
    keyed.add_vectors(list(words), vectors)
    return keyed


def random_vectors(words, size=6, seed=0):
    draw = np.random.default_rng(seed)
    return draw.normal(size=(len(words), size)).astype(np.float32)


@pytest.mark.parametrize("name", ["simlex999.txt", "wordsim353.tsv"])
def test_similarity_is_gensims(shared, name):
    file = shared / "embeddings" / name
    pairs = read_similarities(file)
    words = sorted({w.lower() for a, b, _ in pairs for w in (a, b)})[::2]
    vectors = random_vectors(words)
    index = {word: row for row, word in enumerate(words)}
    ours = similarity_scores(vectors, index, pairs, lowercase=True)
    keyed = gensim_vectors(words, vectors)
    _, rho, missing = keyed.evaluate_word_pairs(str(file), case_insensitive=True)
    assert ours["spearman"] == pytest.approx(rho.statistic, abs=1e-6)
    assert ours["covered"] == round(len(pairs) * (1 - missing / 100)) > 50
    assert ours["pairs"] == len(pairs) == {"s": 999, "w": 353}[name[0]]


def test_analogies_are_gensims(shared):
    file = shared / "embeddings" / "questions-words.txt"
    questions = read_analogies(file)
    assert len(questions) == 19544
    words = sorted({w.lower() for q in questions for w in q.words})
    words = [w for k, w in enumerate(words) if k % 7]
    # Each pair's second word is moved once towards its first, so that some answers are
    # right and none is tied.
    index = {word: row for row, word in enumerate(words)}
    vectors = random_vectors(words, 40)
    rows = {tuple(index.get(w.lower(), -1) for w in q.words[:2]) for q in questions}
    moved = {b: a for a, b in sorted(rows) if a >= 0 and b >= 0}
    before = vectors.copy()
    for b, a in moved.items():
        vectors[b] = 0.4 * before[b] + 0.6 * before[a]
    ours = analogy_scores(vectors, index, questions, lowercase=True)
    keyed = gensim_vectors(words, vectors)
    _, sections = keyed.evaluate_word_analogies(str(file))
    right = {s["section"]: len(s["correct"]) for s in sections}
    asked = {s["section"]: len(s["incorrect"]) + right[s["section"]] for s in sections}
    total = "Total accuracy"
    assert ours["covered"] == asked[total] < len(questions) == ours["questions"]
    assert ours["accuracy"] == pytest.approx(right[total] / asked[total], abs=2e-4)
    assert 0.05 < ours["accuracy"] < 0.95
    grammar = [name for name in right if name.startswith("gram")]
    expected = sum(right[n] for n in grammar) / sum(asked[n] for n in grammar)
    assert ours["syntactic"] == pytest.approx(expected, abs=3e-4)


def test_the_three_words_are_no_answer_and_limits_hold(tmp_path):
    file = tmp_path / "questions.txt"
    file.write_text(": family\nman woman king queen\n: gram1\nman woman king rare\n")
    words = ["man", "woman", "king", "queen", "rare"]
    # b - a + c lies on king itself, of the others nearest to queen.
    vectors = np.array([[1, 0], [1, 0.1], [0, 1], [-0.2, 1], [-1, -1]], np.float32)
    index = {word: row for row, word in enumerate(words)}
    questions = read_analogies(file)
    found = analogy_scores(vectors, index, questions, lowercase=True)
    assert found == {
        "accuracy": 0.5,
        "semantic": 1.0,
        "syntactic": 0.0,
        "covered": 2,
        "questions": 2,
    }
    few = analogy_scores(vectors, index, questions, lowercase=True, most_frequent=4)
    assert (few["covered"], few["accuracy"]) == (1, 1.0)
    none = analogy_scores(vectors, {}, questions, lowercase=True)
    assert (none["covered"], none["accuracy"]) == (0, 0.0)


def test_simlexs_own_columns_are_read(tmp_path):
    file = tmp_path / "SimLex-999.txt"
    file.write_text("word1\tword2\tPOS\tSimLex999\tconc(w1)\nold\tnew\tA\t1.58\t2.72\n")
    assert read_similarities(file) == [("old", "new", 1.58)]


def test_single_people_s_judgements_are_passed_over(tmp_path):
    file = tmp_path / "set1.tab"  # of WordSim-353: the mean, then whom it is of
    file.write_text("love\tsex\t6.77\t9\t6\t8\n")
    assert read_similarities(file) == [("love", "sex", 6.77)]


def test_bad_files_are_told_with_their_lines(tmp_path):
    file = tmp_path / "pairs.tsv"
    file.write_text("a\tb\t1.0\na\tb\na\tb\tnan\n")
    with pytest.raises(DataError, match=r"2 bad rows[\s\S]*:2:[\s\S]*:3:"):
        read_similarities(file)
    file.write_text(": x\na b c\na b c d\n")
    with pytest.raises(DataError, match=r"1 bad row[\s\S]*:2: not four words"):
        read_analogies(file)
    file.write_text("# nothing\n")
    with pytest.raises(DataError, match="no judged pairs"):
        read_similarities(file)
    with pytest.raises(DataError, match="no such file"):
        read_analogies(tmp_path / "none")
