"""Word vectors, against gensim on real files and against hostile ones (F8, F9)."""

import gc
import gzip
import pickle
import random
import resource
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest

from tl_jax.files.errors import ConfigError, WeightsError
from tl_jax.interop import fasttext
from tl_jax.interop.word_vectors import (
    WordVectorTable,
    read_word_vectors,
    write_glove_text,
    write_word2vec_binary,
    write_word2vec_text,
)


def gzipped(data: bytes) -> bytes:
    """Compresses without the time: names of tests, made of it, must not differ."""
    return gzip.compress(data, mtime=0)


REAL = {
    "gensim_lee_fasttext.vec": {},
    "gensim_pang_lee_polarity_fasttext.vec": {"encoding": "latin-1"},
    "word2vec_googlenews_1000x300.txt": {},
    "gensim_word2vec_euclidean_vectors.bin": {"binary": True},
    "gensim_test_glove.txt": {"no_header": True},
    "glove.6B.100d.sample.txt.gz": {"no_header": True},
    "glove.6B.300d.sample.txt.gz": {"no_header": True},
}
WRITERS = {
    "word2vec-text": write_word2vec_text,
    "word2vec-binary": write_word2vec_binary,
    "glove": write_glove_text,
}


def table(words, width=3, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(len(words), width))
    return WordVectorTable(tuple(words), vectors.astype(np.float32))


def assert_same(one, other):
    assert one.words == other.words
    assert one.vectors.dtype == np.float32
    assert one.vectors.tobytes() == other.vectors.tobytes()


def refused(path, data, message, **options):
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=message) as caught:
        read_word_vectors(path, **options)
    assert str(path) in str(caught.value)


def by_gensim(path, **options):
    vectors = pytest.importorskip("gensim.models").KeyedVectors
    with warnings.catch_warnings():
        # Without a header gensim forgets to close the file.
        warnings.simplefilter("ignore", ResourceWarning)
        table = vectors.load_word2vec_format(path, **options)
        gc.collect()
    return table


# ------------------------------------------------------------------ against gensim


@pytest.mark.parametrize("name", REAL)
def test_equal_to_gensim_on_real_files(shared, name):
    path, options = shared / "embeddings" / name, REAL[name]
    theirs = by_gensim(path, **options)
    ours = read_word_vectors(path, encoding=options.get("encoding", "utf-8"))
    assert list(ours.words) == theirs.index_to_key
    np.testing.assert_array_equal(ours.vectors, theirs.vectors)
    words = theirs.index_to_key
    some = read_word_vectors(
        path,
        encoding=options.get("encoding", "utf-8"),
        only={words[-1], words[3], "not there"},
    )
    assert some.words == (words[3], words[-1])
    np.testing.assert_array_equal(some.vectors, theirs.vectors[[3, -1]])


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("kind", WRITERS)
def test_gensim_reads_what_is_written(shared, tmp_path, name, kind):
    encoding = REAL[name].get("encoding", "utf-8")
    ours = read_word_vectors(shared / "embeddings" / name, encoding=encoding, limit=70)
    assert len(ours.words) == 70
    WRITERS[kind](tmp_path / "v", ours)
    how = {"binary": kind == "word2vec-binary", "no_header": kind == "glove"}
    theirs = by_gensim(tmp_path / "v", **how)
    assert list(ours.words) == theirs.index_to_key
    np.testing.assert_array_equal(ours.vectors, theirs.vectors)


def test_supervised_fasttext_binary_equals_its_own_vec(shared):
    base = shared / "embeddings" / "gensim_pang_lee_polarity_fasttext"
    binary = read_word_vectors(base.with_suffix(".bin"), encoding="latin-1")
    text = read_word_vectors(base.with_suffix(".vec"), encoding="latin-1")
    assert binary.words == text.words
    np.testing.assert_allclose(binary.vectors, text.vectors, rtol=1e-4, atol=1e-8)
    with pytest.raises(WeightsError, match='encoding="latin-1"'):
        read_word_vectors(base.with_suffix(".bin"))
    with pytest.raises(WeightsError, match=r'line \d+: .*encoding="latin-1"'):
        read_word_vectors(base.with_suffix(".vec"))


@pytest.fixture
def subword_model(tmp_path):
    """A fastText model with character n-grams of 1 to 5, saved in its own format."""
    fasttext = pytest.importorskip("gensim.models.fasttext")
    text = [["한국어", "naïve", "words", "a", "𝔘nicode", "Ünïcödé"] * 4, ["words"] * 5]
    # 7 buckets, so that some n-grams of one word share a row.
    model = fasttext.FastText(
        text,
        vector_size=6,
        min_count=1,
        min_n=1,
        max_n=5,
        bucket=7,
        epochs=1,
        workers=1,
    )
    path = tmp_path / "model.bin"
    fasttext.save_facebook_model(model, str(path))
    return path, fasttext.load_facebook_vectors(str(path))


def test_unsupervised_fasttext_binary_equals_gensim(subword_model):
    path, theirs = subword_model
    ours = read_word_vectors(path)
    assert list(ours.words) == theirs.index_to_key
    np.testing.assert_allclose(ours.vectors, theirs.vectors, rtol=1e-5, atol=1e-7)
    some = read_word_vectors(path, only={"naïve", "words"})
    rows = [ours.index()[word] for word in some.words]
    np.testing.assert_array_equal(some.vectors, ours.vectors[rows])


def test_pieces_of_the_subword_sum_do_not_matter(subword_model, monkeypatch):
    whole = read_word_vectors(subword_model[0])
    monkeypatch.setattr(fasttext, "GATHER", 1)
    pieces = read_word_vectors(subword_model[0])
    np.testing.assert_allclose(pieces.vectors, whole.vectors, rtol=1e-6)


def fasttext_file(words, matrix, *, bucket=0, minn=0, maxn=0, version=12, model=2):
    """fastText's format by its C++ ``saveModel``: args, dictionary, two matrices."""
    rows, dim = matrix.shape
    args = [dim, 5, 5, 1, 5, 1, 1, model, bucket, minn, maxn, 100]
    data = struct.pack("<14id", 793712314, version, *args, 1e-4)
    data += struct.pack("<3i2q", len(words), len(words), 0, 1, -1)
    for word in words:
        data += word + b"\0" + struct.pack("<qb", 1, 0)
    data += struct.pack("<B2q", 0, rows, dim) + matrix.astype("<f4").tobytes()
    return data + struct.pack("<B2q", 0, 1, dim) + bytes(4 * dim)


def fnv1a(data):
    value = 2166136261
    for byte in data:
        value = ((value ^ byte) * 16777619) % 2**32
    return value


def test_subwords_by_hand(tmp_path):
    # "<ab>" has the 2-grams <a, ab, b> and the 3-grams <ab, ab>; </s> has none.
    words, buckets = [b"ab", b"</s>"], 1000
    matrix = np.random.default_rng(0).normal(size=(2 + buckets, 4)).astype(np.float32)
    path = tmp_path / "model.bin"
    path.write_bytes(fasttext_file(words, matrix, bucket=buckets, minn=2, maxn=3))
    grams = [2 + fnv1a(g) % buckets for g in (b"<a", b"ab", b"b>", b"<ab", b"ab>")]
    got = read_word_vectors(path).vectors
    np.testing.assert_allclose(got[0], matrix[[0, *grams]].mean(axis=0), rtol=1e-6)
    np.testing.assert_array_equal(got[1], matrix[1])
    # Version 11 trained supervised models without n-grams, whatever maxn says.
    old = fasttext_file(words, matrix, bucket=1000, minn=2, maxn=3, version=11, model=3)
    path.write_bytes(old)
    np.testing.assert_array_equal(read_word_vectors(path).vectors, matrix[:2])


def test_fnv1a_of_its_authors_example():
    # http://www.isthe.com/chongo/tech/comp/fnv/ gives FNV-1a("foobar") = 0xbf9cf968;
    # here "<foobar>" is the only 8-gram, and our own loop above is checked on the way.
    assert fnv1a(b"foobar") == 0xBF9CF968
    ((owners, hashes),) = fasttext._ngrams([b"foobar"], 8, 8)
    assert owners.tolist() == [0]
    assert hashes.tolist() == [fnv1a(b"<foobar>")]


# ---------------------------------------------------------------------- round trips

TRICKY = ["the", ",", "1.5", "nan", "한국어", "e\u0301", "a\u00a0b", "a\u0085b", "a\tb"]


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("width", [1, 2, 50])
def test_round_trip_is_bitwise(tmp_path, kind, width):
    before = table([*TRICKY, ""], width)
    extreme = [np.finfo(np.float32).max, 1e-45, -0.0, 1.17549435e-38]
    before.vectors.flat[:4] = extreme
    WRITERS[kind](tmp_path / "v", before)
    assert_same(read_word_vectors(tmp_path / "v", kind=kind), before)
    assert_same(read_word_vectors(tmp_path / "v"), before)  # recognised as what it is
    (tmp_path / "v").rename(tmp_path / "v.bin")  # whatever its name
    assert_same(read_word_vectors(tmp_path / "v.bin"), before)


def test_more_rows_than_a_block_and_gzip(tmp_path):
    before = table([f"w{n}" for n in range(5000)], 2)
    write_glove_text(tmp_path / "v", before)
    assert_same(read_word_vectors(tmp_path / "v"), before)
    with gzip.open(tmp_path / "v.gz", "wb") as stream:
        stream.write((tmp_path / "v").read_bytes())
    assert_same(read_word_vectors(tmp_path / "v.gz"), before)
    few = read_word_vectors(tmp_path / "v.gz", limit=3000, only={"w2999", "w3000"})
    assert few.words == ("w2999",)
    assert read_word_vectors(tmp_path / "v", limit=0).vectors.shape == (0, 2)


def test_words_with_spaces_are_split_from_the_right(tmp_path):
    # As in glove.840B.300d: ". . ." and "at name@domain.com" are tokens there.
    before = table([". . .", "the", "at name@domain.com", "of", " ", "a "], 4)
    write_glove_text(tmp_path / "v", before)
    assert_same(read_word_vectors(tmp_path / "v"), before)
    for write in (write_word2vec_text, write_word2vec_binary):
        with pytest.raises(WeightsError, match=r"'\. \. \.'.*glove"):
            write(tmp_path / "w", before)


@pytest.mark.parametrize("word", ["a\nb", "room 5", "x -1e3", "room 5 "])
def test_words_that_would_not_come_back_are_not_written(tmp_path, word):
    with pytest.raises(WeightsError, match="cannot hold"):
        write_glove_text(tmp_path / "v", table([word]))
    with pytest.raises(WeightsError, match="cannot be latin-1"):
        write_glove_text(tmp_path / "v", table(["한국어"]), encoding="latin-1")
    assert list(tmp_path.iterdir()) == []


def test_binary_rows_with_and_without_line_breaks(tmp_path):
    before = table(["a", "b", "c"])
    rows = list(zip((b"a ", b"b ", b"c "), before.vectors, strict=True))
    for ending in (b"", b"\n"):
        body = b"".join(word + row.tobytes() + ending for word, row in rows)
        (tmp_path / "v.bin").write_bytes(b"3 3\n" + body)
        assert_same(read_word_vectors(tmp_path / "v.bin"), before)


def test_spaces_and_line_ends_as_tools_write_them(tmp_path):
    (tmp_path / "v").write_bytes(b"2 2 \r\nthe 1 2 \r\nof 3 4 \r\n\r\n")
    got = read_word_vectors(tmp_path / "v")
    assert got.words == ("the", "of")
    np.testing.assert_array_equal(got.vectors, np.float32([[1, 2], [3, 4]]))


@pytest.mark.parametrize("head", [b"", b"2 2\n"])
def test_a_byte_order_mark_belongs_to_no_word(tmp_path, head):
    (tmp_path / "v").write_bytes(b"\xef\xbb\xbf" + head + b"the 1 2\nof 3 4\n")
    assert read_word_vectors(tmp_path / "v").words == ("the", "of")


def test_first_of_repeated_words_wins_aloud(tmp_path):
    (tmp_path / "v").write_bytes(b"the 1 2\nof 3 4\nthe 5 6\nthe 7 8\n")
    with pytest.warns(UserWarning, match="2 rows repeat a word; the first"):
        got = read_word_vectors(tmp_path / "v")
    assert got.words == ("the", "of")
    assert got.vectors[0].tolist() == [1, 2]


# -------------------------------------------------------------- numpy and parquet


@pytest.fixture
def npy_folder(tmp_path):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")

    def make(words, vectors, **columns):
        folder = tmp_path / "glove" / "data"
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "emb.npy", vectors)
        pq.write_table(pa.table({"index": words, **columns}), folder / "index.parquet")
        return folder.parent

    return make


def test_npy_and_parquet_folder(npy_folder):
    before = table(["the", "of", "한국어"])
    for dtype in (np.float32, np.float64):
        folder = npy_folder(list(before.words), before.vectors.astype(dtype))
        assert_same(read_word_vectors(folder), before)
    folder = npy_folder(list(before.words), np.asfortranarray(before.vectors))
    assert_same(read_word_vectors(folder), before)
    some = read_word_vectors(folder, only=["of"])
    assert some.words == ("of",)
    np.testing.assert_array_equal(some.vectors, before.vectors[1:2])
    assert read_word_vectors(folder, limit=2).words == ("the", "of")


def test_broken_npy_folders(npy_folder, tmp_path):
    good = np.ones((2, 3), np.float32)
    cases = [
        (["a"], good, "one column of 2 strings"),
        (["a", None], good, "a word is missing"),
        ([1, 2], good, "one column of 2 strings"),
        (["a", "b"], good.astype(int), "not a table of floats"),
        (["a", "b"], good[0], "not a table of floats"),
        (["a", "b"], good * np.float32(np.inf), "'a' is NaN or infinite"),
        (["a", "b"], good.astype(np.float64) * 1e300, "'a' is NaN or infinite"),
    ]
    for words, vectors, message in cases:
        with pytest.raises(WeightsError, match=message):
            read_word_vectors(npy_folder(words, vectors))
    folder = npy_folder(["a", "b"], good)
    index, array = folder / "data" / "index.parquet", folder / "data" / "emb.npy"
    for path in (index, array):
        data = path.read_bytes()
        for cut in (0, 5, len(data) // 2, len(data) - 1):
            path.write_bytes(data[:cut])
            with pytest.raises(WeightsError, match=path.name):
                read_word_vectors(folder)
        path.write_bytes(data)
    array.rename(folder / "other.npz")
    with pytest.raises(WeightsError, match=r"one \*.npy file is due.*none"):
        read_word_vectors(folder)


# ------------------------------------------------------------------ broken and hostile

BROKEN_TEXT = [
    (b"", "empty"),
    (b"\n\n", "line 1: no word with numbers"),
    (b"the\nof\n", "line 1: no word with numbers"),
    (b"the 1 2\nof 3 x4\n", r"line 2: b'x4' is no number"),
    (b"the 1 2\nof 3 1_0\n", r"line 2: b'1_0' is no number"),
    (b"the 1 2\nof 3 0x1\n", r"line 2: b'0x1' is no number"),
    (b"the 1 2\nof 3  4\n", "line 2: 3 fields behind the word, where 2"),
    (b"the 1 2\nof  3\n", r"line 2: b'' is no number"),
    (b"the  1  2\nof  3  4\n", "line 1: more than one space"),
    (b"the 1 2\nof 3\t4 5\n", "line 2: b'3.t4' is no number"),
    # A number too many here and one too few there must not even out.
    (b"the 5 6\n, 7 8\na 1\t2 3\nof  4\n", "line 3: b'1.t2' is no number"),
    (b"the 1 2\nof 3 nan\n", "line 2: b'nan' is not finite"),
    (b"the 1 2\nof 3 -Inf\n", "line 2: b'-Inf' is not finite"),
    (b"the 1 2\nof 3 1e39\n", "line 2: b'1e39' is not finite"),
    (b"the 1 2\nof 3 4\nand 5\n", "line 3: 1 fields behind the word, where 2"),
    (b"the 1 2\nof 3 4\nand 5 6 7\n", "line 3: 3 fields"),
    (b"the 1 2\n\nof 3 4\n", "line 2: an empty line"),
    (b"the 1 2\nof\xff 3 4\n", 'line 2: .*encoding="latin-1"'),
    (b"3 2\nthe 1 2\nof 3 4\n", "announces 3 rows, there are 2"),
    (b"1 2\nthe 1 2\nof 3 4\n", "line 3: more than the header's 1 rows"),
    (b"2 3\nthe 1 2\nof 3 4\n", "line 2: 2 fields behind the word, where 3"),
    (b"0 2\n", "line 1: the header announces no vectors"),
    (b"2 0\na\nb\n", "line 1: the header announces no vectors"),
    (b"999999999999 300\nthe 1 2\n", "no room"),
    (b"3 999999999999999999\nthe 1 2\n", "no room"),
    (b"99999999999999999999 3\nthe 1 2\n", "line"),
    (b"the " + b"1 " * (1 << 20) + b"\n", "line 1: longer than"),
    (b"the" * (1 << 20), "line 1: longer than"),
    (gzipped(b"the 1 2\n" * 9)[:-9], "gzip file is cut short"),
    (gzipped(b"the 1 2\nof 3 x\n"), "line 2: b'x' is no number"),
    (gzipped(b"99999999 300\nthe 1 2\n"), "no room"),
    (gzipped(b"the 1\n" * 100_000), "most words are repeated"),
    (gzipped(bytes(1 << 24)), "line 1: longer than"),
    (b"\x1f\x8b\x08\x00garbage", "gzip file is cut short"),
]


@pytest.mark.parametrize(("data", "message"), BROKEN_TEXT)
def test_broken_text_says_which_line(tmp_path, data, message):
    refused(tmp_path / "v.txt", data, message)


def binary_file(words=(b"the", b"of"), width=3):
    rows = [word + b" " + bytes(range(1, 4 * width + 1)) + b"\n" for word in words]
    return b"%d %d\n" % (len(words), width) + b"".join(rows)


def test_broken_word2vec_binary(tmp_path):
    path, good = tmp_path / "v.bin", binary_file()
    path.write_bytes(good)
    assert read_word_vectors(path).words == ("the", "of")
    binary = {"kind": "word2vec-binary"}
    for cut in range(1, len(good) - 1):
        refused(path, good[:cut], r"header|cut short|no header", **binary)
    refused(path, good + b"x", "more than the header's 2 rows", **binary)
    refused(path, b"1" + good[1:], "more than the header's 1 rows", **binary)
    refused(path, b"9999999999 3" + good[3:], "no room", **binary)
    refused(path, b"2 9999999999" + good[3:], "no room", **binary)
    refused(path, good.replace(b"of", b"\xff\xfe"), "row 2: .*latin-1", **binary)
    nan = np.float32(np.nan).tobytes()
    refused(path, good[:-5] + nan + b"\n", "'of' is NaN", **binary)
    refused(path, b"1 1\n" + b"x" * 20_000, "row 1 of 1, byte 4", **binary)
    refused(path, gzipped(good), "gunzip it first")


def test_broken_fasttext_binary(tmp_path):
    words = [b"the", b"of"]
    matrix = np.ones((5, 2), np.float32)
    good, path = (
        fasttext_file(words, matrix, bucket=3, minn=1, maxn=2),
        tmp_path / "v.bin",
    )
    path.write_bytes(good)
    assert read_word_vectors(path).vectors.tolist() == [[1, 1], [1, 1]]
    for cut in range(4, len(good)):
        refused(path, good[:cut], r"cut short|contradict|no matrix")
    refused(path, good + b"\0", "cut short or too long")

    def changed(at, form, value):
        return good[:at] + struct.pack(form, value) + good[at + struct.calcsize(form) :]

    refused(path, changed(4, "<i", 99), "version 11 or 12")
    refused(path, changed(8, "<i", 2**31 - 1), "no matrix")  # dim
    refused(path, changed(40, "<i", 2**31 - 1), "no matrix")  # bucket
    refused(path, changed(40, "<i", -1), "contradict")
    refused(path, changed(48, "<i", 2**31 - 1), "contradict")  # maxn
    refused(path, changed(64, "<i", 2**31 - 1), "contradict")  # size
    refused(path, changed(84, "<q", 7), "quantised or pruned")  # pruned index
    refused(path, changed(92 + 13 + 12, "<B", 1), "quantised or pruned")
    refused(path, changed(92 + 13 + 12 + 1, "<q", 2**62), "no matrix")
    refused(path, changed(92 + 13 + 12 + 17, "<f", np.inf), "'the' is NaN or infinite")
    refused(path, good.replace(b"of\0", b"\xff\xfe\0"), "word 2: .*latin-1")
    refused(tmp_path / "v.ftz", good, "quantised")


def test_every_flip_of_a_binary_header_is_typed_and_small(tmp_path):
    """Fuzzing: whatever a header says, the answer is a table or the one typed error."""
    matrix = np.ones((5, 2), np.float32)
    files = [
        fasttext_file([b"the", b"of"], matrix, bucket=3, minn=1, maxn=2),
        binary_file(),
        b"2 2\nthe 1 2\nof 3 4\n",
        gzipped(b"the 1 2\nof 3 4\n"),
    ]
    draw, path = random.Random(0), tmp_path / "v.bin"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for trial in range(800):
        data = bytearray(files[trial % len(files)])
        for _ in range(draw.randint(1, 3)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        path.write_bytes(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # repeated words
            try:
                read = read_word_vectors(path)
            except WeightsError:
                continue
        assert read.vectors.shape[0] == len(read.words) <= 3
        assert np.isfinite(read.vectors).all()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < 200 * 1024  # kilobytes


class Canary:
    """Makes a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_pickles_are_refused_and_never_run(tmp_path, npy_folder):
    canary = tmp_path / "canary"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        load = pickle.dumps(Canary(canary), protocol)
        refused(tmp_path / "v.pkl", load, "pickle.*save_word2vec_format")
        refused(tmp_path / "v.pt", load, "pickle.*save_word2vec_format")
        if protocol >= 2:
            refused(tmp_path / "v.kv", load, "pickle.*save_word2vec_format")
            refused(tmp_path / "v.bin", load, "pickle", kind="fasttext-binary")
        else:
            refused(tmp_path / "v.kv", load, "line 1")
    folder = npy_folder(["a"], np.ones((1, 1), np.float32))
    hostile = np.array([[Canary(canary)]], dtype=object)
    np.save(folder / "data" / "emb.npy", hostile, allow_pickle=True)
    with pytest.raises(WeightsError, match=r"pickle.*save_word2vec_format"):
        read_word_vectors(folder)
    (folder / "data" / "emb.npy").write_bytes(pickle.dumps(Canary(canary)))
    with pytest.raises(WeightsError, match=r"pickle.*save_word2vec_format"):
        read_word_vectors(folder)
    assert not canary.exists()
    pickle.loads(pickle.dumps(Canary(canary)))
    assert canary.exists()  # the canary does sing


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"PK\x03\x04rest", "unzip"),
        (b"\x93NUMPY\x01\x00", "name the folder"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
    ],
)
def test_other_formats_say_what_to_do(tmp_path, data, message):
    refused(tmp_path / "v.txt", data, message)


def test_wrong_arguments(tmp_path):
    path = tmp_path / "v"
    path.write_bytes(b"the 1 2\n")
    with pytest.raises(ConfigError, match="Did you mean 'glove'"):
        read_word_vectors(path, kind="Glove")
    for encoding in ("utf-99", "utf-16", "base64"):
        with pytest.raises(ConfigError, match="no encoding"):
            read_word_vectors(path, encoding=encoding)
    with pytest.raises(WeightsError, match="no such file"):
        read_word_vectors(tmp_path / "w")
    with pytest.raises(WeightsError, match="name the file"):
        read_word_vectors(tmp_path, kind="glove")
    with pytest.raises(WeightsError, match="npy is a folder"):
        read_word_vectors(path, kind="npy")
    with pytest.raises(WeightsError, match=r"no header.*glove"):
        read_word_vectors(path, kind="word2vec-text")
    with pytest.raises(WeightsError, match=r"not a fastText model|cut short"):
        read_word_vectors(path, kind="fasttext-binary")
