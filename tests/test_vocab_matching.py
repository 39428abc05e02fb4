"""Matches between vocabularies, by hand-made cases, by a naive second computation, and across all families."""

from __future__ import annotations

import itertools
import json
import random

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hf_vocab_extend.vocab.canonical import CanonicalVocab, Family, TokenKind, canonicalise
from hf_vocab_extend.vocab.matching import MatchKind, match
from hf_vocab_extend.vocab.special_tokens import match_roles

from .factories import MARK, TOKENIZERS, tokenizer
from .test_vocab_canonical import byte_bpe, marked_bpe, wordpiece, wrap

PAIRS = list(itertools.permutations(TOKENIZERS, 2))


def found(source: Tokenizer, target: Tokenizer, fuzzy: bool = False) -> dict[str, tuple[str, str]]:
    """Target token -> (source token, kind); what has no match is left out."""
    here, there = canonicalise(wrap(source)), canonicalise(wrap(target))
    ids, kinds = match(here, there, {}, fuzzy)
    return {
        there.tokens[index]: (here.tokens[source_id], MatchKind(kind).name)
        for index, (source_id, kind) in enumerate(zip(ids.tolist(), kinds.tolist(), strict=True))
        if source_id >= 0
    }


def suffix_bpe(tokens: list[str]) -> Tokenizer:
    backend = Tokenizer(models.BPE({name: i for i, name in enumerate(tokens)}, [], end_of_word_suffix="</w>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return backend


def specials(names: list[str], **roles: str) -> PreTrainedTokenizerFast:
    backend = byte_bpe(["a"])
    backend.add_special_tokens([AddedToken(name, normalized=False) for name in names])
    return wrap(backend, **roles)


def permuted(name: str, seed: int) -> tuple[PreTrainedTokenizerFast, np.ndarray]:
    """A tokenizer with its ids shuffled, added tokens among the others, and the old id of each new id."""
    own = tokenizer(name)
    data = json.loads(own.backend_tokenizer.to_str())
    old_ids = own.get_vocab()
    used = sorted(old_ids.values())
    shuffled = used.copy()
    random.Random(seed).shuffle(shuffled)
    new_of = dict(zip(used, shuffled, strict=True))
    model = data["model"]
    if model["type"] == "Unigram":
        scores = dict(model["vocab"])
        order = sorted(old_ids, key=lambda token: new_of[old_ids[token]])
        model["vocab"] = [[token, scores.get(token, 0.0)] for token in order]
        model["unk_id"] = new_of[model["unk_id"]]
    else:
        model["vocab"] = {token: new_of[old] for token, old in old_ids.items()}
    for token in data["added_tokens"]:
        token["id"] = new_of[token["id"]]
    data["added_tokens"].sort(key=lambda token: token["id"])
    data["post_processor"] = None
    names = {role: value for role, value in own.special_tokens_map.items() if isinstance(value, str)}
    old_of = np.full(max(used) + 1, -1)
    old_of[shuffled] = used
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(data)), **names), old_of


def naive(source: CanonicalVocab, target: CanonicalVocab) -> dict[int, int]:
    """Same bytes, agreeing place, lowest id: slow, and only where the places settle everything."""
    expected = {}
    for index in range(len(target)):
        candidates = [
            other
            for other in range(len(source))
            if source.raw[other] == target.raw[index]
            and source.starts_word[other] == target.starts_word[index]
            and source.ends_word[other] == target.ends_word[index]
            and source.kinds[other] == target.kinds[index] == TokenKind.NORMAL
        ]
        if candidates:
            expected[index] = candidates[0]
    return expected


@pytest.mark.parametrize("fuzzy", [False, True])
@pytest.mark.parametrize("name", TOKENIZERS)
def test_same_tokenizer_gives_the_identity(name, fuzzy):
    vocab = canonicalise(tokenizer(name))
    ids, kinds = match(vocab, vocab, match_roles(tokenizer(name), tokenizer(name)), fuzzy)
    assert (ids == np.arange(len(vocab))).all()
    expected = {
        TokenKind.NORMAL: MatchKind.EXACT,
        TokenKind.UNUSED: MatchKind.EXACT,
        TokenKind.SPECIAL: MatchKind.SPECIAL,
        TokenKind.BYTE: MatchKind.BYTE,
    }
    assert kinds.tolist() == [expected[TokenKind(kind)] for kind in vocab.kinds.tolist()]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_permuted_ids_give_the_permutation(name):
    shuffled, old_of = permuted(name, seed=3)
    assert not (old_of == np.arange(len(old_of))).all()
    roles = match_roles(tokenizer(name), shuffled)
    ids, _ = match(canonicalise(tokenizer(name)), canonicalise(shuffled), roles)
    assert (ids == old_of).all()


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_pairs_of_families(one, other):
    """Every match joins equal bytes and places that do not contradict; what the naive search finds is found."""
    source, target = canonicalise(tokenizer(one)), canonicalise(tokenizer(other))
    roles = match_roles(tokenizer(one), tokenizer(other))
    ids, kinds = match(source, target, roles)
    for index in np.flatnonzero(ids >= 0).tolist():
        there = int(ids[index])
        if kinds[index] == MatchKind.SPECIAL:
            assert source.kinds[there] == target.kinds[index] == TokenKind.SPECIAL
            continue
        assert source.raw[there] == target.raw[index]
        here, beyond = TokenKind(target.kinds[index]), TokenKind(source.kinds[there])
        assert here is beyond or {here, beyond} == {TokenKind.NORMAL, TokenKind.BYTE}
        assert here is not TokenKind.UNUSED or source.tokens[there] == target.tokens[index]
        if kinds[index] == MatchKind.EXACT:
            for place in ("starts_word", "ends_word"):
                assert {int(getattr(source, place)[there]), int(getattr(target, place)[index])} != {0, 1}
    isolated = {raw for raw, starts in zip(source.raw, source.starts_word, strict=True) if starts == -1}
    for index, there in naive(source, target).items():
        if target.raw[index] not in isolated or source.family is target.family:
            assert ids[index] == there or source.tokens[ids[index]] == target.tokens[index]
    again, kinds_again = match(source, target, roles, fuzzy=True)
    settled = ids >= 0
    assert (again[settled] == ids[settled]).all()
    assert (kinds_again[settled] == kinds[settled]).all()
    assert set(kinds_again[~settled].tolist()) <= {MatchKind.NEW, MatchKind.FUZZY, MatchKind.HOLE}


def test_partial_characters_match_by_their_bytes_alone():
    """All of these decode to the replacement character."""
    tokens = ["à", "à¤", "¤", "Ġà", "à¥"]
    source, target = byte_bpe(tokens[:3]), byte_bpe(list(reversed(tokens)))
    assert found(source, target, fuzzy=True) == {
        "à": ("à", "BYTE"),
        "à¤": ("à¤", "EXACT"),
        "¤": ("¤", "BYTE"),
    }


def test_bytes_match_by_value_across_spellings():
    fallback = [f"<0x{value:02X}>" for value in (0xE0, 0xA4, 0x0A, 0x41)]
    source, target = byte_bpe(["à", "¤", "Ċ", "A"]), marked_bpe(fallback)
    forth, back = found(source, target), found(target, source)
    assert forth == dict(zip(fallback, [("à", "BYTE"), ("¤", "BYTE"), ("Ċ", "BYTE"), ("A", "BYTE")], strict=True))
    assert back == {
        "à": (fallback[0], "BYTE"),
        "¤": (fallback[1], "BYTE"),
        "Ċ": (fallback[2], "BYTE"),
        "A": ("<0x41>", "BYTE"),
    }


def test_a_letter_is_taken_from_the_piece_not_from_byte_fallback():
    """Byte fallback never yields a letter that has a piece, so its row was never trained."""
    source = marked_bpe(["<0x61>", "<0x20>", f"{MARK}a", "a", MARK])
    assert found(source, byte_bpe(["a", "Ġ", "Ġa"])) == {
        "a": ("a", "EXACT"),
        "Ġ": (MARK, "EXACT"),
        "Ġa": (f"{MARK}a", "EXACT"),
    }


def test_one_ascii_character_is_taken_from_fallback_where_it_has_no_piece():
    source = marked_bpe(["<0x0A>", "<0x09>", "x"])
    target = marked_bpe(["\n", f"{MARK}\t", "\n\n"], byte_fallback=False)
    assert found(source, target) == {"\n": ("<0x0A>", "BYTE")}


def test_word_start_is_never_lost():
    source = marked_bpe([f"{MARK}the", "ing", MARK * 2, f"{MARK}of{MARK}the"])
    target = byte_bpe(["the", "Ġthe", "Ġing", "ing", "ĠĠ", "ĠofĠthe", "Ġofthe"])
    assert found(source, target) == {
        "Ġthe": (f"{MARK}the", "EXACT"),
        "ing": ("ing", "EXACT"),
        "ĠĠ": (MARK * 2, "EXACT"),
        "ĠofĠthe": (f"{MARK}of{MARK}the", "EXACT"),
    }


def test_wordpiece_pieces_inside_a_word():
    source, target = wordpiece(["the", "##the", "##ing"]), byte_bpe(["the", "Ġthe", "Ġing", "ing"])
    assert found(source, target) == {
        "the": ("##the", "EXACT"),
        "Ġthe": ("the", "EXACT"),
        "ing": ("##ing", "EXACT"),
    }


def test_punctuation_across_families():
    """In WordPiece a comma stands by itself; ``##,`` never comes from text."""
    source, target = wordpiece(["##,", ",", "##.", "中"]), byte_bpe(["Ġ,", ",", ".", "ä¸Ń"])
    assert found(source, target) == {
        "Ġ,": (",", "EXACT"),
        ",": (",", "EXACT"),
        ".": ("##.", "EXACT"),
        "ä¸Ń": ("中", "EXACT"),
    }
    back = found(byte_bpe(["Ġ,", ",", "Ġ.", "Ġä¸Ń"]), wordpiece([",", ".", "中", "##,"]))
    assert back == {",": (",", "EXACT"), ".": ("Ġ.", "EXACT"), "中": ("Ġä¸Ń", "EXACT"), "##,": (",", "EXACT")}


def test_punctuation_within_wordpiece_keeps_its_form():
    assert found(wordpiece(["##,", ","]), wordpiece([",", "##,"])) == {",": (",", "EXACT"), "##,": ("##,", "EXACT")}


def test_suffix_family():
    source = byte_bpe(["Ġthe", "the", "ing", "Ġing", "à"])
    target = suffix_bpe(["the</w>", "the", "ing</w>", "à", "x</w>"])
    assert found(source, target) == {
        "the</w>": ("Ġthe", "EXACT"),
        "the": ("Ġthe", "EXACT"),
        "ing</w>": ("ing", "EXACT"),
        "à": ("à", "BYTE"),
    }
    back = found(suffix_bpe(["the", "the</w>", "ing"]), byte_bpe(["Ġthe", "the", "Ġing"]))
    assert back == {"Ġthe": ("the</w>", "EXACT"), "the": ("the", "EXACT"), "Ġing": ("ing", "EXACT")}
    assert found(suffix_bpe(["the"]), suffix_bpe(["the</w>"])) == {}


def test_source_id_zero_is_a_match():
    assert found(byte_bpe(["Ġzero"]), byte_bpe(["x", "Ġzero"])) == {"Ġzero": ("Ġzero", "EXACT")}
    assert found(byte_bpe(["ĠZero"]), byte_bpe(["x", "Ġzero"]), fuzzy=True) == {"Ġzero": ("ĠZero", "FUZZY")}
    vocab = canonicalise(specials(["<e>"], eos_token="<e>"))
    ids, kinds = match(vocab, vocab, {1: 0})
    assert (ids[1], kinds[1]) == (0, MatchKind.SPECIAL)


def test_doublets_go_to_the_lowest_id_but_keep_their_own_spelling():
    """Added tokens may repeat a text of the vocabulary."""

    def make(tokens: list[str], added: list[str]) -> Tokenizer:
        backend = byte_bpe(tokens)
        backend.add_tokens([AddedToken(text, normalized=False) for text in added])
        return backend

    source = make(["x", "Ċ", "ĊĊ", "Ġfoo"], ["\n\n", " foo"])
    assert found(source, make(["Ġfoo"], ["\n\n", " foo"])) == {
        "Ġfoo": ("Ġfoo", "EXACT"),
        "\n\n": ("\n\n", "EXACT"),
        " foo": (" foo", "EXACT"),
    }
    assert found(source, marked_bpe(["\n\n", f"{MARK}foo"])) == {
        "\n\n": ("\n\n", "EXACT"),
        f"{MARK}foo": ("Ġfoo", "EXACT"),
    }
    twice = canonicalise(wrap(make(["a", "b", "Ġfoo"], [" foo"])))
    ids, _ = match(twice, canonicalise(wrap(marked_bpe([f"{MARK}foo"]))), {})
    assert ids.tolist() == [2]


@pytest.mark.parametrize("make", [byte_bpe, marked_bpe], ids=["bytes", "marks"])
def test_fuzzy_gives_pairs_of_target_and_source(make):
    """The source has no ``hello`` and no unknown token: the match is its ``Hello``, never the unknown row or None."""
    space = "Ġ" if make is byte_bpe else MARK
    source = make(["x", f"{space}Hello", "world", "THE", "The", f"{space}the"])
    target = make([f"{space}hello", f"{space}world", "the", f"{space}THE", f"{space}World", "q"])
    assert found(source, target) == {}
    assert found(source, target, fuzzy=True) == {
        f"{space}hello": (f"{space}Hello", "FUZZY"),
        f"{space}world": ("world", "FUZZY"),
        "the": ("THE", "FUZZY"),
        f"{space}THE": (f"{space}the", "FUZZY"),
        f"{space}World": ("world", "FUZZY"),
    }


def test_fuzzy_prefers_case_then_word_start_then_both():
    source = ["ĠBook", "book", "BOOK", "Ġbook"]
    target = byte_bpe(["Ġbook"])
    order = []
    for gone in ("Ġbook", "ĠBook", "book", "BOOK"):
        order.append(found(byte_bpe(source), target, fuzzy=True)["Ġbook"][0])
        source.remove(gone)
    assert order == ["Ġbook", "ĠBook", "book", "BOOK"]


def test_fuzzy_leaves_exact_matches_alone_and_never_takes_other_kinds():
    source = byte_bpe(["Ġbook", "ĠBook", "<S>", "[unused1]"])
    source.add_special_tokens([AddedToken("<PAD>", normalized=False)])
    target = byte_bpe(["ĠBook", "<pad>", "[UNUSED1]"])
    target.add_special_tokens([AddedToken("<s>", normalized=False)])
    assert found(source, target, fuzzy=True) == {"ĠBook": ("ĠBook", "EXACT")}


def test_unused_places_match_their_namesakes_only():
    source, target = wordpiece(["[unused0]", "[unused1]"]), wordpiece(["[unused1]", "[unused2]"])
    assert found(source, target, fuzzy=True)["[unused1]"] == ("[unused1]", "EXACT")
    assert "[unused2]" not in found(source, target, fuzzy=True)
    assert "[unused1]" not in found(byte_bpe(["[unused1]x"]), target)


def test_holes_match_nothing():
    holey = Tokenizer(models.BPE({"a": 0, "Ġb": 4}, []))
    holey.pre_tokenizer = pre_tokenizers.ByteLevel()
    vocab = canonicalise(wrap(holey))
    ids, kinds = match(vocab, vocab, {})
    assert ids.tolist() == [0, -1, -1, -1, 4]
    assert kinds[1:4].tolist() == [MatchKind.HOLE] * 3


def test_special_tokens_never_match_text():
    """``</s>`` and ``[SEP]`` learned from web pages are text."""
    source = byte_bpe(["</s>", "Ġ</s>", "[SEP]"])
    target = marked_bpe(["x"])
    target.add_special_tokens([AddedToken(name, normalized=False) for name in ("</s>", "[SEP]")])
    own, other = wrap(source), wrap(target, eos_token="</s>", sep_token="[SEP]")
    assert match_roles(own, other) == {}
    assert found(source, target, fuzzy=True) == {}
    assert match_roles(other, own) == {}
    assert found(target, source, fuzzy=True) == {}


def test_every_family_pair_is_deterministic_in_the_order_of_the_vocabulary():
    tokens = ["Ġa", "A", "a", "Ġb", "ĠB", "b"]
    source = byte_bpe(tokens)
    shuffled = Tokenizer(models.BPE({token: tokens.index(token) for token in reversed(tokens)}, []))
    shuffled.pre_tokenizer, shuffled.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    target = byte_bpe(["ĠA", "B", "b"])
    assert found(source, target, fuzzy=True) == found(shuffled, target, fuzzy=True)


def test_large_vocabularies_with_holes_and_doublets_against_a_dictionary():
    """Random tokens of two byte-level vocabularies, ids with gaps, against a plain dictionary."""
    rng = random.Random(5)
    words = sorted({"".join(rng.choice("abcĠÃ©") for _ in range(rng.randint(1, 6))) for _ in range(8000)})

    def make(seed: int) -> Tokenizer:
        chosen = random.Random(seed).sample(words, 1500)
        backend = Tokenizer(models.BPE({token: 3 * index + 1 for index, token in enumerate(chosen)}, []))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.normalizer = normalizers.NFC()
        return backend

    here, there = make(1).get_vocab(), make(2).get_vocab()
    source, target = canonicalise(wrap(make(1))), canonicalise(wrap(make(2)))
    assert source.family is Family.BYTE_BPE
    ids, kinds = match(source, target, {})
    expected = np.full(len(target), -1)
    for token, index in there.items():
        expected[index] = here.get(token, -1)
    assert (ids == expected).all()
    assert ((kinds == MatchKind.HOLE) == ~np.isin(np.arange(len(target)), list(there.values()))).all()
