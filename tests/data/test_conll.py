import itertools
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tl_jax.data.conll import read_tagged, write_tagged
from tl_jax.data.tag_schemes import detect_scheme, to_iob2
from tl_jax.files.errors import ConfigError, DataError

MENTION = re.compile("<([^<>]+?):(PS|LC|OG|DT|TI|QT)>")


@pytest.fixture
def write(tmp_path):
    """Writes a file of text or bytes and returns its path."""

    def make(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return make


# Sentences as shared/data/README.md gives them; tags counted by awk and uniq.
@pytest.mark.parametrize(
    ("name", "sentences", "begins", "insides"),
    [
        ("ner/wnut17/train.conll", 3394, 1975, 1185),
        ("ner/wnut17/dev.conll", 1009, 836, 414),
        ("ner/klue_ner/train.tsv", 3500, 10036, 27538),
        ("ner/klue_ner/dev.tsv", 500, 1423, 3897),
    ],
)
def test_real_files_have_all_their_sentences(shared, name, sentences, begins, insides):
    data = read_tagged(shared / name)
    assert (len(data), data.scheme, data.skipped) == (sentences, "IOB2", 0)
    marks = Counter(tag[0] for tags in data.tags for tag in tags)
    assert (marks["B"], marks["I"]) == (begins, insides)
    text = (shared / name).read_text()
    rows = [line for line in text.split("\n") if line and not line.startswith("## ")]
    tokens = [token for sentence in data.sentences for token in sentence]
    assert tokens == [row.split("\t")[0] for row in rows]
    assert list(itertools.chain(*data.tags)) == [row.split("\t")[1] for row in rows]
    # A place is a line of the file.
    lines = text.split("\n")
    for number in (0, 7, sentences - 1):
        last = len(data.sentences[number]) - 1
        line = int(data.place(number, last).rsplit(":", 1)[1])
        assert lines[line - 1] == "\t".join(
            (data.sentences[number][last], data.tags[number][last])
        )


@pytest.mark.parametrize("name", ["ner/wnut17/dev.conll", "ner/klue_ner/dev.tsv"])
def test_what_was_read_goes_back_with_a_column_more(shared, tmp_path, name):
    data = read_tagged(shared / name)
    text = (shared / name).read_text()
    write_tagged(tmp_path / "out", data, data.tags)
    written = (tmp_path / "out").read_text().split("\n")
    again = ["\t".join(w.split("\t")[:2]) if w[:3] != "## " else w for w in written]
    assert "\n".join(again).strip("\n") == text.strip("\n")
    assert read_tagged(tmp_path / "out").tags == data.tags


def test_klue_characters_and_comments(shared):
    data = read_tagged(shared / "ner/klue_ner/dev.tsv")
    for sentence, tags, comments in zip(
        data.sentences, data.tags, data.comments, strict=True
    ):
        guid, marked = comments[-1].split("\t")
        assert guid.startswith("## klue-ner-v1_dev_")
        # The comment holds the sentence once more, with <mention:TYPE> in it.
        assert MENTION.sub(r"\1", marked) == "".join(sentence)
        kinds = [kind for _, kind in MENTION.findall(marked)]
        assert kinds == [tag[2:] for tag in tags if tag[0] == "B"]
    unlabelled = read_tagged(shared / "ner/klue_ner/dev.tsv", labelled=False)
    assert unlabelled.sentences == data.sentences
    assert (unlabelled.tags, unlabelled.scheme) == (None, None)


CONLL03 = """-DOCSTART- -X- -X- O

EU NNP I-NP I-ORG
rejects VBZ I-VP O

# NN B-NP B-ORG
2 CD I-NP I-ORG
-DOCSTART- -X- -X- O

Rome NNP I-NP I-LOC
Paris NNP I-NP B-LOC
"""


def test_blanks_documents_and_other_columns(write, tmp_path):
    path = write("a.txt", CONLL03.replace("B-ORG", "I-ORG"))
    data = read_tagged(path)
    assert data.scheme == "IOB1"
    assert data.sentences == [["EU", "rejects"], ["#", "2"], ["Rome", "Paris"]]
    assert data.tags == [["B-ORG", "O"], ["B-ORG", "I-ORG"], ["B-LOC", "B-LOC"]]
    assert data.comments == [["-DOCSTART- -X- -X- O"], [], ["-DOCSTART- -X- -X- O"]]
    assert data.places == [f"{path}:{n}" for n in (3, 6, 10)]
    parts = read_tagged(path, token_column=1, labelled=False)
    assert parts.sentences[0] == ["NNP", "VBZ"]
    write_tagged(tmp_path / "out", data, [["O", "O"], ["O", "B-X"], ["O", "O"]])
    written = (tmp_path / "out").read_text().split("\n")
    assert written[0] == "-DOCSTART- -X- -X- O O"
    assert written[1:4] == ["", "EU NNP I-NP I-ORG O", "rejects VBZ I-VP O O"]
    assert "2 CD I-NP I-ORG B-X" in written


def test_comments_between_blank_separated_lines(write):
    text = "# id 1 domain=en\n# _ _ O\nthe _ _ B-X\n\n# id 2 domain=en\nman _ _ O\n"
    data = read_tagged(write("a.conll", text))
    assert data.sentences == [["#", "the"], ["man"]]
    assert data.comments == [["# id 1 domain=en"], ["# id 2 domain=en"]]


def test_bom_crlf_and_odd_blanks(write):
    text = "\ufeffa\tB-X\r\n \tI-X\r\nb\u2028c\x85\tO\r\n\t\r\n\u3000\tO\r\n#\tO"
    data = read_tagged(write("a.tsv", text))
    assert data.sentences == [["a", " ", "b\u2028c\x85"], ["\u3000", "#"]]
    assert data.tags == [["B-X", "I-X", "O"], ["O", "O"]]
    assert data.places[1].endswith(":5")


def test_tokens_alone(write, tmp_path):
    data = read_tagged(write("a.txt", "the\n\u3000\n\n#1\n# \n"), labelled=False)
    assert data.sentences == [["the", "\u3000"], ["#1", "#"]]
    write_tagged(tmp_path / "out", data, [["O", "B-X"], ["O", "O"]])
    assert (tmp_path / "out").read_text() == "the O\n\u3000 B-X\n\n#1 O\n# O\n\n"


def test_several_files_are_one(write):
    one, two = write("a", "x\tI-A\n"), write("b", "y I-A\nz B-A\n")
    data = read_tagged([one, two])
    assert data.sentences == [["x"], ["y", "z"]]
    assert (data.scheme, data.tags) == ("IOB1", [["B-A"], ["B-A", "B-A"]])
    assert data.places == [f"{one}:1", f"{two}:1"]
    assert len(data.first(1)) == 1
    assert data.first(None).tags == data.tags


# The same entities in each scheme, written by hand (after Wikipedia's and spaCy's
# descriptions): LOC, then PER PER, a PER beside it, and an ORG of three beside that.
WRITTEN = {
    "IOB2": "B-LOC O B-PER I-PER B-PER B-ORG I-ORG I-ORG O",
    "IOB1": "I-LOC O I-PER I-PER B-PER I-ORG I-ORG I-ORG O",
    "BIOES": "S-LOC O B-PER E-PER S-PER B-ORG I-ORG E-ORG O",
    "BILOU": "U-LOC O B-PER L-PER U-PER B-ORG I-ORG L-ORG O",
}


@pytest.mark.parametrize("scheme", WRITTEN)
def test_schemes_are_found_and_rewritten(write, scheme):
    tags = WRITTEN[scheme].split()
    path = write("a.tsv", "".join(f"w\t{tag}\n" for tag in tags))
    data = read_tagged(path)
    assert data.scheme == scheme
    assert data.tags == [WRITTEN["IOB2"].split()]


def test_io_is_as_iob1_without_neighbours():
    tags = ["I-A", "I-A", "O", "I-A", "I-B", "I-b"]
    assert detect_scheme([tags]) == "IO"
    assert to_iob2(tags) == ["B-A", "I-A", "O", "B-A", "B-B", "B-b"]
    assert detect_scheme([["O"]]) == "IOB2"


ENTITIES = st.lists(
    st.tuples(st.sampled_from(["", "A", "B-C"]), st.integers(1, 4)), min_size=1
)


@given(ENTITIES)
def test_each_scheme_tells_the_same_entities(entities):
    """Tags written from the schemes' definitions read back as the same IOB2."""
    iob2, iob1, bioes, before = [], [], [], ""
    for kind, size in entities:
        if not kind:
            outside = ["O"] * size
            iob2 += outside
            iob1 += outside
            bioes += outside
        else:
            iob2 += [f"B-{kind}"] + [f"I-{kind}"] * (size - 1)
            iob1 += [f"{'B' if before == kind else 'I'}-{kind}"]
            iob1 += [f"I-{kind}"] * (size - 1)
            marks = "S" if size == 1 else "B" + "I" * (size - 2) + "E"
            bioes += [f"{mark}-{kind}" for mark in marks]
        before = kind
    bilou = [{"E": "L", "S": "U"}.get(t[0], t[0]) + t[1:] for t in bioes]
    for tags in (iob1, bioes, bilou):
        assert to_iob2(tags) == iob2
    assert to_iob2(iob2) == iob2
    if any(kind for kind, _ in entities):
        assert detect_scheme([iob2]) == "IOB2"
        assert detect_scheme([iob1]) in ("IOB1", "IO")
        assert detect_scheme([bioes]) == "BIOES"
        assert detect_scheme([bilou]) == "BILOU"


@pytest.mark.parametrize(
    ("content", "line", "told", "read"),
    [
        ("B-A O I-A B-B", 3, "'I-A' may not follow 'O' in IOB2", "B-A O B-A B-B"),
        ("B-A I-B B-A", 2, "'I-B' may not follow 'B-A' in IOB2", "B-A B-B B-A"),
        (
            "I-A I-B I-A O B-A",
            5,
            "'B-A' may not follow 'O' in IOB1",
            "B-A B-B B-A O B-A",
        ),
        ("S-A E-A S-A", 2, "'E-A' may not follow 'S-A' in BIOES", "B-A B-A B-A"),
        ("B-A E-B", 2, "'E-B' may not follow 'B-A' in BIOES", "B-A B-B"),
        ("S-A B-A O", 3, "'O' may not follow 'B-A' in BIOES", "B-A B-A O"),
        ("B-A I-A I-A E-A I-A", 5, "in BIOES", "B-A I-A I-A I-A B-A"),
    ],
)
def test_a_tag_out_of_place_is_read_as_conlleval_reads_it(
    write, content, line, told, read
):
    path = write("a.tsv", "".join(f"w\t{tag}\n" for tag in content.split()))
    found = read_tagged(path)
    assert found.tags == [read.split()]
    (note,) = found.notes
    assert note.startswith(f"{path}:{line}: ")
    assert told in note
    assert note.endswith("read as conlleval does")


def test_a_first_token_that_looks_like_a_comment_is_a_token(write):
    """Tabs or blanks between the fields; KLUE's comments end in no tag."""
    for between in "\t ":
        rows = f"## id{between}text\n# foo\tB-X\nbar\tO\n".replace("\t", between)
        if between == " ":
            rows = rows.replace("# foo B-X", "# B-X")
        data = read_tagged(write("a.tsv", rows))
        assert data.tags == [["B-X", "O"]], between
        assert len(data.comments[0]) == 1


@pytest.mark.parametrize(
    ("content", "line", "told"),
    [
        ("a\tO\nb\tO\tO\nc\tO\n", 2, "3 columns, where the file has 2"),
        ("a\tO\nb\nc\tO\n", 2, "1 columns, where the file has 2"),
        ("a O\nb O O\nc O\n", 2, "3 columns"),
        ("a\tO\nb\0\tO\n", 2, "NUL"),
        (b"a\tO\n\nb\xff\tO\n", 3, "0xff is not UTF-8"),
        ("a\tO\n\tO\n", 2, "no token"),
        ("a\tO\nb\tX\n", 2, "'X' is no tag"),
        ("a\tO\nb\tb-PER\n", 2, "is no tag"),
        ("a\tO\nb\t" + "y" * 10**6 + "\n", 2, "yyy…' is no tag"),
        ("a\tU-A\nb\tU-A\nc\tS-A\n", 3, "'S-A' is no tag of BILOU"),
        ("a\tO\n\n" + "b\tO\n" * 1001, 3, "1001 tokens: are blank lines missing?"),
    ],
)
def test_what_is_bad_is_told_and_can_be_left_out(write, content, line, told):
    path = write("bad.tsv", content)
    with pytest.raises(DataError) as caught:
        read_tagged(path)
    assert f"{path}:{line}: " in str(caught.value)
    assert told in str(caught.value)
    assert len(str(caught.value)) < 2000
    # Two good sentences more, and the bad one is left out.
    data = read_tagged([path, write("good.tsv", "x\tO\n\ny\tO\n")], on_bad="skip")
    assert data.skipped == 1
    assert data.sentences[-2:] == [["x"], ["y"]]


def test_all_that_is_bad_is_told_at_once(write):
    path = write("bad.tsv", "a\tO\nb\n\nc\t?\n\nd\tI-A\n\ne\tB-A\n\nf\tB-A\n")
    with pytest.raises(DataError) as caught:
        read_tagged(path)
    assert all(f"{path}:{line}: " in str(caught.value) for line in (2, 4))
    assert "2 bad rows" in str(caught.value)
    assert read_tagged(path, on_bad="skip").skipped == 2
    with pytest.raises(DataError, match="More than 1 bad rows"):
        read_tagged(path, on_bad="skip", max_bad=1)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "empty"),
        ("\n \n\t\n", "empty"),
        ("## only\tcomments\n", "no good sentence"),
        (b"\xff\xfea\0\t\0", "UTF-16"),
    ],
)
def test_files_without_a_sentence(write, content, told):
    with pytest.raises(DataError, match=told):
        read_tagged(write("a.tsv", content))
    with pytest.raises(DataError, match="No data file"):
        read_tagged([])


def test_columns_that_are_not_there(write):
    path = write("a.tsv", "a\tO\n")
    with pytest.raises(ConfigError, match="2 columns, so there is no column 2"):
        read_tagged(path, tag_column=2)
    with pytest.raises(ConfigError, match="no column -3"):
        read_tagged(path, token_column=-3, labelled=False)
    with pytest.raises(ConfigError, match="same one"):
        read_tagged(write("b", "a\nb\n"))
    with pytest.raises(ConfigError, match="same one"):
        read_tagged(path, tag_column=0)
