import importlib
import json
import re
import unicodedata

import numpy as np
import pytest
import tokenizers

from tl_jax.data.readers import read_labelled
from tl_jax.files.errors import ConfigError, DataError
from tl_jax.text.encodings import cut_lengths
from tl_jax.text.hangul import check_hangul, hangul_share, hangul_warning
from tl_jax.text.subwords import load_tokenizer

ODD_TEXTS = [
    "",
    " ",
    "\u200b",
    "Café déjà-vu naïve ÅNGSTRÖM e\u0301",
    "I ❤️ it 😀👩‍👩‍👧!!",
    "x" * 150,
    "zero\u200bwidth \ufeffmark\x07bell\ttab\u00a0nbsp",
    "漢字かな混じり",
    "don't — “quoted” …",
    "영화 정말 좋아요ㅋㅋㅋ",
]

SMALL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "##b", "c", "é", "e"]


@pytest.fixture
def small(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(SMALL) + "\n")
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    return tmp_path


def tokenizers_of_transformers():
    """Their AutoTokenizer, an oracle where it is installed."""
    try:
        return importlib.import_module("transformers").AutoTokenizer
    except ImportError:
        return None


@pytest.fixture(scope="module")
def sentences(shared):
    """Some 1,000 real sentences, English and Korean, and some odd ones."""
    mr = read_labelled(shared / "sentiment/mr/dev.tsv").texts[:350]
    qnli = read_labelled(shared / "pairs/qnli/dev.tsv")
    nsmc = read_labelled(shared / "sentiment/nsmc/dev.tsv").texts[:350]
    return [*mr, *qnli.texts[:150], *(qnli.pairs or [])[:150], *nsmc, *ODD_TEXTS]


# BERT's tokenisation in plain Python, from the description in google-research/bert:
# clean, set off CJK, lower and strip accents, split at punctuation; then the greedy
# longest match first.


def plain_words(text, lower):
    out = []
    for ch in text:
        kind = unicodedata.category(ch)
        if ch in "\t\n\r" or kind == "Zs":
            out.append(" ")
        elif ch == "\ufffd" or kind in ("Cc", "Cf", "Cn", "Co", "Cs"):
            continue
        elif 0x4E00 <= ord(ch) <= 0x9FFF or 0x3400 <= ord(ch) <= 0x4DBF:
            out.append(f" {ch} ")
        else:
            out.append(ch)
    for word in "".join(out).split():
        if lower:
            word = unicodedata.normalize("NFD", word.lower())
            word = "".join(c for c in word if unicodedata.category(c) != "Mn")
        current = ""
        for ch in word:
            ascii_mark = 33 <= ord(ch) <= 126 and not ch.isalnum()
            if ascii_mark or unicodedata.category(ch).startswith("P"):
                yield from filter(None, (current, ch))
                current = ""
            else:
                current += ch
        if current:
            yield current


def plain_ids(text, vocabulary, lower):
    ids = []
    for word in plain_words(text, lower):
        found, start = [], 0
        while start < len(word) and len(word) <= 100:
            for end in range(len(word), start, -1):
                piece = word[start:end] if start == 0 else "##" + word[start:end]
                if piece in vocabulary:
                    found.append(vocabulary[piece])
                    start = end
                    break
            else:
                break
        ids += found if found and start == len(word) else [vocabulary["[UNK]"]]
    return ids


def numbered(path):
    lines = path.read_text().removesuffix("\n").split("\n")
    return {piece: i for i, piece in enumerate(lines)}


@pytest.mark.parametrize("lower", [False, True])
def test_ids_equal_plain_wordpiece(shared, minilm, sentences, lower):
    path = minilm if lower else shared / "bert/bert-base-cased-vocab.txt"
    vocabulary = numbered(path / "vocab.txt" if lower else path)
    tokenizer = load_tokenizer(path)
    assert tokenizer.uncased is lower
    assert tokenizer.vocab_size == len(vocabulary)
    ours = tokenizer.encode(sentences, max_length=512).tokens
    for text, ids in zip(sentences, ours, strict=True):
        wanted = [vocabulary["[CLS]"], *plain_ids(text, vocabulary, lower)]
        assert ids.tolist() == [*wanted[:511], vocabulary["[SEP]"]], text
        assert ids.dtype == np.int32


@pytest.mark.parametrize("length", [7, 8, 24, 128])
def test_ids_equal_transformers(minilm, sentences, length):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(minilm)
    ours = load_tokenizer(minilm)
    firsts, seconds = sentences, sentences[::-1]
    for pairs in (None, seconds):
        got = ours.encode(firsts, pairs, max_length=length)
        wanted = theirs(firsts, pairs, truncation=True, max_length=length)
        for k in range(len(firsts)):
            assert got.tokens[k].tolist() == wanted["input_ids"][k]
            assert got.types[k].tolist() == wanted["token_type_ids"][k]


@pytest.mark.parametrize("which", ["minilm", "cased vocabulary"])
def test_saved_folder_gives_transformers_the_same_ids(
    shared, minilm, sentences, tmp_path, which
):
    transformers = pytest.importorskip("transformers")
    cased = which != "minilm"
    tokenizer = load_tokenizer(
        shared / "bert/bert-base-cased-vocab.txt" if cased else minilm
    )
    tokenizer.save(tmp_path)
    wanted = tokenizer.encode(sentences, sentences[::-1], max_length=64)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    got = theirs(sentences, sentences[::-1], truncation=True, max_length=64)
    assert got["input_ids"] == [t.tolist() for t in wanted.tokens]
    assert got["token_type_ids"] == [t.tolist() for t in wanted.types]
    assert theirs.mask_token_id == tokenizer.special.mask
    # The file by itself frames a pair, too.
    alone = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    framed = alone.encode("an", "apple").ids
    assert (
        framed == tokenizer.encode(["an"], ["apple"], max_length=9).tokens[0].tolist()
    )
    # And the folder comes back to us, from either of its files.
    (tmp_path / "bare").mkdir()
    for name in ("vocab.txt", "tokenizer_config.json"):
        (tmp_path / "bare" / name).write_bytes((tmp_path / name).read_bytes())
    for folder in (tmp_path, tmp_path / "bare"):
        again = load_tokenizer(folder)
        assert again.uncased is not cased
        assert again.special == tokenizer.special
        back = again.encode(sentences, sentences[::-1], max_length=64)
        assert [t.tolist() for t in back.tokens] == got["input_ids"]


def test_truncation_set_in_the_file_is_dropped(minilm):
    tokenizer = load_tokenizer(minilm)
    (ids,) = tokenizer.encode(["word " * 300], max_length=512).tokens
    assert len(ids) == 302
    (short,) = tokenizer.encode(["word"], max_length=512).tokens
    assert len(short) == 3


def test_empty_text_is_cls_sep(small):
    tokenizer = load_tokenizer(small)
    assert tokenizer.encode([""], max_length=8).tokens[0].tolist() == [2, 3]
    pair = tokenizer.encode(["", "ab"], ["a", ""], max_length=8)
    assert [t.tolist() for t in pair.tokens] == [[2, 3, 5, 3], [2, 5, 7, 3, 3]]
    assert [t.tolist() for t in pair.types] == [[0, 0, 1, 1], [0, 0, 0, 0, 1]]
    assert tokenizer.encode([], max_length=8).tokens == []


def test_cut_lengths_takes_from_the_longer_first():
    # By the definition: one token at a time from the longer part.
    for a in range(12):
        for b in range(12):
            for room in range(1, 24):
                x, y = a, b
                while x + y > room:
                    x, y = (x - 1, y) if x > y or (x == y and b >= a) else (x, y - 1)
                assert cut_lengths(a, b, room) == (x, y), (a, b, room)


def test_pieces_and_offsets(small):
    tokenizer = load_tokenizer(small)
    assert [p.tolist() for p in tokenizer.pieces(["ab é", ""])] == [[5, 7, 9], []]
    ((ids, offsets), (none, nowhere)) = tokenizer.pieces_with_offsets(["é  ab", ""])
    assert ids.tolist() == [9, 5, 7]
    assert offsets.tolist() == [[0, 1], [3, 4], [4, 5]]
    assert len(none) == 0
    assert nowhere.shape == (0, 2)


def test_case_follows_config_or_argument(small):
    text = ["A É"]
    cased = load_tokenizer(small)
    assert cased.pieces(text)[0].tolist() == [1, 1]
    assert load_tokenizer(small, lowercase=True).pieces(text)[0].tolist() == [5, 10]
    config = {"do_lower_case": True, "strip_accents": False}
    (small / "tokenizer_config.json").write_text(json.dumps(config))
    lower = load_tokenizer(small)
    assert lower.uncased
    assert lower.pieces(text)[0].tolist() == [5, 9]
    assert not load_tokenizer(small, lowercase=False).uncased
    lower.save(small / "saved")
    assert load_tokenizer(small / "saved").pieces(text)[0].tolist() == [5, 9]
    assert not load_tokenizer(small / "saved", lowercase=False).uncased


@pytest.mark.parametrize(
    ("more", "uncased"),
    [([], True), (["A"], False), (["가"], False), (["[UNUSED]"], True)],
)
def test_case_that_nobody_declares_is_seen_from_the_pieces(tmp_path, more, uncased):
    (tmp_path / "vocab.txt").write_text("\n".join([*SMALL, *more]) + "\n")
    assert load_tokenizer(tmp_path).uncased == uncased
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 512}')
    assert load_tokenizer(tmp_path).uncased == uncased


@pytest.mark.parametrize("lower", [True, False])
def test_declared_case_counts_more_than_berts_tokenizer_json(small, lower):
    load_tokenizer(small, lowercase=not lower).save(small / "saved")
    file = small / "saved" / "tokenizer_config.json"
    config = json.loads(file.read_text()) | {"do_lower_case": lower}
    file.write_text(json.dumps(config))
    found = load_tokenizer(small / "saved")
    assert found.uncased == lower
    assert found.pieces(["A a"])[0].tolist() == ([5, 5] if lower else [1, 5])
    if auto := tokenizers_of_transformers():
        told = auto.from_pretrained(small / "saved")
        assert told("A a")["input_ids"] == [2, *found.pieces(["A a"])[0], 3]
    # Of a class that is not BERT's it is a word that nobody heeds.
    file.write_text(json.dumps(config | {"tokenizer_class": "PreTrainedTokenizerFast"}))
    assert load_tokenizer(small / "saved").uncased != lower


@pytest.mark.parametrize("declared", ["added_tokens.json", "tokenizer_config.json"])
def test_pieces_that_were_added_later(small, declared):
    added = {"[E1]": 11, "[/E1]": 12}
    config = {"do_lower_case": False}
    if declared == "added_tokens.json":
        (small / declared).write_text(json.dumps(added))
    else:
        decoder = {str(n): {"content": p, "special": True} for p, n in added.items()}
        config["added_tokens_decoder"] = decoder
    (small / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(small)
    assert tokenizer.vocab_size == 13
    ids = [5, 11, 6, 12, 8]
    assert tokenizer.pieces(["a [E1] b [/E1] c"])[0].tolist() == ids
    if auto := tokenizers_of_transformers():
        (small / "config.json").write_text('{"model_type": "bert"}')
        told = auto.from_pretrained(small)
        assert told("a [E1] b [/E1] c")["input_ids"] == [2, *ids, 3]


def test_pieces_that_were_added_elsewhere_are_refused(small):
    (small / "added_tokens.json").write_text('{"[E1]": 20}')
    with pytest.raises(DataError, match="piece 20"):
        load_tokenizer(small)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("added_tokens.json", {"[E1]": "eleven"}),
        ("added_tokens.json", {"[E1]": None}),
        ("added_tokens.json", {"[E1]": -1}),
        ("added_tokens.json", {"[E1]": 10**12}),
        ("added_tokens.json", {"\ud800": 11}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": {"content": "[E1]"}}}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"11": {"special": True}}}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"11": "[E1]"}}),
        ("tokenizer_config.json", {"added_tokens_decoder": ["[E1]"]}),
    ],
)
def test_added_pieces_without_a_number_or_a_name_are_refused(small, name, content):
    (small / name).write_text(json.dumps(content))
    with pytest.raises(DataError, match=name):
        load_tokenizer(small)


def test_options_that_do_not_fit(small):
    tokenizer = load_tokenizer(small)
    with pytest.raises(ConfigError, match="need 3"):
        tokenizer.encode(["a"], max_length=2)
    with pytest.raises(ConfigError, match="need 4"):
        tokenizer.encode(["a"], ["b"], max_length=3)
    with pytest.raises(ConfigError, match="1 texts and 2 pairs"):
        tokenizer.encode(["a"], ["b", "c"], max_length=8)
    with pytest.raises(DataError, match=r"Text \[1\]"):
        tokenizer.encode(["a", "\ud800"], max_length=8)


def good_json(small):
    load_tokenizer(small).save(small / "good")
    return json.loads((small / "good" / "tokenizer.json").read_text())


def hostile(state, change):
    out = json.loads(json.dumps(state))
    change(out)
    return json.dumps(out)


HOSTILE = {
    "empty": lambda s: "",
    "not json": lambda s: "{",
    "a list": lambda s: "[]",
    "deep": lambda s: "[" * 100_000,
    "no model": lambda s: hostile(s, lambda o: o.pop("model")),
    "unknown model": lambda s: hostile(
        s, lambda o: o.update(model={"type": "Runes", "vocab": {}})
    ),
    "BPE without a template": lambda s: hostile(
        s,
        lambda o: o.update(
            model={"type": "BPE", "vocab": {}, "merges": []}, post_processor=None
        ),
    ),
    "template of strangers": lambda s: hostile(
        s, lambda o: o["post_processor"].update(cls=["[CLS]", 99])
    ),
    "huge id": lambda s: hostile(s, lambda o: o["model"]["vocab"].update(x=2**40)),
    "negative id": lambda s: hostile(s, lambda o: o["model"]["vocab"].update(x=-1)),
    "no [SEP]": lambda s: hostile(
        s, lambda o: (o["model"]["vocab"].pop("[SEP]"), o.update(added_tokens=[]))
    ),
    "no [UNK]": lambda s: hostile(
        s, lambda o: (o["model"].update(vocab={}), o.update(added_tokens=[]))
    ),
    "normalizer": lambda s: hostile(s, lambda o: o.update(normalizer={"type": "?"})),
    "bad regex": lambda s: hostile(
        s,
        lambda o: o.update(
            normalizer={"type": "Replace", "pattern": {"Regex": "("}, "content": ""}
        ),
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_tokenizer_json_is_a_typed_error(small, tmp_path, name):
    file = tmp_path / "tokenizer.json"
    file.write_text(HOSTILE[name](good_json(small)))
    with pytest.raises(DataError, match=re.escape(str(file))):
        load_tokenizer(file)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "no line"),
        (b"one\ntwo\n", "no line"),
        (b"[UNK]\n\xff\n", "not UTF-8"),
        (b"[PAD]\n[UNK]\n[CLS]\n", re.escape("lacks [SEP], [MASK]")),
    ],
)
def test_broken_vocabulary_is_a_typed_error(tmp_path, content, told):
    (tmp_path / "vocab.txt").write_bytes(content)
    with pytest.raises(DataError, match=told):
        load_tokenizer(tmp_path)


def test_missing_or_broken_surroundings_are_typed_errors(tmp_path, small):
    with pytest.raises(DataError, match="no tokenizer here"):
        load_tokenizer(tmp_path / "nothing")
    for content in ("[1]", "{"):
        (small / "tokenizer_config.json").write_text(content)
        with pytest.raises(DataError, match="tokenizer_config"):
            load_tokenizer(small)


def test_windows_line_ends_in_a_vocabulary(small):
    (small / "vocab.txt").write_bytes("\r\n".join(SMALL).encode())
    assert load_tokenizer(small).pieces(["ab"])[0].tolist() == [5, 7]


def test_hangul_share_counts_letters_alone():
    assert hangul_share(["영화 good 12!! ㅋ"]) == pytest.approx(3 / 7)
    assert hangul_share(["", "123 …"]) == 0
    assert hangul_share([unicodedata.normalize("NFD", "한글")]) == 1


def test_uncased_vocabulary_is_refused_for_korean(small, shared):
    korean = read_labelled(shared / "sentiment/nsmc/dev.tsv").texts
    english = read_labelled(shared / "sentiment/mr/dev.tsv").texts
    assert hangul_share(korean) > 0.9
    uncased = load_tokenizer(small, lowercase=True)
    with pytest.raises(ConfigError, match="--allow-uncased"):
        check_hangul(uncased, korean)
    check_hangul(uncased, korean, allow_uncased=True)
    check_hangul(uncased, english)
    check_hangul(load_tokenizer(small), korean)
    assert "Hangul" in (hangul_warning(uncased, korean) or "")
    # The limit itself: over 30 %, not at it.
    check_hangul(uncased, ["한글말 abcdefg"])
    with pytest.raises(ConfigError):
        check_hangul(uncased, ["한글말 abcdef"])
