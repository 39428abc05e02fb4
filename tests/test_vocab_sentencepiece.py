"""Sentencepiece models in and out, against the sentencepiece library itself."""

from __future__ import annotations

import io
import itertools
import sys
from functools import cache
from pathlib import Path

import pytest
import sentencepiece as spm

from hf_vocab_extend.errors import (
    CorpusError,
    MissingDependencyError,
    OutputFolderError,
    TokenizerMismatchError,
    UnsupportedTokenizerError,
    VerificationError,
    VocabExtendWarning,
)
from hf_vocab_extend.vocab.backend import read_json, rebuild
from hf_vocab_extend.vocab.canonical import Family, detect_family
from hf_vocab_extend.vocab.fertility import measure_fertility
from hf_vocab_extend.vocab.merging import merge_tokenizers
from hf_vocab_extend.vocab.sentencepiece_model import load_sentencepiece, save_sentencepiece
from hf_vocab_extend.vocab.sentencepiece_proto import PieceType, read_proto

from .factories import TOKENIZERS, english, sample_pairs, swahili, tokenizer

ODD = [
    "",
    "a\tb",
    "a  b   c",
    "x \u2581 y",
    "e\u0301 \u00e9 \ufb01",
    "\uff46\uff55\uff4c\uff4c\u3000\uff57\uff49\uff44\uff54\uff48",
    "\u65e5\u672c\u8a9e \u30c6\u30b9\u30c8",
    "\u0939\u093f\u0928\u094d\u0926\u0940 \u092e\u0947\u0902",
    "\u0e44\u0e17\u0e22 \u0e20\u0e32\u0e29\u0e32",
    "\U0001f642 \U0001f469\u200d\U0001f469\u200d\U0001f467",
    "\ud55c\uad6d\uc5b4",
]
ENDS = [" ", "  leading", "trailing  ", "\n x\ny"]
TEXTS = [text for pair in sample_pairs("test")[:150] for text in pair] + ODD


@cache
def trained(model_type: str, **options) -> bytes:
    buffer = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(english(500)),
        model_writer=buffer,
        model_type=model_type,
        vocab_size=700,
        num_threads=1,
        minloglevel=9,
        **options,
    )
    return buffer.getvalue()


def write(path: Path, raw: bytes) -> Path:
    path.write_bytes(raw)
    return path


def cuts(tok, texts: list[str]) -> list[list[int]]:
    return [item.ids for item in tok.backend_tokenizer.encode_batch(texts, add_special_tokens=False)]


def options_of(*flags: bool) -> dict:
    fallback, identity, keep_spaces, no_prefix = flags
    return {
        "byte_fallback": fallback,
        "normalization_rule_name": "identity" if identity else "nmt_nfkc",
        "remove_extra_whitespaces": not keep_spaces,
        "add_dummy_prefix": not no_prefix,
    }


GRID = list(itertools.product(["unigram", "bpe"], itertools.product([False, True], repeat=4)))


@pytest.mark.parametrize(("model_type", "flags"), GRID)
def test_loaded_model_cuts_as_sentencepiece_does(model_type: str, flags: tuple, tmp_path: Path) -> None:
    raw = trained(model_type, **options_of(*flags))
    tok = load_sentencepiece(write(tmp_path / "x.model", raw))
    processor = spm.SentencePieceProcessor(model_proto=raw)
    assert tok.get_vocab() == {processor.id_to_piece(index): index for index in range(processor.get_piece_size())}
    assert cuts(tok, TEXTS + ENDS) == processor.encode(TEXTS + ENDS)


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_user_defined_symbols(model_type: str, tmp_path: Path) -> None:
    symbols = ("<sep>", "[[x]]")
    raw = trained(model_type, user_defined_symbols=symbols)
    tok = load_sentencepiece(write(tmp_path / "x.model", raw))
    processor = spm.SentencePieceProcessor(model_proto=raw)
    texts = [*TEXTS, "a<sep>b <sep> c", "the [[x]] virus<sep>", "care<sep><sep>care"]
    assert cuts(tok, texts) == processor.encode(texts)
    assert not set(symbols) & set(tok.all_special_tokens)


def test_families_and_roles(tmp_path: Path) -> None:
    unigram = load_sentencepiece(write(tmp_path / "u.model", trained("unigram")))
    bpe = load_sentencepiece(write(tmp_path / "b.model", trained("bpe", byte_fallback=True, pad_id=3)))
    assert detect_family(unigram) is Family.UNIGRAM
    assert detect_family(bpe) is Family.SENTENCEPIECE_BPE
    assert (unigram.unk_token_id, unigram.bos_token_id, unigram.eos_token_id, unigram.pad_token_id) == (0, 1, 2, None)
    assert bpe.pad_token_id == 3
    assert unigram("the virus")["input_ids"] == cuts(unigram, ["the virus"])[0]


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_loaded_model_round_trips_and_saves(model_type: str, tmp_path: Path) -> None:
    tok = load_sentencepiece(write(tmp_path / "x.model", trained(model_type, byte_fallback=True)))
    assert measure_fertility(tok, [text for text in TEXTS if text]).round_trip_rate == 1.0
    tok.save_pretrained(tmp_path / "saved")
    loaded = type(tok).from_pretrained(tmp_path / "saved")
    assert cuts(loaded, TEXTS) == cuts(tok, TEXTS)


@pytest.mark.parametrize(("model_type", "flags"), GRID)
def test_what_is_loaded_can_be_written_back(model_type: str, flags: tuple, tmp_path: Path) -> None:
    raw = trained(model_type, **options_of(*flags))
    tok = load_sentencepiece(write(tmp_path / "x.model", raw))
    assert save_sentencepiece(tok, tmp_path / "y.model", corpus=swahili(100)) == tmp_path / "y.model"
    one, two = spm.SentencePieceProcessor(model_proto=raw), spm.SentencePieceProcessor(str(tmp_path / "y.model"))
    assert two.encode(TEXTS + ENDS) == one.encode(TEXTS + ENDS)
    types = [(item.piece, item.type) for item in read_proto(tmp_path / "x.model").pieces]
    assert types == [(item.piece, item.type) for item in read_proto(tmp_path / "y.model").pieces]


@pytest.mark.parametrize("with_base", [False, True])
@pytest.mark.parametrize("other", ["gpt2", "xlmr"])
@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_an_extended_tokenizer_written_back(model_type: str, other: str, with_base: bool, tmp_path: Path) -> None:
    base = write(tmp_path / "x.model", trained(model_type, byte_fallback=True))
    source = load_sentencepiece(base)
    merged = merge_tokenizers(source, TOKENIZERS[other](900, swahili()))
    path = save_sentencepiece(merged, tmp_path / "y.model", base_model=base if with_base else None)
    processor = spm.SentencePieceProcessor(str(path))
    assert processor.get_piece_size() == len(merged) > len(source) + 300
    assert processor.encode(TEXTS) == cuts(merged, TEXTS)
    again = load_sentencepiece(path)
    assert cuts(again, TEXTS) == cuts(merged, TEXTS)


@pytest.mark.parametrize("name", ["llama2", "gemma"])
def test_a_tokenizer_that_never_was_a_model_file(name: str, tmp_path: Path) -> None:
    tok = merge_tokenizers(tokenizer(name), ["kitabu", "ugonjwa", "wanafunzi"])
    path = save_sentencepiece(tok, tmp_path / "y.model")
    texts = [text for text in TEXTS if text]
    assert spm.SentencePieceProcessor(str(path)).encode(texts) == cuts(tok, texts)


def test_order_of_a_base_whose_ids_have_an_offset(tmp_path: Path) -> None:
    """XLM-R's way: other control tokens in front, a mask behind, ids one higher."""
    base = write(tmp_path / "x.model", trained("unigram"))
    pieces = [(item.piece, item.score) for item in read_proto(base).pieces]
    data = read_json(load_sentencepiece(base))
    head = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    data["model"] |= {"vocab": [list(item) for item in [*head, *pieces[3:], ("<mask>", 0.0)]], "unk_id": 3}
    controls = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": len(pieces) + 1}
    data["added_tokens"] = [dict(data["added_tokens"][0], content=name, id=index) for name, index in controls.items()]
    tok = merge_tokenizers(rebuild(load_sentencepiece(base), data), ["kitabu", "ugonjwa"])
    path = save_sentencepiece(tok, tmp_path / "y.model", base_model=base)
    new = [item.piece for item in read_proto(path).pieces]
    assert new[: len(pieces)] == [piece for piece, _ in pieces]
    assert set(new[len(pieces) :]) == {"<pad>", "<mask>", "\u2581kitabu", "\u2581ugonjwa"}
    processor = spm.SentencePieceProcessor(str(path))
    assert [processor.encode(text, out_type=str) for text in swahili(50)] == [
        tok.convert_ids_to_tokens(ids) for ids in cuts(tok, swahili(50))
    ]


def test_holes_become_unused_pieces(tmp_path: Path) -> None:
    data = read_json(tokenizer("llama2"))
    top = len(data["model"]["vocab"])
    data["model"]["vocab"]["\u2581\u2581\u2581"] = top + 2
    tok = rebuild(tokenizer("llama2"), data)
    pieces = read_proto(save_sentencepiece(tok, tmp_path / "y.model")).pieces
    assert [item.type for item in pieces[top : top + 2]] == [PieceType.UNUSED] * 2


# ---- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"no protobuf at all", b"\x00\x01\x02"])
def test_no_model_file(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedTokenizerError, match=r"no sentencepiece model"):
        load_sentencepiece(write(tmp_path / "x.model", content))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_sentencepiece(tmp_path / "none.model")


@pytest.mark.parametrize("model_type", ["word", "char"])
def test_other_model_types(model_type: str, tmp_path: Path) -> None:
    raw = trained(model_type, hard_vocab_limit=False, use_all_vocab=True) if model_type == "word" else None
    raw = raw or trained(model_type, hard_vocab_limit=False)
    with pytest.raises(UnsupportedTokenizerError, match="model type"):
        load_sentencepiece(write(tmp_path / "x.model", raw))


def changed(tmp_path: Path, model_type: str, change) -> Path:
    proto = read_proto(write(tmp_path / "base.model", trained(model_type)))
    change(proto)
    return write(tmp_path / "changed.model", proto.SerializeToString())


REFUSED = {
    "treat_whitespace_as_suffix": lambda proto: setattr(proto.trainer_spec, "treat_whitespace_as_suffix", True),
    "escape_whitespaces": lambda proto: setattr(proto.normalizer_spec, "escape_whitespaces", False),
    "denormalizer": lambda proto: setattr(proto.denormalizer_spec, "precompiled_charsmap", b"x"),
    "2 unknown": lambda proto: setattr(proto.pieces[1], "type", int(PieceType.UNKNOWN)),
    "more than once": lambda proto: setattr(proto.pieces[9], "piece", proto.pieces[8].piece),
    "unused": lambda proto: setattr(proto.pieces[9], "type", int(PieceType.UNUSED)),
    "no piece itself": lambda proto: setattr(proto.pieces[9], "piece", "\u0539\u0578"),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_be_expressed(reason: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedTokenizerError, match=reason):
        load_sentencepiece(changed(tmp_path, "bpe", REFUSED[reason]))


def test_unused_pieces_of_a_unigram_model_never_occur(tmp_path: Path) -> None:
    path = changed(tmp_path, "unigram", lambda proto: setattr(proto.pieces[9], "type", int(PieceType.UNUSED)))
    tok, processor = load_sentencepiece(path), spm.SentencePieceProcessor(str(path))
    assert any(9 in ids for ids in spm.SentencePieceProcessor(str(tmp_path / "base.model")).encode(TEXTS))
    assert cuts(tok, TEXTS) == processor.encode(TEXTS)


def test_equal_scores_of_a_bpe_are_told(tmp_path: Path) -> None:
    path = changed(tmp_path, "bpe", lambda proto: setattr(proto.pieces[9], "score", proto.pieces[10].score))
    with pytest.warns(VocabExtendWarning, match="1 pieces"):
        load_sentencepiece(path)


@pytest.mark.parametrize("name", ["gpt2", "bert-cased", "clip"])
def test_other_families_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedTokenizerError, match=r"cannot be written as a \.model"):
        save_sentencepiece(tokenizer(name), tmp_path / "y.model")
    assert list(tmp_path.iterdir()) == []


def test_a_pipeline_without_counterpart_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedTokenizerError, match="NFKC"):
        save_sentencepiece(tokenizer("xlmr"), tmp_path / "y.model")
    assert list(tmp_path.iterdir()) == []


def test_a_base_of_another_tokenizer_is_refused(tmp_path: Path) -> None:
    unigram = write(tmp_path / "u.model", trained("unigram"))
    bpe = write(tmp_path / "b.model", trained("bpe"))
    with pytest.raises(TokenizerMismatchError, match="BPE model"):
        save_sentencepiece(load_sentencepiece(unigram), tmp_path / "y.model", base_model=bpe)
    with pytest.raises(TokenizerMismatchError, match="The piece"):
        save_sentencepiece(tokenizer("llama2"), tmp_path / "y.model", base_model=bpe)
    assert not (tmp_path / "y.model").exists()


def test_a_bpe_that_sentencepiece_would_cut_otherwise_is_refused(tmp_path: Path) -> None:
    """Sentencepiece joins whatever spells a piece; here no merge makes the last one."""
    data = read_json(tokenizer("llama2"))
    data["model"]["vocab"]["zq"] = len(data["model"]["vocab"])
    tok = rebuild(tokenizer("llama2"), data)
    assert tok.tokenize("zq")[-2:] == ["z", "q"]
    with pytest.raises(VerificationError, match="nothing was written"):
        save_sentencepiece(tok, tmp_path / "y.model")
    assert list(tmp_path.iterdir()) == []


def test_output_folder_and_corpus(tmp_path: Path) -> None:
    tok = load_sentencepiece(write(tmp_path / "x.model", trained("bpe")))
    with pytest.raises(OutputFolderError, match="cannot be written"):
        save_sentencepiece(tok, tmp_path / "none" / "y.model")
    with pytest.raises(CorpusError):
        save_sentencepiece(tok, tmp_path / "y.model", corpus=[])
    assert not (tmp_path / "y.model").exists()


def test_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "x.model", trained("bpe"))
    monkeypatch.setitem(sys.modules, "sentencepiece.sentencepiece_model_pb2", None)
    with pytest.raises(MissingDependencyError, match=r"hf_vocab_extend\[sentencepiece\]"):
        load_sentencepiece(path)
