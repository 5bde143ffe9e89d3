import json

import pytest

from tl_jax.data.readers import Columns, read_labelled, read_table
from tl_jax.files.errors import ConfigError, DataError


@pytest.fixture
def write(tmp_path):
    """Writes a file of text or bytes and returns its path."""

    def make(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return make


# Counts and formats as shared/data/README.md gives them.
@pytest.mark.parametrize(
    ("name", "train", "dev", "columns"),
    [
        ("sentiment/mr/{}.tsv", 8470, 1096, ("sentence", "label")),
        ("sentiment/nsmc/{}.tsv", 30000, 5000, ("document", "label")),
        ("pairs/qnli/{}.tsv", 3959, 607, ("question", "sentence", "label")),
        ("pairs/korsts/{}.tsv", 5749, 1500, ("sentence1", "sentence2", "score")),
        ("pairs/klue_nli/{}.json", 2400, 300, ("premise", "hypothesis", "gold_label")),
    ],
)
def test_real_files_have_all_their_rows(shared, name, train, dev, columns):
    for split, count in (("train", train), ("dev", dev)):
        path = shared / name.format(split)
        data = read_labelled(path)
        assert (len(data), data.columns, data.skipped) == (count, columns, 0)
        assert (data.pairs is None) == (len(columns) == 2)
        # Stray quotes are text: no character of the file is lost.
        if path.suffix == ".tsv":
            quotes = path.read_text().count('"')
            table = read_table(path)
            cells = (v or "" for column in table.columns.values() for v in column)
            assert sum(v.count('"') for v in cells) == quotes


def test_places_name_file_and_line(shared):
    path = shared / "pairs/klue_nli/dev.json"
    data = read_labelled(path)
    lines = path.read_text().split("\n")
    for i in (0, 1, 299):
        line = int(data.places[i].rsplit(":", 1)[1])
        assert lines[line - 1].startswith("{")
        assert data.texts[i] in "\n".join(lines[line : line + 4])


def test_tsv_keeps_quotes_and_inner_marks(write):
    path = write(
        "a.tsv",
        '\ufeffsentence\tlabel\r\n"open\t1\r\nx\ufeffy\u2028z\x85"q"\t0\r\n\t1\r\n\r\n',
    )
    data = read_labelled(path)
    assert data.texts == ['"open', 'x\ufeffy\u2028z\x85"q"', ""]
    assert data.labels == ["1", "0", "1"]
    assert data.places[1] == f"{path}:3"


def test_csv_follows_rfc_4180(write):
    path = write(
        "a.csv",
        'text,label\r\n"a ""b"", c",1\r\n"two\r\nlines",0\r\nplain "x",1\n,0',
    )
    data = read_labelled(path)
    assert data.texts == ['a "b", c', "two\r\nlines", 'plain "x"', ""]
    assert data.labels == ["1", "0", "1", "0"]
    assert [p.rsplit(":", 1)[1] for p in data.places] == ["2", "3", "5", "6"]


def test_csv_agrees_with_pythons_writer(write):
    import csv
    import io

    rows = [["text", "label"], ['"', "1"], ["a\nb,\r\n", "x"], ['""', '",'], ["", " "]]
    out = io.StringIO(newline="")
    csv.writer(out).writerows(rows)
    table = read_table(write("a.csv", out.getvalue()))
    assert [list(row) for row in zip(*table.columns.values(), strict=True)] == rows[1:]


def test_json_and_jsonl_give_the_same(write):
    rows = [{"text": "a\ttab", "label": 1}, {"text": "b", "label": 2.5, "more": [1]}]
    listed = read_labelled(write("a.json", json.dumps(rows, indent=1)))
    under = read_labelled(
        write("b.json", json.dumps({"version": {"data": [1]}, "data": rows}))
    )
    lines = read_labelled(write("c.jsonl", "\n\n".join(map(json.dumps, rows))))
    for data in (listed, under, lines):
        assert data.texts == ["a\ttab", "b"]
        assert data.labels == ["1", "2.5"]
    assert [p.rsplit(":", 1)[1] for p in lines.places] == ["1", "3"]
    table = read_table(write("d.jsonl", "\n".join(map(json.dumps, rows))))
    assert table.columns["more"] == [None, "[1]"]


def test_several_files_are_joined(write):
    one = write("a.tsv", "sentence\tlabel\nx\t1\n")
    two = write("b.csv", "label,sentence\n0,y\n")
    data = read_labelled([one, two])
    assert (data.texts, data.labels) == (["x", "y"], ["1", "0"])
    assert data.places == [f"{one}:2", f"{two}:2"]
    three = write("c.tsv", "text\tlabel\nx\t1\n")
    with pytest.raises(DataError, match=r"c\.tsv has \['label', 'text'\]"):
        read_labelled([one, three])


def test_pairs_come_before_single_texts(write):
    pair = write("a.tsv", "index\tquestion\tsentence\tlabel\n0\tq\ts\tyes\n")
    data = read_labelled(pair)
    assert (data.texts, data.pairs, data.labels) == (["q"], ["s"], ["yes"])
    single = read_labelled(pair, columns=Columns("sentence"))
    assert (single.texts, single.pairs) == (["s"], None)
    half = write("b.tsv", "sentence\thypothesis\ns\th\n")
    assert read_labelled(half).columns == ("sentence",)
    assert read_labelled(half).labels is None
    named = read_labelled(half, columns=Columns("hypothesis", "sentence"))
    assert (named.texts, named.pairs) == (["h"], ["s"])


def test_txt_is_a_text_a_line_or_a_table_with_a_header(write):
    plain = write("a.txt", "one , two\ttext\n\n another \n")
    named = Columns("words", "more", "label")
    for columns in (Columns(), named):
        data = read_labelled(plain, columns=columns, labelled=False)
        assert (data.texts, data.pairs) == (["one , two\ttext", "another"], None)
    table = write("ratings_test.txt", "id\tdocument\tlabel\n7\tgood\t1\n8\t\t0\n")
    data = read_labelled(table)
    assert (data.texts, data.labels) == (["good", ""], ["1", "0"])


@pytest.mark.parametrize("label", ["label", "stars"])
def test_labels_that_are_not_asked_for_may_be_anything(write, label):
    columns = Columns(label=None if label == "label" else label)
    for content in (f"sentence\t{label}\ns\t\n", "sentence\tid\ns\t1\n"):
        path = write("a.tsv", content)
        data = read_labelled(path, columns=columns, labelled=False)
        assert (data.texts, data.labels) == (["s"], None)


def test_named_columns_must_exist(write):
    path = write("a.tsv", "sentence\tlabel\ns\t1\n")
    with pytest.raises(ConfigError, match=r"'sentense' .*Did you mean 'sentence'"):
        read_labelled(path, columns=Columns("sentense"))
    with pytest.raises(ConfigError, match="Did you mean 'label'"):
        read_labelled(path, columns=Columns(label="labels"))
    with pytest.raises(ConfigError, match="name both"):
        read_labelled(path, columns=Columns(pair="sentence"))


BAD_ROWS = [
    ("a.tsv", b"sentence\tlabel\nok\t1\nbad\xe9\t1\n", 3, "byte 0xe9 is not UTF-8"),
    ("a.tsv", b"sentence\tlabel\nok\t1\none\n", 3, "1 columns, where the header has 2"),
    ("a.tsv", b"sentence\tlabel\nok\t1\na\tb\t1\n", 3, "3 columns"),
    ("a.tsv", b"sentence\tlabel\nok\t1\nn\0l\t1\n", 3, "NUL"),
    ("a.tsv", b"sentence\tlabel\nok\t1\ntext\t\n", 3, "no value in label"),
    ("a.tsv", b"sentence\tlabel\nok\t1\n\nx\t1\n", 3, "1 columns"),
    ("a.csv", b'text,label\nok,1\n"open,1\nfine,1\n', 3, "quote is not closed"),
    ("a.csv", b'text,label\nok,1\n"x"y,1\n', 3, "inside a field"),
    ("a.csv", b'text,label\nok,1\n"two\n\xff",1\n', 3, "0xff is not UTF-8"),
    ("a.jsonl", b'{"text": "ok", "label": 1}\n{"text": "a", "label"\n', 2, "column 22"),
    ("a.jsonl", b'{"text": "ok", "label": 1}\n[1]\n', 2, "not list"),
    ("a.jsonl", b'{"text": "ok", "label": 1}\n{"text": "a"}\n', 2, "no value in label"),
    (
        "a.jsonl",
        b'{"text": "ok", "label": 1}\n{"text": null, "label": 1}\n',
        2,
        "no value in text",
    ),
    (
        "a.jsonl",
        b'{"text": "ok", "label": 1}\n{"text": "\\ud800", "label": 1}\n',
        2,
        "surrogate",
    ),
    (
        "a.jsonl",
        b'{"text": "ok", "label": 1}\n{"text": "\\u0000", "label": 1}\n',
        2,
        "NUL",
    ),
    ("a.jsonl", b'{"text": "ok", "label": 1}\n' + b"[" * 100000, 2, "nested too deep"),
    (
        "a.jsonl",
        b'{"text": "ok", "label": 1}\n{"text": "a", "label": ' + b"9" * 9999 + b"}",
        2,
        "broken JSON",
    ),
    ("a.json", b'[{"text": "ok", "label": 1},\n 5]', 2, "not int"),
]


@pytest.mark.parametrize(("name", "content", "line", "told"), BAD_ROWS)
def test_bad_rows_are_told_by_line_or_skipped(write, name, content, line, told):
    path = write(name, content)
    with pytest.raises(DataError) as caught:
        read_labelled(path)
    assert f"{path}:{line}: " in str(caught.value)
    assert told in str(caught.value)
    data = read_labelled(path, on_bad="skip")
    assert data.texts[0] == "ok"
    assert data.skipped == 1
    with pytest.raises(DataError, match="More than 0 bad rows"):
        read_labelled(path, on_bad="skip", max_bad=0)


BAD_FILES = [
    ("a.tsv", b"", "empty"),
    ("a.tsv", b" \n\n", "empty"),
    ("a.csv", b"\xef\xbb\xbf", "empty"),
    ("a.tsv", b"sentence\tlabel\n", "not one good row"),
    ("a.tsv", b"a fine film\t1\na bad one\t0\n", "put one in the first line"),
    ("a.tsv", b"sentence\tsentence\nx\ty\n", "occurs twice"),
    ("a.tsv", b"sentence\t\nx\ty\n", "has no name"),
    ("a.tsv", "sentence\tlabel\nx\t1\n".encode("utf-16"), "UTF-16"),
    ("a.tsv", b"\x1f\x8b\x08\x00", "compressed"),
    ("a.csv", b'"text\nx', "header"),
    ("a.json", b"{}", "under"),
    ("a.json", b'{"data": 5}', "under"),
    ("a.json", b'"text"', "list of objects"),
    ("a.json", b'[{"text": "a"}\n {"text": "b"}]', ":2: broken JSON"),
    ("a.json", b'[{"text": "a"},', "broken JSON"),
    ("a.json", b'[{"text": "a"},]', ":1: broken JSON"),
    ("a.json", b'[{"text": "a"}]\n[{"text": "b"}]', ":2: broken JSON"),
    ("a.json", b'{"data": [{"text": "a"}], "x":', "broken JSON"),
    ("a.json", b'{"data": [{"text": "a"}]\n "x": 1}', ":2: broken JSON"),
    ("a.json", b"[" * 100000, "nested too deep"),
    ("a.json", b"[" + b"9" * 9999 + b"]", "broken JSON"),
    ("a.json", b"[]", "no object"),
    ("a.jsonl", b"{}\n{}\n", "no object"),
    ("a.doc", b"x", "format is told"),
]


@pytest.mark.parametrize(("name", "content", "told"), BAD_FILES)
def test_bad_files_are_told(write, name, content, told):
    path = write(name, content)
    for on_bad in ("raise", "skip"):
        with pytest.raises(DataError, match=told) as caught:
            read_labelled(path, on_bad=on_bad)
        assert str(path) in str(caught.value)


def test_many_problems_are_gathered_and_counted(write):
    path = write("a.tsv", "sentence\tlabel\n" + "x\n" * 13 + "y\t\n" * 12)
    with pytest.raises(DataError) as caught:
        read_labelled(path)
    assert str(caught.value).startswith("25 bad rows:")
    assert "… and 15 more" in str(caught.value)
    assert str(caught.value).count(f"{path}:") == 10


def test_missing_files_name_what_is_near(tmp_path, write):
    write("train.tsv", "x")
    with pytest.raises(DataError, match=r"Did you mean 'train\.tsv'"):
        read_labelled(tmp_path / "trian.tsv")
    with pytest.raises(DataError, match="Nor can its folder"):
        read_labelled(tmp_path / "none" / "a.tsv")
    with pytest.raises(DataError, match="is a folder"):
        read_labelled(tmp_path)
    with pytest.raises(DataError, match="No data file"):
        read_labelled([])
    with pytest.raises(ConfigError, match="on_bad"):
        read_labelled(tmp_path / "train.tsv", on_bad="ignore")


def test_a_line_of_ten_megabytes_is_read(write):
    long = "x" * 10_000_000
    for name, text in (
        ("a.tsv", f"text\tlabel\n{long}\t1\n"),
        ("a.csv", f'text,label\n"{long}""",1\n'),
        ("a.jsonl", json.dumps({"text": long, "label": 1})),
    ):
        assert len(read_labelled(write(name, text)).texts[0]) >= 10_000_000


def test_a_text_may_begin_as_an_archive_does(tmp_path):
    file = tmp_path / "a.tsv"
    file.write_text("PKK\tlabel\na text\t1\n")
    assert read_labelled(file, columns=Columns(text="PKK")).texts == ["a text"]
    file.write_bytes(b"PK\x03\x04")
    with pytest.raises(DataError, match="is compressed"):
        read_labelled(file)


def test_rows_without_a_gold_label_are_left_out_and_noted(write):
    """SNLI's placeholder; in any other column a dash is a label like others."""
    rows = "sentence1\tsentence2\t{}\na\tb\t-\nc\td\tneutral\n"
    found = read_labelled(write("a.tsv", rows.format("gold_label")))
    assert found.labels == ["neutral"]
    assert found.skipped == 0
    assert found.notes == ("1 rows have no gold label (-): left out",)
    kept = read_labelled(write("b.tsv", rows.format("label")))
    assert kept.labels == ["-", "neutral"]
    assert not kept.notes
