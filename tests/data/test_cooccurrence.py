from collections import defaultdict

import numpy as np
import pytest
from tiny_corpora import random_corpus

from tl_jax.data import cooccurrence
from tl_jax.data.cooccurrence import count_cooccurrences
from tl_jax.files.errors import ConfigError


def by_brute_force(corpus, window):
    found = defaultdict(float)
    for t, word in enumerate(corpus.tokens.tolist()):
        for s in range(max(0, t - window), min(len(corpus), t + window + 1)):
            if s != t and corpus.sentences[s] == corpus.sentences[t]:
                found[word, int(corpus.tokens[s])] += 1 / abs(t - s)
    return found


def as_dict(found):
    entries = [e.item() for e in found.entries]
    table = {(word, context): count for word, context, count in entries}
    assert len(table) == len(entries)  # no pair comes twice
    return table


@pytest.mark.parametrize("window", [1, 15])
@pytest.mark.parametrize("memory", [1 << 30, 1])
def test_counts_are_those_of_brute_force_in_any_memory(tmp_path, window, memory):
    corpus = random_corpus(700, words=40)
    found = count_cooccurrences(corpus, window, tmp_path, memory=memory)
    expected = by_brute_force(corpus, window)
    counted = as_dict(found)
    assert counted.keys() == expected.keys()
    for pair, count in expected.items():
        assert counted[pair] == pytest.approx(count, rel=1e-6)
    assert (found.spilled > 0) == (memory < 1 << 30)
    assert [p.name for p in tmp_path.iterdir()] == [cooccurrence.ENTRIES]


def test_the_order_is_random_and_depends_on_the_seed_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(cooccurrence, "_BUCKET", 100)
    corpus = random_corpus(3000, words=40)
    files = []
    for memory, seed in ((1 << 30, 0), (20_000, 0), (1 << 30, 1)):
        folder = tmp_path / f"{memory}-{seed}"
        folder.mkdir()
        count_cooccurrences(corpus, 5, folder, memory=memory, seed=seed)
        files.append(np.fromfile(folder / cooccurrence.ENTRIES, cooccurrence.ENTRY))
    assert len(files[0]) > 500  # several buckets
    assert (files[0] == files[1]).all()
    assert not (files[0] == files[2]).all()
    assert (np.sort(files[0]) == np.sort(files[2])).all()
    place = np.arange(len(files[0]))
    order = np.argsort(np.argsort(files[0], order=("word", "context")))
    assert abs(np.corrcoef(place, order)[0, 1]) < 4 / np.sqrt(len(place))
    # Of neighbours in random order one half ascend, with a variance of n / 12.
    ascents = (np.diff(order) > 0).sum()
    assert abs(ascents - len(place) / 2) < 4 * np.sqrt(len(place) / 12)


def test_wrong_windows_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="window must be 1 or more"):
        count_cooccurrences(random_corpus(50), 0, tmp_path)
