import json

import numpy as np
import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny_tokenizers import ROBERTAS, byte_level, unigram, word_piece
from tokenizers import normalizers

from tl_jax.files.errors import ConfigError, DataError
from tl_jax.text.hangul import check_hangul, hangul_warning
from tl_jax.text.subwords import load_tokenizer

TEXTS = [
    "",
    " ",
    "film",
    " the film  is",
    "Café déjà-vu naïve ÅNGSTRÖM e\u0301",
    "영화가 정말 재미있었다 ㅋㅋ",
    "I ❤️ it 😀👩‍👩‍👧!!",
    "the <mask> of a <s>film</s>",
    "tab\there\u00a0and there \n",
    "漢字かな",
    "the film was long " * 12,
]
MAKERS = {
    "BPE": lambda: byte_level(False),
    "BPE with a prefix space": lambda: byte_level(True),
    "Unigram": unigram,
    "Unigram of whole texts": lambda: unigram(split=False),
    "WordPiece": word_piece,
}
NAMED = {
    f"{role}_token": name
    for role, name in zip(("cls", "pad", "sep", "unk", "mask"), ROBERTAS, strict=True)
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder of each kind, as hubs have them."""
    folder = tmp_path_factory.mktemp("tokenizers")
    for name, make in MAKERS.items():
        backend = make()
        if name == "BPE":
            mask = tokenizers.AddedToken("<mask>", lstrip=True, special=True)
            backend.add_special_tokens([mask])
        backend.enable_truncation(7)
        backend.enable_padding(length=9)
        (folder / name).mkdir()
        backend.save(str(folder / name / "tokenizer.json"))
        config = {"tokenizer_class": "PreTrainedTokenizerFast"} | NAMED
        if name == "WordPiece":
            config = {f"{r}_token": f"[{r.upper()}]" for r in ("cls", "sep", "pad")}
            config |= {"tokenizer_class": "PreTrainedTokenizerFast"}
            config |= {"unk_token": "[UNK]", "mask_token": "[MASK]"}
        (folder / name / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def theirs(folder):
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("length", [5, 8, 64])
@pytest.mark.parametrize("name", MAKERS)
def test_ids_types_and_special_ids_are_transformers(name, length, files):
    peer, ours = theirs(files / name), load_tokenizer(files / name)
    for pairs in (None, TEXTS[::-1]):
        found = ours.encode(TEXTS, pairs, max_length=length)
        wanted = peer(
            TEXTS,
            pairs,
            truncation=True,
            padding=False,
            max_length=length,
            return_token_type_ids=True,
        )
        for k, text in enumerate(TEXTS):
            assert found.tokens[k].tolist() == wanted["input_ids"][k], text
            assert found.types[k].tolist() == wanted["token_type_ids"][k], text
    for role in ("cls", "sep", "pad", "unk", "mask"):
        assert getattr(ours.special, role) == getattr(peer, f"{role}_token_id")
    assert ours.vocab_size == len(peer)


@pytest.mark.parametrize("name", MAKERS)
def test_a_saved_folder_gives_transformers_the_same(name, files, tmp_path):
    ours = load_tokenizer(files / name)
    ours.save(tmp_path)
    peer = theirs(tmp_path)
    found = ours.encode(TEXTS, TEXTS[::-1], max_length=32)
    wanted = peer(TEXTS, TEXTS[::-1], truncation=True, max_length=32)
    assert [t.tolist() for t in found.tokens] == wanted["input_ids"]
    assert [t.tolist() for t in found.types] == wanted["token_type_ids"]
    assert peer.mask_token_id == ours.special.mask
    assert (tmp_path / "vocab.txt").is_file() == (name == "WordPiece")
    again = load_tokenizer(tmp_path)
    assert (again.special, again.single, again.pair) == (
        ours.special,
        ours.single,
        ours.pair,
    )
    back = again.encode(TEXTS, TEXTS[::-1], max_length=32).tokens
    assert [t.tolist() for t in back] == wanted["input_ids"]
    ours.save(tmp_path / "bare", segments=False)
    assert set(theirs(tmp_path / "bare")("film")) == {"input_ids", "attention_mask"}


def test_offsets_are_those_of_roberta(files):
    # Its own post-processor trims them; only where a prefix space is asked for and the
    # text has one, it takes the text's for the added one and leaves it.
    for name in ("BPE", "BPE with a prefix space"):
        peer, ours = theirs(files / name), load_tokenizer(files / name)
        texts = [t for t in TEXTS if name == "BPE" or not t.startswith(" ")]
        for text, (_, offsets) in zip(
            texts, ours.pieces_with_offsets(texts), strict=True
        ):
            wanted = peer(
                text,
                return_offsets_mapping=True,
                add_special_tokens=False,
                truncation=False,
            )
            assert offsets.tolist() == [list(o) for o in wanted["offset_mapping"]], text


@settings(deadline=None, max_examples=60)
@given(st.text(alphabet=" \tthe film영화é😀\u00a0▁", max_size=30))
@example(" the  film ")
def test_offsets_point_to_the_pieces_without_white_space(files, text):
    for name in MAKERS:
        tokenizer = load_cached(files / name)
        ((ids, offsets),) = tokenizer.pieces_with_offsets([text])
        assert offsets.shape == (len(ids), 2)
        assert ids.tolist() == tokenizer.pieces([text])[0].tolist()
        covered = set()
        for start, end in offsets.tolist():
            assert 0 <= start <= end <= len(text)
            assert text[start:end].strip() in ("", text[start:end])
            covered |= set(range(start, end))
        # All that is no white space belongs to a piece.
        for place, character in enumerate(text):
            assert place in covered or character.isspace() or character == "▁"


def test_stripped_marks_belong_to_the_piece_that_they_follow(tmp_path):
    pieces = "[PAD] [UNK] [CLS] [SEP] [MASK] cafe caf ##e na ##ive s ##s ! क"
    (tmp_path / "vocab.txt").write_text("\n".join(pieces.split()) + "\n")
    uncased = load_tokenizer(tmp_path / "vocab.txt", lowercase=True)
    text = "cafe\u0301\u0323s, na\u0308ive\u200b! \u0301s\u0301 कु"
    ((ids, offsets),) = uncased.pieces_with_offsets([text])
    cut = [text[begin:end] for begin, end in offsets]
    assert cut == ["cafe\u0301\u0323", "s", ",", "na\u0308", "ive", "!", "s\u0301", "कु"]
    assert ids.tolist() == [5, 11, 1, 8, 9, 12, 10, 13]
    # A cased vocabulary strips nothing: the marks are part of the words.
    cased = load_tokenizer(tmp_path / "vocab.txt", lowercase=False)
    ((_, offsets),) = cased.pieces_with_offsets(["cafe\u0301 s"])
    assert offsets.tolist() == [[0, 5], [6, 7]]


CACHE = {}


def load_cached(folder):
    if folder not in CACHE:
        CACHE[folder] = load_tokenizer(folder)
    return CACHE[folder]


def test_a_pair_is_framed_as_roberta_does(files):
    tokenizer = load_tokenizer(files / "BPE")
    a, b = np.array([7, 8], np.int32), np.array([9], np.int32)
    alone = tokenizer.frame(a)
    assert alone.tokens.tolist() == [0, 7, 8, 2]
    assert (alone.first, alone.second) == (1, 4)
    pair = tokenizer.frame(a, b)
    assert pair.tokens.tolist() == [0, 7, 8, 2, 2, 9, 2]
    assert pair.types.tolist() == [0] * 7
    assert (pair.first, pair.second) == (1, 5)
    assert (tokenizer.specials(pair=False), tokenizer.specials(pair=True)) == (2, 4)
    assert tokenizer.frame(a[:0], b[:0]).tokens.tolist() == [0, 2, 2, 2]
    assert {pair.tokens.dtype, pair.types.dtype} == {np.dtype("int32")}
    for wrong in (("ab", None), (["a"], "b")):
        with pytest.raises(ConfigError, match=r"a single one is \[text\]"):
            tokenizer.encode(*wrong, max_length=16)
    with pytest.raises(ConfigError, match="need 5"):
        tokenizer.encode(["a"], ["b"], max_length=4)


def test_special_pieces_of_other_names_are_declared(files, tmp_path):
    state = (files / "Unigram" / "tokenizer.json").read_text()
    renamed = state.replace("<pad>", "<void>").replace("<mask>", "<gap>")
    (tmp_path / "tokenizer.json").write_text(renamed)
    with pytest.raises(DataError, match=r"lacks \[PAD\], \[MASK\].*pad_token"):
        load_tokenizer(tmp_path)
    told = {"pad_token": "<void>", "mask_token": {"content": "<gap>", "lstrip": True}}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(told))
    special = load_tokenizer(tmp_path).special
    assert (special.pad, special.mask, special.cls, special.sep) == (1, 4, 0, 2)
    # tokenizer_config.json decides.
    config = {"pad_token": "<unk>", "cls_token": None}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert load_tokenizer(tmp_path).special.pad == 3
    (tmp_path / "tokenizer_config.json").write_text('{"pad_token": 3}')
    with pytest.raises(DataError, match="pad_token is no name"):
        load_tokenizer(tmp_path)


def test_what_stands_around_a_text_is_the_files_own_affair(files, tmp_path):
    state = json.loads((files / "Unigram" / "tokenizer.json").read_text())
    state["post_processor"] = None
    (tmp_path / "tokenizer.json").write_text(json.dumps(state))
    with pytest.raises(DataError, match="a Unigram tokenizer needs that"):
        load_tokenizer(tmp_path)
    state = json.loads((files / "WordPiece" / "tokenizer.json").read_text())
    state["post_processor"] = None
    (tmp_path / "tokenizer.json").write_text(json.dumps(state))
    bare, own = load_tokenizer(tmp_path), load_tokenizer(files / "WordPiece")
    assert (bare.single, bare.pair) == (own.single, own.pair)


def test_the_letter_case_of_other_kinds_is_fixed(files):
    with pytest.raises(ConfigError, match="a BPE model, whose letter case is fixed"):
        load_tokenizer(files / "BPE", lowercase=True)
    assert load_tokenizer(files / "WordPiece", lowercase=True).uncased


@pytest.mark.parametrize(
    ("normalizer", "uncased", "splits"),
    [
        (None, False, False),
        (normalizers.Lowercase(), True, False),
        (normalizers.NFKC(), False, False),
        (normalizers.NFD(), False, True),
        (normalizers.BertNormalizer(lowercase=True), True, True),
        (normalizers.BertNormalizer(lowercase=True, strip_accents=False), True, False),
        (
            normalizers.Sequence(
                [normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()]
            ),
            True,
            True,
        ),
        (
            normalizers.Sequence(
                [normalizers.NFD(), normalizers.StripAccents(), normalizers.NFC()]
            ),
            False,
            False,
        ),
    ],
)
def test_korean_is_refused_where_syllables_are_taken_apart(
    normalizer, uncased, splits, tmp_path
):
    backend = unigram()
    if normalizer is not None:
        backend.normalizer = normalizer
    file = tmp_path / "tokenizer.json"
    backend.save(str(file))
    tokenizer = load_tokenizer(file)
    assert (tokenizer.uncased, tokenizer.splits_hangul) == (uncased, splits)
    korean = ["영화 정말 좋아요"]
    assert bool(hangul_warning(tokenizer, korean)) == splits
    if splits:
        with pytest.raises(ConfigError, match="--allow-uncased"):
            check_hangul(tokenizer, korean)
