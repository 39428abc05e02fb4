"""Growing a tokenizer from text: the promises, for every family, and the options."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from tokenizers import AddedToken, Regex, pre_tokenizers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from hf_vocab_extend import extend_tokenizer
from hf_vocab_extend.errors import CorpusError, InvalidOptionError, UnsupportedTokenizerError, VocabExtendWarning
from hf_vocab_extend.vocab.backend import read_json, rebuild
from hf_vocab_extend.vocab.fertility import RoundTrip
from hf_vocab_extend.vocab.growing_base import bare
from hf_vocab_extend.vocab.marks import GPT2_REGEX, join_marks
from hf_vocab_extend.vocab.pair_training import train_pairs
from hf_vocab_extend.vocab.pipeline import read_spelling
from hf_vocab_extend.vocab.pretokens import JoinRules, count_pre_tokens
from hf_vocab_extend.vocab.pruning import prune
from hf_vocab_extend.vocab.reachability import unreachable_ids

from .factories import LLAMA3_REGEX, TOKENIZERS, english, sample_pairs, swahili, tokenizer

FAMILIES = sorted(TOKENIZERS)
BYTE_LEVEL = ("gpt2", "llama3", "qwen", "clip")
BPE = ("gpt2", "llama3", "qwen", "llama2", "gemma", "clip")
N = 300
HINDI = [
    "आदि में परमेश्वर ने आकाश और पृथ्वी की सृष्टि की।",
    "पृथ्वी बेडौल और सुनसान पड़ी थी, और गहरे जल के ऊपर अंधियारा था।",
    "तब परमेश्वर ने कहा, उजियाला हो, तो उजियाला हो गया।",
    "और परमेश्वर ने उजियाले को देखा कि अच्छा है; और परमेश्वर ने उजियाले को अंधियारे से अलग किया।",
] * 5
ODD = [
    "",
    " ",
    "a  b\tc\nd",
    "naïve café",
    "日本語のテスト",
    "🙂👩‍👩‍👧",
    "x" * 300,
    "<0x41> <s> [MASK] </w> ##a",
    "ＡＢ １２",
    "कि",
]


def held_out() -> list[str]:
    return [pair[1] for pair in sample_pairs("test")[:200]]


@functools.cache
def grown(name: str) -> PreTrainedTokenizerFast:
    return extend_tokenizer(tokenizer(name), swahili(), N)


def new_tokens(source: PreTrainedTokenizerFast, target: PreTrainedTokenizerFast) -> dict[str, int]:
    old = source.get_vocab()
    added = {token: index for token, index in target.get_vocab().items() if token not in old}
    return dict(sorted(added.items(), key=lambda item: item[1]))


def encode(target: PreTrainedTokenizerFast, lines: list[str]) -> list[list[int]]:
    return target(lines, add_special_tokens=False)["input_ids"]


def n_tokens(target: PreTrainedTokenizerFast, lines: list[str]) -> int:
    return sum(map(len, encode(target, lines)))


def plain(target: PreTrainedTokenizerFast, token: str) -> str:
    """The text of a token without marks of place."""
    spelling = read_spelling(target)
    token = token.removeprefix(spelling.prefix or "\0").removesuffix(spelling.suffix or "\0")
    return JoinRules(spelling, False, False).text(token).removeprefix(" ")


# What every family promises


@pytest.mark.parametrize("name", FAMILIES)
def test_old_ids_stay_and_new_ones_follow_without_a_gap(name: str) -> None:
    source, target = tokenizer(name), grown(name)
    old, now = source.get_vocab(), target.get_vocab()
    assert {token: now[token] for token in old} == old
    assert [index for index in new_tokens(source, target).values()] == list(
        range(max(old.values()) + 1, max(now.values()) + 1)
    )
    assert len(now) == len(old) + N


@pytest.mark.parametrize("name", FAMILIES)
def test_all_but_the_vocabulary_survives(name: str) -> None:
    source, target = tokenizer(name), grown(name)
    before, after = read_json(source), read_json(target)
    assert {key: part for key, part in after.items() if key != "model"} == {
        key: part for key, part in before.items() if key != "model"
    }
    for part in ("vocab", "merges"):
        before["model"].pop(part, None), after["model"].pop(part, None)
    assert after["model"] == before["model"]
    for field in ("special_tokens_map", "extra_special_tokens", "chat_template", "model_max_length", "padding_side"):
        assert getattr(target, field) == getattr(source, field)


@pytest.mark.parametrize("name", FAMILIES)
def test_old_merges_and_scores_come_first_unchanged(name: str) -> None:
    before, after = read_json(tokenizer(name))["model"], read_json(grown(name))["model"]
    if before["type"] == "Unigram":
        assert after["vocab"][: len(before["vocab"])] == before["vocab"]
        scores = [score for _, score in after["vocab"][-N:]]
        assert min(score for _, score in before["vocab"]) <= min(scores)
        assert max(scores) < 0
    elif before["type"] == "BPE":
        assert after["merges"][: len(before["merges"])] == before["merges"]
        pairs = [tuple(pair) for pair in after["merges"]]
        assert len(set(pairs)) == len(pairs)
        assert all(left + right in after["vocab"] for left, right in pairs)
    else:
        assert after["vocab"].items() >= before["vocab"].items()


@pytest.mark.parametrize("name", FAMILIES)
def test_new_tokens_are_used_and_none_is_out_of_reach(name: str) -> None:
    target = grown(name)
    used = Counter(index for ids in encode(target, swahili()) for index in ids)
    ids = list(new_tokens(tokenizer(name), target).values())
    idle = [index for index in ids if not used[index]]
    assert len(idle) <= 0.1 * N
    assert unreachable_ids(target, idle) == []


@pytest.mark.parametrize("name", FAMILIES)
def test_what_came_back_before_comes_back(name: str) -> None:
    source, target = tokenizer(name), grown(name)
    lines = [*english(), *held_out(), *HINDI, *ODD]
    before = RoundTrip(source).check(lines, encode(source, lines))
    after = RoundTrip(target).check(lines, encode(target, lines))
    assert sum(before) > 700
    assert [line for line, old, now in zip(lines, before, after, strict=True) if old and not now] == []


@pytest.mark.parametrize("name", FAMILIES)
def test_held_out_text_gets_shorter_and_most_source_text_stays(name: str) -> None:
    source, target = tokenizer(name), grown(name)
    assert n_tokens(target, held_out()) < 0.9 * n_tokens(source, held_out())
    test = [pair[0] for pair in sample_pairs("test")[:200]]
    assert n_tokens(target, test) <= n_tokens(source, test)


_PRINT_HASHES = """
import hashlib, sys
from tests.factories import TOKENIZERS, swahili
from hf_vocab_extend import extend_tokenizer
for name in sorted(TOKENIZERS):
    made = extend_tokenizer(TOKENIZERS[name](), swahili(), 300).backend_tokenizer.to_str()
    print(name, hashlib.sha256(made.encode()).hexdigest())
"""


@pytest.mark.parametrize(
    "variables",
    [
        {"TOKENIZERS_PARALLELISM": "false", "PYTHONHASHSEED": "1"},
        {"TOKENIZERS_PARALLELISM": "true", "RAYON_NUM_THREADS": "5", "PYTHONHASHSEED": "2"},
    ],
)
def test_other_processes_grow_the_same_bytes(variables: dict[str, str]) -> None:
    root = Path(__file__).resolve().parent.parent
    made = subprocess.run(
        [sys.executable, "-c", _PRINT_HASHES], capture_output=True, text=True, cwd=root, env=os.environ | variables
    )
    hashes = dict(
        line.split() for line in made.stdout.splitlines() if line.split()[:1] and line.split()[0] in FAMILIES
    )
    here = {name: hashlib.sha256(grown(name).backend_tokenizer.to_str().encode()).hexdigest() for name in FAMILIES}
    assert hashes == here, made.stderr[-2000:]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_order_of_lines_does_not_matter_nor_the_kind_of_corpus(name: str, tmp_path: Path) -> None:
    shuffled = swahili()
    random.Random(1).shuffle(shuffled)
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(shuffled), encoding="utf-8")
    assert read_json(extend_tokenizer(tokenizer(name), path, N)) == read_json(grown(name))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_source_is_left_alone_and_may_grow_twice(name: str) -> None:
    before = tokenizer(name).backend_tokenizer.to_str()
    once = extend_tokenizer(tokenizer(name), swahili(300), 60)
    twice = extend_tokenizer(once, HINDI + swahili(), 60)
    assert tokenizer(name).backend_tokenizer.to_str() == before
    first, second = new_tokens(tokenizer(name), once), new_tokens(once, twice)
    assert len(first) == len(second) == 60
    assert max(first.values()) + 1 == min(second.values())
    assert twice.get_vocab().items() >= once.get_vocab().items()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_saved_one_loads_back_equal(name: str, tmp_path: Path) -> None:
    grown(name).save_pretrained(tmp_path)
    loaded = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    lines = [*held_out(), *ODD]
    assert loaded.get_vocab() == grown(name).get_vocab()
    assert encode(loaded, lines) == encode(grown(name), lines)


# What is learnt


def _naive_pairs(sequences: dict[tuple[int, ...], int], limit: int, least: int) -> list[int]:
    """Counts of the pairs that plain byte-pair encoding merges, in order."""
    words = {tuple((index,) for index in sequence): count for sequence, count in sequences.items()}
    taken = []
    while len(taken) < limit:
        counts: Counter = Counter()
        for word, count in words.items():
            for pair in zip(word, word[1:], strict=False):
                counts[pair] += count
        best = max(counts.values(), default=0)
        if best < max(least, 1):
            break
        taken.append(best)
        pair = max(pair for pair, count in counts.items() if count == best)
        words = {_merged(word, pair): count for word, count in words.items()}
    return taken


def _merged(word: tuple, pair: tuple) -> tuple:
    out, place = [], 0
    while place < len(word):
        if word[place : place + 2] == pair:
            out.append(pair[0] + pair[1])
            place += 2
        else:
            out.append(word[place])
            place += 1
    return tuple(out)


@pytest.mark.parametrize("top", [300, 60_000, 250_000])
def test_pairs_are_those_of_byte_pair_encoding_whatever_the_ids(top: int) -> None:
    choose = random.Random(top)
    ids = choose.sample(range(top), 40) + [top]
    sequences = {
        tuple(choose.choices(ids, weights=range(1, 42), k=choose.randint(2, 7))): choose.randint(1, 50)
        for _ in range(150)
    }
    pairs = train_pairs(sequences, 25, 2)
    words = {tuple((index,) for index in sequence): count for sequence, count in sequences.items()}
    for left, right in pairs:
        counts: Counter = Counter()
        for word, count in words.items():
            for pair in zip(word, word[1:], strict=False):
                counts[pair] += count
        assert counts[left, right] == max(counts.values())
        words = {_merged(word, (left, right)): count for word, count in words.items()}
    assert len(pairs) == len(_naive_pairs(sequences, 25, 2)) == 25
    assert {index for left, right in pairs for index in left + right} <= set(ids)


@pytest.mark.parametrize("least", [1, 3, 8])
def test_pairs_below_the_least_count_are_not_merged(least: int) -> None:
    sequences = {(1, 2): 8, (3, 4): 3, (5, 6): 1}
    assert train_pairs(sequences, 10, least) == [((a,), (b,)) for a, b in sequences if sequences[a, b] >= least]
    assert train_pairs({}, 10, least) == train_pairs(sequences, 0, least) == []


@pytest.mark.parametrize("name", BPE)
def test_first_new_token_is_the_most_frequent_pair_of_todays_tokens(name: str) -> None:
    """Counted on the encodings of single words, with none of the package's own counting."""
    source = tokenizer(name)
    words = [word.lower() for line in swahili() for word in line.split() if word.isalpha() and word.isascii()]
    counts: Counter = Counter()
    for word in words:
        text = word if name == "llama2" else " " + word  # it puts the space in front by itself
        pieces = source.backend_tokenizer.encode(text, add_special_tokens=False).tokens
        counts.update(zip(pieces, pieces[1:], strict=False))
    target = extend_tokenizer(source, [" ".join(words)], 1, min_frequency=1)
    first = read_json(target)["model"]["merges"][len(read_json(source)["model"]["merges"])]
    # The first word of the line has no space in front in some families, so that its pair may count one less.
    assert counts[tuple(first)] >= max(counts.values()) - 1


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("digits", [False, True])
@pytest.mark.parametrize("punctuation", [False, True])
def test_digit_and_punctuation_rules(name: str, digits: bool, punctuation: bool) -> None:
    lines = ["namba 73946 na covid19 ni mia2moja ng'ombe (mtu) a.k.a. x-ray, ndiyo!"] * 200 + swahili(100)
    target = extend_tokenizer(tokenizer(name), lines, 80, digits=digits, punctuation=punctuation)
    texts = [plain(target, token) for token in new_tokens(tokenizer(name), target)]
    with_digits = [text for text in texts if len(text) > 1 and any(char.isdigit() for char in text)]
    mixed = [
        text for text in texts if any(c.isalpha() for c in text) and any(not c.isalnum() and c.isascii() for c in text)
    ]
    # Single digits (Qwen, CLIP) and split-off punctuation (BERT) are the pre-tokenizer's, not the options', to forbid.
    assert bool(with_digits) == (digits and name not in ("qwen", "clip"))
    assert bool(mixed) == (punctuation and name in ("llama2", "gemma", "xlmr", "t5", "llama3", "qwen"))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("longest", [3, 6])
def test_no_token_is_longer_than_allowed(name: str, longest: int) -> None:
    target = extend_tokenizer(tokenizer(name), swahili(), 60, max_token_length=longest)
    lengths = [len(plain(target, token)) for token in new_tokens(tokenizer(name), target)]
    assert max(lengths) == longest
    assert len(lengths) == 60


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_seen_less_often_than_asked_is_not_learnt(name: str) -> None:
    lines = ["kitabuxq"] * 3 + ["mwalimuzv"] * 30
    with pytest.warns(VocabExtendWarning, match=r"gives \d+ new tokens, not the 50"):
        target = extend_tokenizer(tokenizer(name), lines, 50, min_frequency=4)
    texts = {plain(target, token) for token in new_tokens(tokenizer(name), target)}
    assert "mwalimuzv" in texts
    assert "kitabuxq" not in texts


@pytest.mark.parametrize("name", FAMILIES)
def test_a_text_that_gives_too_little_gives_what_it_has(name: str) -> None:
    with pytest.warns(VocabExtendWarning, match="Bring more text") as caught:
        target = extend_tokenizer(tokenizer(name), swahili(20), 50_000)
    added = len(target) - len(tokenizer(name))
    assert 0 < added < 50_000
    assert f"gives {added} new tokens" in str(caught[0].message)
    assert unreachable_ids(target, list(new_tokens(tokenizer(name), target).values()), corpus=swahili(20)) == []


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - set(BYTE_LEVEL)))
def test_a_new_script_gets_its_letters(name: str) -> None:
    source = tokenizer(name)
    target = extend_tokenizer(source, HINDI, 70)
    unknown = {source.unk_token_id} | {source.convert_tokens_to_ids(f"<0x{value:02X}>") for value in range(256)}
    assert any(not unknown.isdisjoint(ids) for ids in encode(source, HINDI))
    assert all(unknown.isdisjoint(ids) for ids in encode(target, HINDI))
    assert n_tokens(target, HINDI) < 0.8 * sum(map(len, HINDI))


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - set(BYTE_LEVEL)))
def test_an_alphabet_is_added_as_given(name: str) -> None:
    source = tokenizer(name)
    target = extend_tokenizer(source, swahili(), 60, alphabet=["ɓɗ", "ƙ", "a"])
    texts = [plain(target, token) for token in new_tokens(source, target)]
    forms = 2 if "bert" in name else 1
    assert [texts.count(char) for char in "ɓɗƙ"] == [forms] * 3
    assert len(texts) == 60
    assert source.unk_token_id not in encode(target, ["ɓaɗaƙa aɓ ƙ"])[0]


@pytest.mark.parametrize("name", BYTE_LEVEL)
def test_bytes_need_no_alphabet(name: str) -> None:
    with pytest.raises(InvalidOptionError, match="byte-level"):
        extend_tokenizer(tokenizer(name), swahili(), 10, alphabet="abc")


# Marks


@pytest.mark.parametrize("name", ["gpt2", "llama3", "qwen", "clip"])
def test_marks_join_their_letters_and_other_text_keeps_its_ids(name: str) -> None:
    source = tokenizer(name)
    with pytest.warns(VocabExtendWarning):
        unaware = extend_tokenizer(source, HINDI, 2000)
    with pytest.warns(VocabExtendWarning):
        aware = extend_tokenizer(source, HINDI, 2000, marks_aware=True)
    assert n_tokens(aware, HINDI) < 0.7 * n_tokens(unaware, HINDI)
    assert "\u092a\u0930\u092e\u0947\u0936\u094d\u0935\u0930" in {plain(aware, token) for token in aware.get_vocab()}
    data = read_json(source)
    data["pre_tokenizer"] = read_json(aware)["pre_tokenizer"]
    lines = [*english(), *swahili(), *ODD[:-1], "don't  stop 3,000.50!!  \n\n x"]
    assert encode(rebuild(source, data), lines) == encode(source, lines)


@pytest.mark.parametrize("name", ["llama2", "gemma", "xlmr", "t5", "bert-cased", "bert-uncased"])
def test_where_no_mark_is_cut_off_nothing_is_rewritten(name: str) -> None:
    aware = extend_tokenizer(tokenizer(name), swahili(), N, marks_aware=True)
    assert read_json(aware) == read_json(grown(name))


def test_a_rule_that_cannot_be_rewritten_is_refused() -> None:
    source = TOKENIZERS["gpt2"]()
    source.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    before = source.backend_tokenizer.to_str()
    with pytest.raises(InvalidOptionError, match="combining marks"):
        extend_tokenizer(source, HINDI, 10, marks_aware=True)
    assert source.backend_tokenizer.to_str() == before


@pytest.mark.parametrize(
    ("regex", "joined"),
    [
        (r"\p{L}+", r"[\p{L}\p{M}]+"),
        (r"[^\s\p{L}\p{N}]+", r"[^\s\p{L}\p{M}\p{N}]+"),
        (r"[\p{L}]+|\[\p{L}", r"[\p{L}\p{M}]+|\[[\p{L}\p{M}]"),
        (r"[\]\p{L}]\p{L}", r"[\]\p{L}\p{M}][\p{L}\p{M}]"),
        (r"\s+(?!\S)|'s", r"\s+(?!\S)|'s"),
    ],
)
def test_letters_take_in_marks_inside_and_outside_of_brackets(regex: str, joined: str) -> None:
    assert join_marks(regex) == joined


@pytest.mark.parametrize("regex", [GPT2_REGEX, LLAMA3_REGEX])
def test_a_rewritten_regex_cuts_text_without_marks_as_before(regex: str) -> None:
    old = pre_tokenizers.Split(Regex(regex), "isolated")
    new = pre_tokenizers.Split(Regex(join_marks(regex)), "isolated")
    for line in [*english(), *swahili(), *ODD[:-1]]:
        assert new.pre_tokenize_str(line) == old.pre_tokenize_str(line)
    for word in (" पृथ्वी", " ทีนี่", "כִּתֵב"):
        assert len(old.pre_tokenize_str(word)) > 1 == len(new.pre_tokenize_str(word))


# Awkward tokenizers


@pytest.mark.parametrize("name", FAMILIES)
def test_added_tokens_keep_their_ids_and_are_not_learnt_from(name: str, tmp_path: Path) -> None:
    source = TOKENIZERS[name]()
    source.add_tokens([AddedToken("zebraword", normalized=False), "<|tool|>"])
    target = extend_tokenizer(source, ["zebraword <|tool|> " * 50, *swahili()], 100)
    target.save_pretrained(tmp_path)
    loaded = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    for made in (target, loaded):
        assert made.convert_tokens_to_ids(["zebraword", "<|tool|>"]) == source.convert_tokens_to_ids(
            ["zebraword", "<|tool|>"]
        )
        assert made("<|tool|>", add_special_tokens=False)["input_ids"] == [source.convert_tokens_to_ids("<|tool|>")]
    texts = [plain(target, token) for token in new_tokens(source, target)]
    assert not any("zebra" in text or "tool" in text for text in texts)


@pytest.mark.parametrize("name", ["gpt2", "llama2"])
def test_dropout_stays_and_does_not_make_growth_random(name: str) -> None:
    data = read_json(tokenizer(name))
    data["model"]["dropout"] = 0.5
    made = [extend_tokenizer(rebuild(tokenizer(name), data), swahili(), 100) for _ in range(2)]
    assert read_json(made[0]) == read_json(made[1])
    assert read_json(made[0])["model"]["dropout"] == 0.5
    undropped = read_json(made[0])
    undropped["model"]["dropout"] = None
    assert undropped == read_json(extend_tokenizer(tokenizer(name), swahili(), 100))


@pytest.mark.parametrize("name", ["gpt2", "llama2", "bert-cased", "clip"])
def test_holes_stay_holes(name: str) -> None:
    data = read_json(tokenizer(name))
    top = max(tokenizer(name).get_vocab().values())
    data["model"]["vocab"]["zq\u00e9"] = top + 50
    source = rebuild(tokenizer(name), data)
    target = extend_tokenizer(source, swahili(), 20)
    assert list(new_tokens(source, target).values()) == list(range(top + 51, top + 71))


@pytest.mark.parametrize("name", ["llama2", "gemma", "xlmr", "t5"])
def test_names_of_control_tokens_and_bytes_are_never_learnt(name: str) -> None:
    lines = ["x<0x41>y <0x41> z< /s> < s> <s > <0x4 1>"] * 50 + swahili(50)
    target = extend_tokenizer(tokenizer(name), lines, 80, punctuation=True, digits=True)
    assert not [t for t in new_tokens(tokenizer(name), target) if any(b in t for b in ("<s>", "</s>"))]
    merges = read_json(target)["model"].get("merges", [])
    assert not [pair for pair in merges if any(part.startswith("<0x") and part.endswith(">") for part in pair)]


@pytest.mark.parametrize("name", ["llama2", "gemma"])
def test_no_new_token_reaches_over_the_start_of_a_word(name: str) -> None:
    target = extend_tokenizer(tokenizer(name), ["ya mungu  wa   watu"] * 50 + swahili(), 200)
    assert not [token for token in new_tokens(tokenizer(name), target) if "▁" in token[1:]]


@pytest.mark.parametrize("name", ["bert-cased", "bert-uncased"])
def test_words_too_long_for_wordpiece_teach_nothing(name: str) -> None:
    lines = ["ɓ" * 101] * 50 + swahili()
    target = extend_tokenizer(tokenizer(name), lines, 50)
    assert not [token for token in new_tokens(tokenizer(name), target) if "ɓ" in token]


def test_ignored_merges_still_give_tokens_that_are_reached() -> None:
    target = grown("llama3")
    assert read_json(target)["model"]["ignore_merges"] is True
    made = {left + right for left, right in read_json(target)["model"]["merges"]}
    assert set(new_tokens(tokenizer("llama3"), target)) <= made


def test_only_pre_tokens_are_counted_and_repeats_weigh() -> None:
    counts = count_pre_tokens(tokenizer("llama2"), ["mtu wa  watu", "mtu"])
    assert counts == {"▁mtu": 2, "▁wa": 1, "▁": 1, "▁watu": 1}
    assert count_pre_tokens(tokenizer("gpt2"), ["mtu<|endoftext|> wa"]) == {"mtu": 1, "Ġwa": 1}


def test_pruning_keeps_the_most_useful_and_leaves_none_idle() -> None:
    worth = {"a": 5, "b": 0, "c": 7, "d": 1, "e": 3, "f": 0}

    def count(chosen: list[str], _learning: bool):
        import numpy as np

        return np.array([worth[token] for token in chosen])

    assert prune(list(worth), 3, count, len) == ["a", "c", "e"]
    assert prune(list(worth), 5, count, len) == ["a", "c", "d", "e"]
    assert prune(list(worth), 3, count, len, frozenset("f")) == ["a", "c", "f"]
    assert prune(["b", "f"], 1, count, len) == []


def test_pruning_refills_what_turns_out_idle() -> None:
    def count(chosen: list[str], _learning: bool):
        import numpy as np

        # "b" is used only as long as "c" is there, as a piece may be in greedy encoding.
        return np.array([{"a": 9, "b": 8 * ("c" in chosen), "c": 2}[token] for token in chosen])

    assert prune(["a", "b", "c"], 2, count, lambda _: 1) == ["a", "c"]


# Bad input


@pytest.mark.parametrize(
    "options",
    [
        {"num_new_tokens": 0},
        {"num_new_tokens": -3},
        {"num_new_tokens": 2.5},
        {"num_new_tokens": True},
        {"min_frequency": 0},
        {"min_frequency": "2"},
        {"max_token_length": 0},
        {"alphabet": 5},
        {"alphabet": ""},
        {"alphabet": [" "]},
        {"alphabet": [1]},
    ],
)
def test_a_bad_option_is_named_before_any_work(options: dict) -> None:
    def corpus():
        raise AssertionError("the corpus was read")
        yield ""

    with pytest.raises(InvalidOptionError, match=next(iter(options))):
        extend_tokenizer(tokenizer("llama2"), corpus(), **{"num_new_tokens": 10, **options})


@pytest.mark.parametrize("corpus", [[], [" ", "\n"], iter(())])
def test_an_empty_corpus_is_refused(corpus) -> None:
    with pytest.raises(CorpusError, match="empty"):
        extend_tokenizer(tokenizer("gpt2"), corpus, 10)


def test_a_corpus_of_added_tokens_alone_is_refused() -> None:
    with pytest.raises(CorpusError, match="no text"):
        extend_tokenizer(tokenizer("gpt2"), ["<|endoftext|>"] * 5, 10)


def test_without_tokenizer_json_it_says_so() -> None:
    with pytest.raises(UnsupportedTokenizerError, match="tokenizer.json"):
        extend_tokenizer(ByT5Tokenizer(), swahili(), 10)


def test_a_bare_model_encodes_pre_tokens_as_they_are() -> None:
    data = read_json(tokenizer("bert-uncased"))
    assert bare(data).encode("People").tokens == ["[UNK]"]
    assert json.dumps(data) == json.dumps(read_json(tokenizer("bert-uncased")))
