"""Merging: what it promises, for every family into every family, and against independent computations."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
from functools import cache

import pytest
from tokenizers import models

from hf_vocab_extend.errors import CorpusError, InvalidOptionError, UnsupportedTokenizerError
from hf_vocab_extend.vocab.adding import append_pieces, append_tokens, first_free_id, merge_pairs
from hf_vocab_extend.vocab.backend import read_json, rebuild
from hf_vocab_extend.vocab.canonical import canonicalise
from hf_vocab_extend.vocab.deriving import Goal, all_splits, derive_merges, join
from hf_vocab_extend.vocab.fertility import RoundTrip, measure_fertility
from hf_vocab_extend.vocab.merging import MergeReport, merge_tokenizers
from hf_vocab_extend.vocab.reachability import unreachable_ids
from hf_vocab_extend.vocab.scoring import MARGIN, best_cut, score_pieces

from .factories import TOKENIZERS, english, sample_pairs, swahili, tokenizer

OTHERS = ["gpt2", "llama2", "xlmr", "bert-cased", "clip"]
ENGLISH = [pair[0] for pair in sample_pairs("test")][:150]
SWAHILI = [pair[1] for pair in sample_pairs("test")][:300]


@cache
def other_tokenizer(name: str, n: int = 900):
    return TOKENIZERS[name](n, swahili())


@cache
def merged_with(name: str, other: str) -> tuple:
    return merge_tokenizers(tokenizer(name), other_tokenizer(other), return_report=True)


def new_ids(source, merged) -> range:
    return range(max(source.get_vocab().values()) + 1, max(merged.get_vocab().values()) + 1)


def ids_of(tok, lines: list[str]) -> list[list[int]]:
    return [item.ids for item in tok.backend_tokenizer.encode_batch(lines, add_special_tokens=False)]


def accounted(report: MergeReport) -> int:
    skipped = report.skipped_special + report.skipped_partial + report.skipped_rare
    return report.added + report.already_present + report.unreachable + skipped + report.left_out


GRID = list(itertools.product(TOKENIZERS, OTHERS))


@pytest.mark.parametrize(("name", "other"), GRID)
def test_source_ids_stay_and_new_ones_follow(name: str, other: str) -> None:
    source, (merged, report) = tokenizer(name), merged_with(name, other)
    before, after = source.get_vocab(), merged.get_vocab()
    assert before.items() <= after.items()
    fresh = sorted(index for token, index in after.items() if token not in before)
    assert fresh == list(new_ids(source, merged))
    assert len(fresh) == report.new_tokens > 100


@pytest.mark.parametrize(("name", "other"), GRID)
def test_every_added_token_is_reachable(name: str, other: str) -> None:
    source, (merged, _) = tokenizer(name), merged_with(name, other)
    assert unreachable_ids(merged, new_ids(source, merged)) == []


@pytest.mark.parametrize(("name", "other"), GRID)
def test_round_trip_is_kept(name: str, other: str) -> None:
    source, (merged, _) = tokenizer(name), merged_with(name, other)
    lines = [
        *ENGLISH,
        *SWAHILI[:100],
        "1984 (\u20ac 3.50): 'x'  -  y_z",
        "\u0539\u0578\u0582\u0574 \u0394 \u6f22\u5b57",
    ]
    before = RoundTrip(source).check(lines, ids_of(source, lines))
    after = RoundTrip(merged).check(lines, ids_of(merged, lines))
    assert all(new or not old for old, new in zip(before, after, strict=True))


@pytest.mark.parametrize(("name", "other"), GRID)
def test_the_report_adds_up(name: str, other: str) -> None:
    _, report = merged_with(name, other)
    assert report.requested == accounted(report) == len(other_tokenizer(other))
    assert len(report.unreachable_tokens) == report.unreachable
    assert report.skipped_special >= len(set(other_tokenizer(other).all_special_ids))


@pytest.mark.parametrize("name", TOKENIZERS)
def test_swahili_is_cut_about_as_well_as_by_the_tokenizer_merged_in(name: str) -> None:
    source, (merged, _) = tokenizer(name), merged_with(name, "bert-cased")
    before, after = measure_fertility(source, SWAHILI), measure_fertility(merged, SWAHILI)
    dedicated = measure_fertility(other_tokenizer(name), SWAHILI)
    assert after.tokens_per_word < 0.7 * before.tokens_per_word
    assert after.tokens_per_word < 1.25 * dedicated.tokens_per_word


@pytest.mark.parametrize("name", TOKENIZERS)
def test_pipeline_and_settings_survive(name: str) -> None:
    source, (merged, _) = tokenizer(name), merged_with(name, "gpt2")
    before, after = read_json(source), read_json(merged)
    for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder", "truncation", "padding", "added_tokens"):
        assert before[part] == after[part], part
    rest = {key: value for key, value in before["model"].items() if key not in ("vocab", "merges")}
    assert rest == {key: value for key, value in after["model"].items() if key not in ("vocab", "merges")}
    assert source.special_tokens_map == merged.special_tokens_map
    assert source.chat_template == merged.chat_template
    assert source.model_max_length == merged.model_max_length


def test_truncation_and_padding_survive() -> None:
    source = TOKENIZERS["gpt2"]()
    source.backend_tokenizer.enable_truncation(7)
    merged, report = merge_tokenizers(source, ["kitabu"], return_report=True)
    assert report.added == 1
    assert merged.backend_tokenizer.truncation["max_length"] == 7
    assert source.backend_tokenizer.truncation["max_length"] == 7


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_source_is_left_alone(name: str) -> None:
    source = tokenizer(name)
    before = source.backend_tokenizer.to_str()
    merge_tokenizers(source, ["ugonjwa", "kitabu"])
    assert source.backend_tokenizer.to_str() == before


@pytest.mark.parametrize("name", TOKENIZERS)
def test_saved_and_loaded_it_is_the_same(name: str, tmp_path) -> None:
    merged, _ = merged_with(name, "xlmr")
    merged.save_pretrained(tmp_path)
    loaded = type(merged).from_pretrained(tmp_path)
    assert loaded.get_vocab() == merged.get_vocab()
    assert ids_of(loaded, SWAHILI) == ids_of(merged, SWAHILI)


@pytest.mark.parametrize("name", ["gpt2", "llama2", "xlmr", "bert-cased", "clip"])
def test_text_without_new_tokens_keeps_its_cuts(name: str) -> None:
    source, (merged, _) = tokenizer(name), merged_with(name, "gpt2")
    first = new_ids(source, merged).start
    before, after = ids_of(source, ENGLISH), ids_of(merged, ENGLISH)
    untouched = [(old, new) for old, new in zip(before, after, strict=True) if max(new) < first]
    words = sorted({word for line in ENGLISH for word in line.split()})
    pairs = zip(ids_of(source, words), ids_of(merged, words), strict=True)
    untouched += [(old, new) for old, new in pairs if max(new) < first]
    assert len(untouched) > 50
    assert all(old == new for old, new in untouched)


def test_equal_bytes_in_another_process() -> None:
    code = (
        "import hashlib\nfrom tests.factories import TOKENIZERS, swahili, tokenizer\n"
        "from hf_vocab_extend.vocab.merging import merge_tokenizers\n"
        "for name in ('gpt2', 'llama2', 'xlmr', 'bert-cased', 'clip'):\n"
        "    merged = merge_tokenizers(tokenizer(name), TOKENIZERS['gpt2'](900, swahili()))\n"
        "    print(hashlib.sha256(merged.backend_tokenizer.to_str().encode()).hexdigest())\n"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert runs[0] == runs[1]
    assert len(runs[0].split()) == 5


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_same_tokenizer_adds_nothing(name: str) -> None:
    source = tokenizer(name)
    merged, report = merge_tokenizers(source, source, return_report=True)
    assert report.new_tokens == 0
    assert ids_of(merged, ENGLISH) == ids_of(source, ENGLISH)
    assert merged.get_vocab() == source.get_vocab()


WORDS = ["kitabu", "ugonjwa", "mwalimu", "wanafunzi", "ng'ombe", "kitabu", "chakula"]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_words_become_one_token(name: str) -> None:
    source = tokenizer(name)
    merged, report = merge_tokenizers(source, WORDS, return_report=True)
    assert report.requested == 6
    whole = [word for word in dict.fromkeys(WORDS) if word not in report.unreachable_tokens]
    assert set(whole) >= {"kitabu", "ugonjwa", "mwalimu", "wanafunzi", "chakula"}
    for ids in ids_of(merged, [f"a {word}" for word in whole]):
        assert ids[-1] >= new_ids(source, merged).start
        assert ids[:-1] == ids_of(source, ["a"])[0]


@pytest.mark.parametrize("name", ["gpt2", "xlmr", "bert-cased"])
def test_counts_choose_among_words(name: str) -> None:
    counts = {"kitabu": 5, "ugonjwa": 1, "mwalimu": 9}
    merged, report = merge_tokenizers(tokenizer(name), counts, min_frequency=5, return_report=True)
    assert (report.requested, report.added, report.skipped_rare) == (3, 2, 1)
    assert any("kitabu" in token for token in merged.get_vocab())
    assert not any("ugonjwa" in token for token in merged.get_vocab())


@pytest.mark.parametrize("limit", [1, 40, 333])
@pytest.mark.parametrize("name", TOKENIZERS)
def test_limit_counts_every_new_row(name: str, limit: int) -> None:
    source = tokenizer(name)
    merged, report = merge_tokenizers(source, other_tokenizer("gpt2"), max_new_tokens=limit, return_report=True)
    assert limit / 2 < report.new_tokens <= limit or (limit == 1 and report.new_tokens == 0)
    assert report.left_out > 0
    assert len(new_ids(source, merged)) == report.new_tokens
    assert report.requested == accounted(report)


def test_a_corpus_orders_and_drops() -> None:
    source, other = tokenizer("gpt2"), other_tokenizer("gpt2")
    everything = merge_tokenizers(source, other, return_report=True)[1]
    merged, report = merge_tokenizers(source, other, corpus=swahili(200), min_frequency=3, return_report=True)
    counts = canonicalise(other)
    used = {index for row in ids_of(other, swahili(200)) for index in row}
    assert 0 < report.added < everything.added
    assert report.skipped_rare >= len(counts) - len(used) - report.skipped_special - report.skipped_partial
    assert measure_fertility(merged, SWAHILI).tokens_per_word < measure_fertility(source, SWAHILI).tokens_per_word


def test_a_new_script_gets_its_characters() -> None:
    word = "\u0539\u0578\u0582\u0574\u0561\u0576"
    for name in TOKENIZERS:
        source = tokenizer(name)
        merged, report = merge_tokenizers(source, [word], return_report=True)
        assert (report.added, report.unreachable) == (1, 0), name
        assert measure_fertility(merged, [word]).tokens == 1 if name not in ("llama2", "gemma") else True
        assert measure_fertility(merged, [f"a {word} a"]).round_trip_rate == 1.0 or name in ("bert-uncased",)


@pytest.mark.parametrize(
    ("name", "word"),
    [("gpt2", "a1b"), ("llama3", "\u0939\u093f\u0928\u094d\u0926\u0940"), ("bert-cased", "ng'ombe"), ("xlmr", "a b")],
)
def test_what_the_pipeline_cuts_is_left_out_and_counted(name: str, word: str) -> None:
    source = tokenizer(name)
    merged, report = merge_tokenizers(source, [word, "kitabu"], return_report=True)
    assert (report.added, report.unreachable, report.unreachable_tokens) == (1, 1, (word,))
    assert len(new_ids(source, merged)) == report.new_tokens


def test_a_lower_casing_tokenizer_takes_lower_case() -> None:
    source = tokenizer("bert-uncased")
    merged, report = merge_tokenizers(source, ["Kitabu", "kitabu", "KITABU"], return_report=True)
    assert (report.added, report.already_present) == (1, 2)
    assert merged.tokenize("Kitabu") == ["kitabu"]


def test_no_text_turns_into_a_control_token() -> None:
    source = tokenizer("llama2")
    merged = merge_tokenizers(source, ["</s>", "a</s>", "kitabu</s>"])
    backend = merged.backend_tokenizer
    backend.encode_special_tokens = True
    end = merged.convert_tokens_to_ids("</s>")
    assert all(end not in ids for ids in ids_of(merged, ["a</s>", " </s>", "kitabu</s>"]))


def test_control_tokens_come_only_when_asked_for() -> None:
    source, other = tokenizer("gpt2"), TOKENIZERS["llama3"](900, swahili())
    plain = merge_tokenizers(source, other)
    merged, report = merge_tokenizers(source, other, special_tokens=True, return_report=True)
    assert "<|eot_id|>" not in plain.get_vocab()
    added = merged.added_tokens_decoder[merged.get_vocab()["<|eot_id|>"]]
    assert added.special
    assert len(new_ids(source, merged)) == report.new_tokens
    assert "<|begin_of_text|>" not in merged.get_vocab()
    assert merged.tokenize("a<|eot_id|>") == ["a", "<|eot_id|>"]


def test_control_tokens_count_against_the_limit() -> None:
    source, other = tokenizer("gpt2"), TOKENIZERS["llama3"](900, swahili())
    for limit in (1, 30):
        merged, report = merge_tokenizers(source, other, special_tokens=True, max_new_tokens=limit, return_report=True)
        assert len(new_ids(source, merged)) == report.new_tokens <= limit
        assert "<|eot_id|>" in merged.get_vocab()


def test_merges_of_old_files_and_tokens_with_spaces() -> None:
    data = read_json(tokenizer("llama2"))
    data["model"]["merges"] = [" ".join(pair) for pair in data["model"]["merges"]]
    assert merge_pairs(data) == merge_pairs(read_json(tokenizer("llama2")))
    source = rebuild(tokenizer("llama2"), data)
    merged = merge_tokenizers(source, ["kitabu cha mwalimu"])
    assert all(isinstance(pair, list) for pair in read_json(merged)["model"]["merges"])
    assert merged.tokenize("kitabu cha mwalimu") == ["\u2581kitabu\u2581cha\u2581mwalimu"]


def test_a_vocabulary_without_all_inner_characters_loses_no_word() -> None:
    """WordPiece gives up a whole word if the rest behind its longest piece has none."""
    data = read_json(tokenizer("bert-cased"))
    vocab = {token: index for token, index in data["model"]["vocab"].items() if token != "##z"}
    vocab["##uz"] = 508
    data["model"]["vocab"] = vocab
    source = rebuild(tokenizer("bert-cased"), data)
    before = source.tokenize("kitabuz")
    merged, report = merge_tokenizers(source, ["kitabu"], return_report=True)
    assert "[UNK]" not in before
    assert "[UNK]" not in merged.tokenize("kitabuz")
    assert report.intermediate_added == 1


# ---- derived merges against naive BPE -------------------------------------------------------------------------------


def naive_bpe(pieces: list[str], products: list[str]) -> list[str]:
    """Apply one product after the other, each everywhere: BPE as its training does it, without priorities."""
    for product in products:
        place = 0
        while place < len(pieces) - 1:
            if pieces[place] + pieces[place + 1] == product:
                pieces = [*pieces[:place], product, *pieces[place + 2 :]]
            else:
                place += 1
    return pieces


def test_every_goal_and_every_product_becomes_one_piece() -> None:
    words = sorted({word for line in swahili(200) for word in line.split()})
    goals = [Goal(tuple(word), 1 + index % 7) for index, word in enumerate(words)]
    products = derive_merges(goals)
    ranks = {product: rank for rank, product in enumerate(products)}
    assert all(join(word, ranks) == [word] for word in words)
    assert all(join(product, ranks) == [product] for product in products)
    plain = models.BPE(
        vocab={token: index for index, token in enumerate(sorted({*"".join(words), *products}))},
        merges=all_splits(products, {*"".join(words), *products}),
    )
    assert all([piece.value for piece in plain.tokenize(word)] == [word] for word in words)


def test_the_first_product_is_the_heaviest_pair() -> None:
    goals = [Goal(("a", "b", "c"), 2), Goal(("b", "c"), 3), Goal(("a", "b"), 4)]
    assert derive_merges(goals) == ["ab", "bc", "abc"]
    assert naive_bpe(["b", "c"], ["ab", "bc", "abc"]) == ["bc"]


def test_forbidden_products_are_never_made() -> None:
    goals = [Goal(("a", "b", "c"), 5)]
    assert derive_merges(goals, frozenset({"ab"})) == ["bc", "abc"]
    assert derive_merges(goals, frozenset({"abc"})) == ["ab"]


def test_all_splits_by_hand() -> None:
    assert all_splits(["abc"], {"a", "ab", "bc", "c"}) == [("a", "bc"), ("ab", "c")]
    assert all_splits(["ab</w>"], {"a", "b</w>", "ab", "</w>", "a</w>"}, "</w>") == [("a", "b</w>")]


# ---- scores against enumeration -------------------------------------------------------------------------------------


def all_cuts(text: str) -> list[list[str]]:
    if not text:
        return [[]]
    return [[text[:end], *rest] for end in range(1, len(text) + 1) for rest in all_cuts(text[end:])]


def test_best_cut_against_all_cuts() -> None:
    scores = {"a": -1.0, "b": -2.5, "ab": -3.0, "ba": -2.0, "aba": -3.9, "bab": -9.0, "abab": -1.0}
    for text in ("ab", "aba", "abab", "babab", "aabba", "abc", "a"):
        valid = [cut for cut in all_cuts(text) if len(cut) > 1 and all(piece in scores for piece in cut)]
        expected = max((sum(scores[piece] for piece in cut) for cut in valid), default=-math.inf)
        assert best_cut(text, scores) == pytest.approx(expected)


def test_scores_win_their_text_and_keep_proposals_that_do() -> None:
    old = {"a": -2.0, "b": -3.0, "c": -4.0}
    new = score_pieces({"abc": None, "ab": None, "bc": -6.5, "cab": -50.0, "xy": None, "xz": -7.0}, old)
    lift = {piece: new[piece] - best_cut(piece, old | new) for piece in ("abc", "ab", "cab")}
    assert lift["abc"] > lift["ab"] > lift["cab"] > MARGIN
    assert max(lift.values()) < 10 * MARGIN
    assert new["ab"] == pytest.approx(-5.0 + lift["ab"])
    assert new["bc"] == -6.5
    assert new["cab"] == pytest.approx(new["ab"] - 4.0 + lift["cab"])
    assert (new["xy"], new["xz"]) == (-4.0, -7.0)
    assert list(new) == ["abc", "ab", "bc", "cab", "xy", "xz"]


# ---- data of tokenizer.json -----------------------------------------------------------------------------------------


def test_added_tokens_outside_the_model_keep_their_ids() -> None:
    source = tokenizer("llama3")
    data = read_json(source)
    assert not any(token["content"] in data["model"]["vocab"] for token in data["added_tokens"])
    start = first_free_id(data)
    append_tokens(data, ["\u0120new"])
    loaded = rebuild(source, json.loads(json.dumps(data)))
    assert loaded.get_vocab() == source.get_vocab() | {"\u0120new": start}


def test_unigram_places_behind_the_list_are_filled_and_silent() -> None:
    source = tokenizer("t5")
    data = read_json(source)
    n_pieces, start = len(data["model"]["vocab"]), first_free_id(data)
    assert start > n_pieces
    data["added_tokens"][-1]["id"] += 2
    append_pieces(data, [("\u2581kitabu", -5.0)], silent=-99.0)
    filler = data["model"]["vocab"][n_pieces : start + 2]
    assert [score for _, score in filler] == [-99.0] * (start + 2 - n_pieces)
    assert sum(piece.startswith("<unused") for piece, _ in filler) == 2
    assert data["model"]["vocab"][start + 2] == ["\u2581kitabu", -5.0]


# ---- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "options", "message"),
    [
        ([], {}, "empty"),
        ({}, {}, "empty"),
        (["a", ""], {}, "blank"),
        (["a", 3], {}, "3"),
        ({"a": 1.5}, {}, "1.5"),
        ("kitabu", {}, "str"),
        (7, {}, "int"),
        (["a"], {"min_frequency": 0}, "min_frequency is 0"),
        (["a"], {"max_new_tokens": 0}, "max_new_tokens is 0"),
        (["a"], {"corpus": ["a"]}, "word list takes neither"),
        (["a"], {"special_tokens": True}, "word list takes neither"),
    ],
)
def test_bad_options(other, options: dict, message: str) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        merge_tokenizers(tokenizer("gpt2"), other, **options)


def test_bad_tokenizers_and_corpora() -> None:
    with pytest.raises(UnsupportedTokenizerError):
        merge_tokenizers(object(), ["kitabu"])
    with pytest.raises(InvalidOptionError, match="corpus="):
        merge_tokenizers(tokenizer("gpt2"), other_tokenizer("xlmr"), min_frequency=2)
    with pytest.raises(CorpusError):
        merge_tokenizers(tokenizer("gpt2"), other_tokenizer("xlmr"), corpus=[])


def test_nothing_left_gives_an_equal_tokenizer() -> None:
    merged, report = merge_tokenizers(tokenizer("gpt2"), ["a1b2"], return_report=True)
    assert report == MergeReport(1, 0, 0, 1, 0, 0, 0, 0, 0, ("a1b2",))
    assert ids_of(merged, ENGLISH) == ids_of(tokenizer("gpt2"), ENGLISH)


def test_english_lines_of_the_source_training_text_stay_readable() -> None:
    source, (merged, _) = tokenizer("bert-cased"), merged_with("bert-cased", "gpt2")
    before, after = measure_fertility(source, english(300)), measure_fertility(merged, english(300))
    assert after.unknown_rate <= before.unknown_rate
    assert after.tokens_per_word <= before.tokens_per_word
