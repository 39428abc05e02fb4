"""Text of the source language among that of the new one."""

from __future__ import annotations

import logging
from itertools import islice

import pytest

from hf_vocab_extend import mix_replay
from hf_vocab_extend.adaptation.replay import hold_out
from hf_vocab_extend.errors import CorpusError, InvalidOptionError

from .factories import english, swahili


def n_bytes(texts):
    return sum(len(text.encode("utf-8")) for text in texts)


@pytest.mark.parametrize("share", [0.05, 0.1, 0.5, 0.8])
def test_share_is_one_of_bytes_all_along(share):
    target, source = swahili(300), [f"[en] {line}" for line in english(600)]
    mixed = list(mix_replay(target, source, share, held_out=20))
    assert [text for text in mixed if not text.startswith("[en] ")] == target
    longest = max(len(text.encode()) for text in [*target, *source])
    for end in range(1, len(mixed) + 1, 37):
        replayed = n_bytes(text for text in mixed[:end] if text.startswith("[en] "))
        assert abs(replayed - share * n_bytes(mixed[:end])) <= longest


def test_share_is_not_one_of_rows():
    mixed = list(mix_replay(["ab " * 100] * 90, [f"{n:03d}" for n in range(200)], 0.1, held_out=0))
    assert sum(len(text) == 3 for text in mixed) > len(mixed) / 2


def test_no_replay_is_the_target_alone():
    assert list(mix_replay(swahili(40), english(40), 0.0)) == swahili(40)


def test_held_out_lines_never_come():
    source = english(200)
    source += source[:50]
    mix = mix_replay(swahili(200), source, 0.5, held_out=15)
    assert len(mix.held_out) == 15
    assert set(mix.held_out) <= set(source)
    assert not set(mix.held_out) & set(mix)


def test_same_at_every_reading_and_from_a_generator():
    mix = mix_replay(swahili(100), english(100), 0.2, held_out=5)
    first = list(mix)
    assert first == list(mix)
    streamed = mix_replay(iter(swahili(100)), (line for line in english(100)), 0.2, held_out=5)
    assert list(streamed) == first
    assert streamed.held_out == mix.held_out


def test_seed_holds_other_lines_out():
    held = [mix_replay(["a"], english(200), held_out=10, seed=seed).held_out for seed in (0, 1, 1)]
    assert held[1] == held[2] != held[0]


def test_short_source_is_read_again_and_said(caplog):
    with caplog.at_level(logging.INFO, "hf_vocab_extend"):
        mixed = list(mix_replay(swahili(300), ["one line", "and one more"], 0.3, held_out=0))
    assert mixed.count("one line") > 10
    assert sum("read again" in record.message for record in caplog.records) == 1


def test_source_goes_on_over_passes():
    source = [f"line {n}" for n in range(10_000)]
    target = ["x" * 100] * 9
    both = [text for text in mix_replay(target, source, 0.1, passes=2, held_out=0) if text.startswith("line")]
    assert both == source[: len(both)]
    assert len(both) == pytest.approx(2 * 100 / 7, abs=3)
    endless = mix_replay(target, source, 0.1, passes=None, held_out=0)
    assert sum(text == target[0] for text in islice(endless, 200)) > 3 * len(target)


def test_hold_out_takes_a_tenth_at_most():
    held, rest = hold_out([f"line {n}" for n in range(50)], 200)
    assert len(held) == 5
    assert sorted([*held, *rest]) == sorted(f"line {n}" for n in range(50))
    with pytest.raises(CorpusError, match="too few"):
        hold_out(["a", "b"], 1)


@pytest.mark.parametrize("options", [{"share": 1.0}, {"share": -0.1}, {"passes": 0}, {"held_out": -1}])
def test_bad_options(options):
    with pytest.raises(InvalidOptionError):
        mix_replay(swahili(20), english(20), **options)


def test_empty_source():
    with pytest.raises(CorpusError):
        mix_replay(swahili(20), [])
