import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tl_jax.data.iob2 import spans
from tl_jax.data.propbank import (
    brackets,
    read_propositions,
    settle,
    write_propositions,
)
from tl_jax.files.errors import ConfigError, DataError

GOOD = (
    "# sent_id = one\n"
    "0\tAP\tNNP\t-\t-\t(ARG0*)\t*\n"
    "1\tcame\tVBD\tcome\tcome_up.02\t(V*\t(ARG1*\n"
    "2\tup\tRP\t-\t-\t*)\t*)\n"
    "3\tagain\tRB\t-\t-\t(ARGM-TMP*)\t*\n"
    "4\tPLEASED\tJJ\t-\t-\t*\t(V*)\n"
    "\n"
)
BARE = "# sent_id = two\n0\tNothing\tNN\t-\t-\n1\t.\t.\t-\t-\n\n"


@pytest.fixture
def write(tmp_path):
    """Writes a file of text or bytes and returns its path."""

    def make(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return make


def parts(shared, pattern):
    return sorted((shared / "srl/ewt_propbank").glob(pattern))


@pytest.fixture(scope="module")
def dev(shared):
    return read_propositions(parts(shared, "dev*"))


# Sentences and propositions as shared/data/README.md gives them. Where a sentence's
# rolesets and its columns differ (13 sentences), a predicate has no roleset, or two
# columns, which are equal, have one predicate.
@pytest.mark.parametrize(
    ("pattern", "sentences", "propositions", "unnamed", "twins"),
    [("train*", 12506, 40423, 8, 3), ("dev*", 1963, 4960, 2, 0)],
)
def test_real_files_have_all_their_propositions(
    shared, pattern, sentences, propositions, unnamed, twins
):
    files = parts(shared, pattern)
    data = read_propositions(files)
    assert (len(data.sentences), len(data)) == (sentences, propositions)
    assert data.skipped == 0
    # Every bracket of the files has become a span of its label.
    text = "".join(file.read_text() for file in files)
    opened = Counter(re.findall(r"\t\(([^*\t]+)\*", text))
    assert data.tags is not None
    begun = (tag[2:] for tags in data.tags for tag in tags if tag[0] == "B")
    assert Counter(begun) == opened
    keys = list(zip(data.sentence.tolist(), data.predicate.tolist(), strict=True))
    rolesets = [data.sentences[s].fields[p].split("\t")[4] for s, p in keys]
    assert rolesets.count("-") == unnamed
    assert len(keys) - len(set(keys)) == twins


def test_what_was_read_is_written_byte_for_byte(dev, shared, tmp_path):
    write_propositions(tmp_path / "out", dev, dev.tags)
    (file,) = parts(shared, "dev*")
    assert (tmp_path / "out").read_bytes() == file.read_bytes()


def test_places_name_the_predicates_line(dev):
    lines = Path(dev.places[0].rsplit(":", 1)[0]).read_text().split("\n")
    for number in (0, 700, 4959):
        line = lines[int(dev.places[number].rsplit(":", 1)[1]) - 1].split("\t")
        assert line[0] == str(dev.predicate[number])
        assert line[1] == dev.words(number)[dev.predicate[number]]
        assert any(cell.startswith("(V*") for cell in line)


def test_a_small_file_by_hand(write):
    path = write("a.conll", GOOD + BARE)
    data = read_propositions(path)
    assert [s.words for s in data.sentences] == [
        ["AP", "came", "up", "again", "PLEASED"],
        ["Nothing", "."],
    ]
    assert data.sentences[1].comments == ["# sent_id = two"]
    assert data.sentence.tolist() == [0, 0]
    # PLEASED is a predicate because its column says so; it has no roleset.
    assert data.predicate.tolist() == [1, 4]
    assert data.tags == [
        ["B-ARG0", "B-V", "I-V", "B-ARGM-TMP", "O"],
        ["O", "B-ARG1", "I-ARG1", "O", "B-V"],
    ]
    assert data.places == [f"{path}:3", f"{path}:6"]


def test_files_are_read_in_their_order(write):
    one, two = write("1.conll", BARE), write("2.conll", GOOD)
    data = read_propositions([two, one, two])
    assert data.sentence.tolist() == [0, 0, 2, 2]
    assert data.places[2:] == [f"{two}:3", f"{two}:6"]
    assert data.places[:2] == data.places[2:]


def test_line_ends_marks_and_missing_last_blank_line(write):
    plain = read_propositions(write("a.conll", GOOD))
    odd = "\ufeff\r\n" + GOOD.replace("\n", "\r\n").rstrip("\r\n")
    other = read_propositions(write("b.conll", odd))
    assert other.tags == plain.tags
    assert other.sentences[0].fields == plain.sentences[0].fields
    assert [p.rsplit(":", 1)[1] for p in other.places] == ["4", "7"]
    spaced = read_propositions(
        write("c.conll", GOOD + BARE.rstrip("\n") + "\n \n" + GOOD)
    )
    assert [len(s.words) for s in spaced.sentences] == [5, 2, 5]


def test_without_labels_only_predicates_are_read(write, tmp_path):
    """Roles left empty or broken do not matter; further words of V are not known."""
    empty = GOOD.replace("(ARG0*)", "_").replace("(ARG1*", "*").replace("*)", "*")
    for text in (GOOD, empty):
        data = read_propositions(write("a.conll", text), labelled=False)
        assert data.tags is None
        assert data.predicate.tolist() == [1, 4]
    told = [["O", "B-V", "I-V", "O", "O"], ["O", "B-ARG1", "I-ARG1", "O", "O"]]
    write_propositions(tmp_path / "out.conll", data, told)
    again = read_propositions(tmp_path / "out.conll")
    assert again.tags == [told[0], [*told[1][:4], "B-V"]]


def test_a_lemma_marks_the_predicate_where_there_is_no_column(write, tmp_path):
    five = "\n".join("\t".join(line.split("\t")[:5]) for line in GOOD.split("\n"))
    path = write("a.conll", five + BARE)
    data = read_propositions(path, labelled=False)
    assert data.predicate.tolist() == [1]
    write_propositions(tmp_path / "out.conll", data, [["B-ARG0", "O", "O", "O", "O"]])
    assert read_propositions(tmp_path / "out.conll").tags == [
        ["B-ARG0", "B-V", "O", "O", "O"]
    ]
    with pytest.raises(DataError, match=r"a\.conll:3: .*without a column"):
        read_propositions(path)


def changed(old, new):
    assert GOOD.count(old) == 1, old
    return GOOD.replace(old, new)


BAD_SENTENCES = [
    (changed("come_up.02\t(V*\t(ARG1*", "come_up.02\t(V*"), 3, "6 columns, where"),
    (changed("AP\tNNP\t-\t-\t(ARG0*)\t*", "AP\tNNP"), 2, "3 columns; due are index"),
    (changed("AP\tNNP", "AP NNP"), 2, "6 columns"),
    (changed("3\tagain", "3\tag\0in"), 5, "NUL"),
    (changed("AP", "\udce9P"), 2, "byte 0xe9 is not UTF-8"),
    (changed("3\tagain", "3\t "), 5, "no word"),
    (changed("3\tagain", "5\tagain"), 5, "index '5', where 3 is due"),
    (GOOD.rstrip("\n") + "\n" + GOOD[16:], 7, "index '0', where 5 is due"),
    (changed("(ARG1*\n", "(ARG1*)\n"), 4, "column 7: a bracket is closed"),
    (changed("*)\t*)", "*)\t*"), 6, "column 7: (V* within (ARG1*"),
    (changed("*)\t*)", "*\t*)"), 5, "column 6: (ARGM-TMP* within (V*"),
    (changed("*\t(V*)\n", "*\t(V*\n"), 6, "column 7: (V* is not closed"),
    (changed("(ARG0*)", "(ARG0(X*))"), 2, "'(ARG0(X*))' is none of"),
    (changed("(ARG0*)", "(*)"), 2, "column 6: '(*)' is none of"),
    (changed("(ARG0*)", ""), 2, "column 6: '' is none of"),
    (changed("(ARG0*)", "(V*)"), 3, "column 6: 2 predicates"),
    (changed("(V*)", "(C-V*)"), 2, "column 7: 0 predicates"),
    ("".join(f"{i}\tx\tX\t-\t-\n" for i in range(1001)), 1, "1001 words"),
]


@pytest.mark.parametrize(("text", "line", "told"), BAD_SENTENCES)
def test_bad_sentences_are_told_by_line_or_skipped(write, text, line, told):
    good = GOOD.encode()
    content = text.encode("utf-8", "surrogateescape").rstrip(b"\n") + b"\n\n" + good
    path = write("a.conll", content)
    with pytest.raises(DataError) as caught:
        read_propositions(path)
    assert f"{path}:{line}: " in str(caught.value)
    assert told in str(caught.value)
    data = read_propositions(path, on_bad="skip")
    assert data.skipped == 1
    assert len(data.sentences) == 1
    assert data.tags == read_propositions(write("b.conll", good)).tags
    with pytest.raises(DataError, match="More than 0 bad rows"):
        read_propositions(path, on_bad="skip", max_bad=0)


def test_every_bad_column_is_told(write):
    bad = GOOD.replace("(V*", "(X*")
    path = write("a.conll", bad + bad)
    with pytest.raises(DataError) as caught:
        read_propositions(path)
    assert str(caught.value).startswith("4 bad rows:")
    assert read_propositions(write("b.conll", bad + GOOD), on_bad="skip").skipped == 1


def test_without_labels_a_column_still_marks_one_predicate(write):
    for new, told in (("*", "0 predicates"), ("(V*)\t(V*", "8 columns")):
        path = write("a.conll", changed("(V*)", new))
        with pytest.raises(DataError, match=told):
            read_propositions(path, labelled=False)
    path = write("a.conll", changed("(ARGM-TMP*)", "(V*)"))
    with pytest.raises(DataError, match=r"a\.conll:5: column 6: 2 predicates"):
        read_propositions(path, labelled=False)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "empty"),
        (b"\n \n", "empty"),
        (b"# sent_id = 1\n\n# sent_id = 2\n", "no proposition in 0"),
        (BARE.encode(), "no proposition in 1 good"),
        (GOOD.encode("utf-16"), "UTF-16"),
        (b"\x1f\x8b\x08", "compressed"),
    ],
)
def test_bad_files_are_told(write, content, told):
    path = write("a.conll", content)
    for on_bad in ("raise", "skip"):
        with pytest.raises(DataError, match=told) as caught:
            read_propositions(path, on_bad=on_bad)
        assert str(path) in str(caught.value)


def test_missing_files_and_wrong_options(tmp_path, write):
    path = write("train.conll", GOOD)
    with pytest.raises(DataError, match=r"Did you mean 'train\.conll'"):
        read_propositions(tmp_path / "trian.conll")
    with pytest.raises(DataError, match="No data file"):
        read_propositions([])
    with pytest.raises(ConfigError, match="on_bad"):
        read_propositions(path, on_bad="ignore")


def test_a_line_of_ten_megabytes_is_told_in_short(write):
    path = write("a.conll", changed("(ARG0*)", "(" * 10_000_000))
    with pytest.raises(DataError) as caught:
        read_propositions(path)
    assert len(str(caught.value)) < 400


TAGS = st.lists(
    st.sampled_from(["O", "B-V", "I-V", "B-A", "I-A", "B-C-V", "B-R-A", "I-R-A"]),
    min_size=1,
    max_size=9,
)


@settings(deadline=None, max_examples=200)
@given(TAGS, st.data())
def test_brackets_are_legal_whatever_was_predicted(tags, data):
    """One (V*, at the predicate; what neither is V nor covers it stays as it was."""
    predicate = data.draw(st.integers(0, len(tags) - 1))
    cells = brackets(tags, predicate)
    assert [i for i, c in enumerate(cells) if c.startswith("(V*")] == [predicate]
    depth = 0
    for cell in cells:
        depth += cell.count("(") - cell.count(")")
        assert depth in (0, 1)
        assert cell.count("*") == 1
    assert depth == 0
    for start, end, label in spans(tags, "conlleval"):
        if label != "V" and not start <= predicate < end:
            assert cells[start].startswith(f"({label}*")
            assert cells[end - 1].endswith(")")


def test_a_role_that_covers_its_predicate_is_cut_there():
    tags = ["B-A", "I-A", "I-A", "B-V", "O"]
    assert settle(tags, 1) == ["B-A", "B-V", "B-A", "O", "O"]
    assert brackets(tags, 1) == ["(A*)", "(V*)", "(A*)", "*", "*"]
    assert brackets(tags, 0) == ["(V*)", "(A*", "*)", "*", "*"]
    assert brackets(tags, 3) == ["(A*", "*", "*)", "(V*)", "*"]
