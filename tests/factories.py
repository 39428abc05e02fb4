"""Tiny real tokenizers of every family, built in memory from the demo's own text, the same at every run."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

DATA = Path(__file__).resolve().parent.parent / "hf_vocab_extend" / "demo" / "data"
LLAMA3_REGEX = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
MARK = "\u2581"


@cache
def sample_pairs(split: str = "train", corpus: str = "tico19") -> tuple[tuple[str, str], ...]:
    """English and Swahili sentences of the demo's data."""
    with gzip.open(DATA / f"eng-swh.{split}.tsv.gz", "rt", encoding="utf-8") as file:
        rows = [line.rstrip("\n").split("\t") for line in file][1:]
    return tuple((row[2], row[3]) for row in rows if row[1] == corpus)


def english(n: int = 600) -> list[str]:
    """English lines."""
    return [pair[0] for pair in sample_pairs()[:n]]


def swahili(n: int = 600) -> list[str]:
    """Swahili lines."""
    return [pair[1] for pair in sample_pairs()[:n]]


def _train_bpe(backend: Tokenizer, n: int, specials: list[str], alphabet: list[str], lines: list[str]) -> None:
    trainer = trainers.BpeTrainer(
        vocab_size=n, special_tokens=specials, initial_alphabet=alphabet, show_progress=False, max_token_length=24
    )
    backend.train_from_iterator(lines, trainer)


def gpt2_like(n: int = 700, lines: list[str] | None = None) -> PreTrainedTokenizerFast:
    """Byte-level BPE with GPT-2's regex and one special token."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    _train_bpe(backend, n, ["<|endoftext|>"], sorted(pre_tokenizers.ByteLevel.alphabet()), lines or english())
    end = "<|endoftext|>"
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=end, eos_token=end, model_max_length=256)


def llama3_like(n: int = 700, lines: list[str] | None = None) -> PreTrainedTokenizerFast:
    """Byte-level BPE with ``ignore_merges``, a split regex, specials after the vocabulary, and a bos template."""
    backend = Tokenizer(models.BPE(ignore_merges=True))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_REGEX), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    _train_bpe(backend, n, [], sorted(pre_tokenizers.ByteLevel.alphabet()), lines or english())
    specials = ["<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|eot_id|>"]
    backend.add_special_tokens([AddedToken(name, normalized=False) for name in specials])
    begin = backend.token_to_id("<|begin_of_text|>")
    backend.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single="<|begin_of_text|> $A", pair="<|begin_of_text|> $A $B", special_tokens=[(specials[0], begin)]
            ),
        ]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=specials[0], eos_token=specials[1], model_max_length=256
    )
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}<|eot_id|>{% endfor %}"
    return tokenizer


def qwen_like(n: int = 700, lines: list[str] | None = None) -> PreTrainedTokenizerFast:
    """Byte-level BPE with NFC, single digits, and specials with a hole in the ids before them."""
    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFC()
    regex = LLAMA3_REGEX.replace(r"\p{N}{1,3}", r"\p{N}")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(regex), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    _train_bpe(backend, n, [], sorted(pre_tokenizers.ByteLevel.alphabet()), lines or english())
    backend.add_special_tokens(
        [AddedToken("<|endoftext|>", normalized=False), AddedToken("<|im_end|>", normalized=False)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>", model_max_length=256
    )


def _sentencepiece_bpe(n: int, lines: list[str], prepend: bool) -> Tokenizer:
    """BPE with byte fallback: unk, bos, eos, 256 byte pieces, then the pieces of a trained BPE."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(replacement=MARK, prepend_scheme="always")
    _train_bpe(trained, n, [], [MARK], lines)
    model = json.loads(trained.to_str())["model"]
    head = ["<unk>", "<s>", "</s>"] + [f"<0x{value:02X}>" for value in range(256)]
    order = [token for token, _ in sorted(model["vocab"].items(), key=lambda item: item[1])]
    vocab = {token: index for index, token in enumerate(head + order)}
    merges = [tuple(pair) for pair in model["merges"]]
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    replace = normalizers.Replace(" ", MARK)
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(MARK), replace]) if prepend else replace
    steps = [decoders.Replace(MARK, " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prepend else steps)
    backend.add_special_tokens([AddedToken(name, normalized=False) for name in head[:3]])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return backend


def llama2_like(n: int = 500, lines: list[str] | None = None) -> PreTrainedTokenizerFast:
    """Sentencepiece BPE with byte fallback and a space put in front of the text; no pre-tokenizer."""
    backend = _sentencepiece_bpe(n, lines or english(), prepend=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>", model_max_length=256
    )


def gemma_like(n: int = 500, lines: list[str] | None = None) -> PreTrainedTokenizerFast:
    """Sentencepiece BPE with byte fallback, nothing put in front of the text, with unused tokens at the end."""
    backend = _sentencepiece_bpe(n, lines or english(), prepend=False)
    backend.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    backend.add_tokens([AddedToken(f"<unused{index}>", normalized=False) for index in range(3)])
    backend.add_special_tokens([AddedToken("<pad>", normalized=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        model_max_length=256,
    )


def _unigram_pieces(n: int, lines: list[str]) -> list[tuple[str, float]]:
    """Pieces with log probabilities from the counts of a trained BPE: real Unigram input, equal at every run."""
    import math

    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(replacement=MARK, prepend_scheme="always")
    _train_bpe(trained, n, [], [MARK], lines)
    counts = Counter(token for line in lines for token in trained.encode(line).tokens)
    pieces = sorted(trained.get_vocab().items(), key=lambda item: item[1])
    total = sum(counts.values()) + len(pieces)
    scored = [(piece, math.log((counts[piece] + 1) / total)) for piece, _ in pieces]
    return sorted(scored, key=lambda item: (-item[1], item[0]))


def xlmr_like(n: int = 500, lines: list[str] | None = None) -> PreTrainedTokenizerFast:
    """Unigram with XLM-R's order of specials first and the mask last."""
    head = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces = head + _unigram_pieces(n, lines or english()) + [("<mask>", 0.0)]
    backend = Tokenizer(models.Unigram(pieces, unk_id=3, byte_fallback=False))
    backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement=MARK, prepend_scheme="always")]
    )
    backend.decoder = decoders.Metaspace(replacement=MARK, prepend_scheme="always")
    specials = [AddedToken(name, normalized=False) for name, _ in head]
    backend.add_special_tokens([*specials, AddedToken("<mask>", lstrip=True, normalized=False)])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        cls_token="<s>",
        sep_token="</s>",
        mask_token="<mask>",
        model_max_length=256,
    )


def t5_like(n: int = 500, lines: list[str] | None = None) -> PreTrainedTokenizerFast:
    """Unigram with pad, eos, unk first and sentinel tokens after the vocabulary."""
    head = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    backend = Tokenizer(models.Unigram(head + _unigram_pieces(n, lines or english()), unk_id=2))
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement=MARK, prepend_scheme="always")]
    )
    backend.decoder = decoders.Metaspace(replacement=MARK, prepend_scheme="always")
    backend.add_special_tokens([AddedToken(name, normalized=False) for name, _ in head])
    sentinels = [f"<extra_id_{index}>" for index in reversed(range(4))]
    backend.add_special_tokens([AddedToken(name, normalized=False) for name in sentinels])
    backend.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        model_max_length=256,
        extra_special_tokens=sentinels,
    )


SHIFT = 0xF0000


def _marked_pieces(
    n: int, lines: list[str], pipeline: Tokenizer, marked: Callable[[int, int], bool]
) -> tuple[list[str], list[tuple[str, str]]]:
    """Train a BPE in which some characters of a word differ from the same characters elsewhere.

    The trainer's own prefix and suffix options give another order at every run, so the marked characters are moved to
    a private plane instead.

    Args:
        n: Vocabulary size.
        lines: Text.
        pipeline: Its normalizer and pre-tokenizer cut the text into words.
        marked: Whether the character at a position of a word of a length is marked.

    Returns:
        Pieces and merges, marked characters still shifted.
    """
    words = Counter()
    for line in lines:
        normal = pipeline.normalizer.normalize_str(line)
        words.update(word for word, _ in pipeline.pre_tokenizer.pre_tokenize_str(normal))
    shifted = [
        "".join(chr(ord(char) + SHIFT) if marked(index, len(word)) else char for index, char in enumerate(word))
        for word in sorted(words)
        for _ in range(words[word])
    ]
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    _train_bpe(trained, n, [], [], shifted)
    model = json.loads(trained.to_str())["model"]
    order = [token for token, _ in sorted(model["vocab"].items(), key=lambda item: item[1])]
    return order, [tuple(pair) for pair in model["merges"]]


def _unshift(piece: str) -> str:
    return "".join(chr(ord(char) - SHIFT) if ord(char) >= SHIFT else char for char in piece)


def _wordpiece(n: int, lines: list[str], lowercase: bool) -> PreTrainedTokenizerFast:
    """WordPiece whose pieces come from a trained BPE (the WordPiece trainer differs from run to run)."""
    pipeline = Tokenizer(models.BPE())
    pipeline.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    pipeline.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    pieces, _ = _marked_pieces(n, lines, pipeline, lambda index, length: index > 0)
    order = [("##" if ord(piece[0]) >= SHIFT else "") + _unshift(piece) for piece in pieces]
    head = ["[PAD]", "[unused0]", "[unused1]", "[unused2]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocab = {token: index for index, token in enumerate(head + order)}
    backend = Tokenizer(models.WordPiece(vocab=vocab, unk_token="[UNK]", max_input_chars_per_word=100))
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    backend.add_special_tokens([AddedToken(name, normalized=False) for name in specials])
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 5), ("[SEP]", 6)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=256,
    )


def bert_uncased_like(n: int = 500, lines: list[str] | None = None) -> PreTrainedTokenizerFast:
    """WordPiece, lower-cased and stripped of accents, with unused ids."""
    return _wordpiece(n, lines or english(), lowercase=True)


def bert_cased_like(n: int = 500, lines: list[str] | None = None) -> PreTrainedTokenizerFast:
    """WordPiece that keeps case."""
    return _wordpiece(n, lines or english(), lowercase=False)


def clip_like(n: int = 900, lines: list[str] | None = None) -> PreTrainedTokenizerFast:
    """Lower-casing BPE over bytes with an end-of-word suffix."""
    backend = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    regex = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(regex), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace("</w>", " ")])
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces, shifted_merges = _marked_pieces(n, lines or english(), backend, lambda index, length: index == length - 1)

    def spell(piece: str) -> str:
        return _unshift(piece) + ("</w>" if ord(piece[-1]) >= SHIFT else "")

    order = [spell(piece) for piece in pieces]
    tokens = list(dict.fromkeys(alphabet + [letter + "</w>" for letter in alphabet] + order))
    vocab = {token: index for index, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    merges = [(spell(left), spell(right)) for left, right in shifted_merges]
    backend.model = models.BPE(vocab=vocab, merges=merges, end_of_word_suffix="</w>", unk_token="<|endoftext|>")
    specials = ["<|startoftext|>", "<|endoftext|>"]
    backend.add_special_tokens([AddedToken(name, normalized=False) for name in specials])
    backend.post_processor = processors.TemplateProcessing(
        single="<|startoftext|> $A <|endoftext|>",
        special_tokens=[(name, vocab[name]) for name in specials],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=specials[0],
        eos_token=specials[1],
        unk_token=specials[1],
        pad_token=specials[1],
        model_max_length=77,
    )


TOKENIZERS: dict[str, Callable[..., PreTrainedTokenizerFast]] = {
    "gpt2": gpt2_like,
    "llama3": llama3_like,
    "qwen": qwen_like,
    "llama2": llama2_like,
    "gemma": gemma_like,
    "xlmr": xlmr_like,
    "t5": t5_like,
    "bert-uncased": bert_uncased_like,
    "bert-cased": bert_cased_like,
    "clip": clip_like,
}
"""Every tokenizer family that the package handles, by a short name."""


@cache
def tokenizer(name: str) -> PreTrainedTokenizerFast:
    """A shared tokenizer; copy it before changing it."""
    return TOKENIZERS[name]()
