"""Ready knowledge of translations: Pharaoh links, tables of counts, dictionaries, and the program eflomal."""

from __future__ import annotations

import copy
import dataclasses
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_vocab_extend.errors import AlignmentError, CorpusError, InvalidOptionError, MissingDependencyError
from hf_vocab_extend.resources.alignment import (
    AlignerOptions,
    CountTable,
    PharaohAlignment,
    UnitCounts,
    eflomal,
    read_counts,
    read_dictionary,
)
from hf_vocab_extend.resources.alignment.aligners import align
from hf_vocab_extend.resources.alignment.bitext import Bitext, read_bitext

from .factories import TOKENIZERS, sample_pairs, tokenizer

PAIRS = list(sample_pairs()[:80])
Units = tuple[int, ...]


def pieces_of(units: Any) -> list[Units]:
    return [tuple(row.tolist()) for row in np.split(units.pieces, units.offsets[1:-1])]


def as_dict(counts: UnitCounts) -> dict[tuple[Units, Units], float]:
    source, target = pieces_of(counts.source), pieces_of(counts.target)
    return {
        (source[left], target[right]): count
        for left, right, count in zip(
            counts.source_index.tolist(), counts.target_index.tolist(), counts.counts.tolist(), strict=True
        )
    }


def naive_words(cutter: Any, text: str) -> list[Units]:
    """The tokens of each word between white space: those whose last character lies in it."""
    encoding = cutter.backend_tokenizer.encode(text, add_special_tokens=False)
    found: list[Units] = []
    place = 0
    for word in text.encode().split():  # bytes are cut at ASCII white space only
        word = word.decode()
        start = text.index(word, place)
        place = start + len(word)
        tokens = [
            token
            for token, name, span in zip(encoding.ids, encoding.tokens, encoding.offsets, strict=True)
            if start <= max(span[1] - 1, span[0]) < place and name != "\u2581"
        ]
        found.append(tuple(token for token in tokens if token not in cutter.all_special_ids))
    return found


def random_links(generator: np.random.Generator, pairs: list[tuple[str, str]]) -> list[str]:
    return [
        " ".join(
            f"{generator.integers(len(source.split()))}-{generator.integers(len(target.split()))}"
            for _ in range(generator.integers(0, 6))
        )
        for source, target in pairs
    ]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_pharaoh_links_are_counted_one_by_one(name: str, tmp_path: Path) -> None:
    source, target = tokenizer(name), tokenizer("gpt2")
    pairs = [*PAIRS, ("", "x"), ("tabs\tand  spaces\u00a0here", "नमस्ते maji")]
    links = [*random_links(np.random.default_rng(1), PAIRS), "", "0-0 2-1 1-1"]
    expected: Counter = Counter()
    for (left, right), line in zip(pairs, links, strict=True):
        words = naive_words(source, left), naive_words(target, right)
        for link in line.split():
            first, second = map(int, link.split("-"))
            if words[0][first] and words[1][second]:
                expected[words[0][first], words[1][second]] += 1
    (tmp_path / "links").write_text("\n".join(links) + "\n")
    for given in (links, iter(links), tmp_path / "links"):
        counts = read_counts(PharaohAlignment(pairs, given), source, target, show_progress=False)
        assert as_dict(counts) == expected
        assert not counts.backward.any()
        dropped = sum(len(line.split()) for line in links) - sum(expected.values())
        assert counts.info["n_dropped_links"] == dropped
        assert counts.n_pairs == len(pairs)


@pytest.mark.parametrize(
    ("links", "message"),
    [
        (["0-0", "0-2"], r"line 2, has a link to target word 2, but the target sentence has 2 words"),
        (["1-0", "0-0"], r"line 1, has a link to source word 1, but the source sentence has 1 words"),
        (["0-0"], "2 pairs .* and 1 lines of links: number 2 has no partner"),
        (["0-0", "0-0", "", ""], "2 pairs .* and 4 lines of links: number 3 has no partner"),
        (["0-0", "0:1"], "line 2, is no line of links: '0:1'"),
        (["0-0", "0-1-1"], "line 2, is no line of links"),
        (["0-0", "-1-0"], "line 2, is no line of links"),
    ],
)
def test_links_that_do_not_fit_their_text(links: list[str], message: str) -> None:
    alignment = PharaohAlignment([("fire", "moto mkali"), ("water", "maji baridi")], links)
    with pytest.raises(AlignmentError, match=message):
        read_counts(alignment, tokenizer("gpt2"), tokenizer("gpt2"), show_progress=False)


def test_a_file_of_links_that_is_not_there() -> None:
    with pytest.raises(AlignmentError, match="There is no file 'nowhere'"):
        read_counts(PharaohAlignment([("a", "b")], "nowhere"), tokenizer("gpt2"), tokenizer("gpt2"))


ROWS = [("water", "maji", 5.0), ("fire", "moto", 2.5), ("water", "maji", 1.0), ("New York", "New York", 3.0)]


def ids(cutter: Any, text: str) -> Units:
    found = cutter.backend_tokenizer.encode(text, add_special_tokens=False)
    kept = (token for token, name in zip(found.ids, found.tokens, strict=True) if name not in ("\u2581", "\u0120"))
    return tuple(token for token in kept if token != cutter.unk_token_id)


@pytest.mark.parametrize("left", TOKENIZERS)
@pytest.mark.parametrize("right", ["gpt2", "bert-uncased", "xlmr"])
def test_a_table_of_counts_holds_words_as_they_stand_in_running_text(left: str, right: str, tmp_path: Path) -> None:
    source, target = tokenizer(left), tokenizer(right)
    expected: Counter = Counter()
    for first, second, count in ROWS:
        spaced = ids(source, f" {first}"), ids(target, f" {second}")
        bare = ids(source, first), ids(target, second)
        expected[spaced] += count
        if spaced[0] != bare[0] and spaced[1] != bare[1]:
            expected[bare] += count
    path = tmp_path / "counts.tsv"
    path.write_text("".join(f"{first}\t{second}\t{count}\n" for first, second, count in ROWS))
    for given in (ROWS, path, str(path), CountTable(path), CountTable(iter(ROWS))):
        counts = read_counts(given, source, target, show_progress=False)
        assert as_dict(counts) == expected
        assert counts.info["n_skipped_rows"] == 0


def test_a_table_of_tokens() -> None:
    source, target = tokenizer("gpt2"), tokenizer("bert-cased")
    names = source.convert_ids_to_tokens([300, 301, 302]), target.convert_ids_to_tokens([100, 101])
    rows = [
        (names[0][0], names[1][0], 4),
        (f"{names[0][1]} {names[0][2]}", names[1][1], 2),
        ("no such", names[1][0], 9),
    ]
    counts = read_counts(CountTable(rows, spelling="token"), source, target)
    assert as_dict(counts) == {((300,), (100,)): 4, ((301, 302), (101,)): 2}
    assert counts.info["n_skipped_rows"] == 1
    joined = CountTable([("—".join(names[0]), names[1][0], 1)], spelling="token", joiner="—")
    assert as_dict(read_counts(joined, source, target)) == {((300, 301, 302), (100,)): 1}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("a", "b", "many")], "Item 0 of the counts has the count 'many', which is no number"),
        ([("a", "b", 1), ("a", "b", -1)], "Item 1 of the counts has the count -1"),
        ([("a", "b", float("nan"))], "has the count nan"),
        ([("a", 3, 1)], "Item 0 of the counts is"),
        ([("नमस्ते", "b", 1)], "None of the 1 rows"),
        ([("a", "b", 0)], "None of the 1 rows"),
    ],
)
def test_rows_that_are_no_counts(rows: list[Any], message: str) -> None:
    with pytest.raises(AlignmentError, match=message):
        read_counts(rows, tokenizer("bert-cased"), tokenizer("bert-cased"))


def test_a_damaged_row_of_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "counts.tsv").write_text("a\tb\t1\na\tb\n")
    with pytest.raises(AlignmentError, match="'counts.tsv', line 2, is"):
        read_counts(tmp_path / "counts.tsv", tokenizer("gpt2"), tokenizer("gpt2"))
    with pytest.raises(InvalidOptionError, match="spelling is 'bytes'"):
        CountTable([], spelling="bytes")
    with pytest.raises(AlignmentError, match="There is no file"):
        read_counts(CountTable("nowhere.tsv"), tokenizer("gpt2"), tokenizer("gpt2"))


def test_a_dictionary_counts_each_entry(tmp_path: Path) -> None:
    entries = [("water", "maji"), ("fire", "moto"), ("water", "maji"), ("नमस्ते", "habari")]
    (tmp_path / "d.tsv").write_text("".join(f"{left}\t{right}\n" for left, right in entries))
    source, target = tokenizer("bert-cased"), tokenizer("gpt2")
    expected = {
        (ids(source, "water"), ids(target, " maji")): 2,
        (ids(source, "fire"), ids(target, " moto")): 1,
    }
    for given in (entries, tmp_path / "d.tsv"):
        counts = read_dictionary(given, source, target)
        assert as_dict(counts) == expected
        assert counts.info["n_skipped_rows"] == 1
        assert (counts.source.frequency == 1).all()
    assert as_dict(read_dictionary(dict(entries[:2]), source, target)).keys() == expected.keys()
    with pytest.raises(CorpusError, match="empty"):
        read_dictionary([], source, target)


OPTIONS = AlignerOptions(aligner="eflomal", show_progress=False)


def small_bitext() -> Bitext:
    return read_bitext(PAIRS[:20], tokenizer("gpt2"), tokenizer("bert-uncased"), unit="word", show_progress=False)


@pytest.mark.skipif(
    shutil.which(eflomal.PROGRAM, path=str(Path(sys.executable).parent)) is None, reason="eflomal is not installed"
)
def test_eflomal_finds_translations() -> None:
    pairs = [("fire water", "maji moto"), ("water", "maji"), ("fire", "moto"), ("the fire", "moto")] * 30
    source, target = tokenizer("gpt2"), tokenizer("bert-uncased")
    counts = read_counts(pairs, source, target, OPTIONS, unit="word", show_progress=False)
    found = as_dict(counts)
    assert found[ids(source, " water"), ids(target, "maji")] > found.get(
        (ids(source, " water"), ids(target, "moto")), 0
    )
    assert 0 < counts.forward.sum() <= 150 >= counts.backward.sum() > 0
    assert np.array_equal(counts.forward, np.round(counts.forward))


def program(folder: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a program of eflomal's name on the search path: Python code with `text`, `forward`, `backward` as paths."""
    path = folder / eflomal.PROGRAM
    head = f"#!{sys.executable}\nimport sys\n_, _, text, _, forward, _, backward = sys.argv\n"
    path.write_text(head + "pairs = [line.split('|||') for line in open(text)]\n" + body)
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


DIAGONAL = """
def links(n): return ' '.join(f'{i}-{i}' for i in range(n))
for path in (forward, backward):
    rows = [links(min(len(a.split()), len(b.split()))) for a, b in pairs]
    open(path, 'w').write(''.join(row + chr(10) for row in rows))
"""


def test_what_a_program_writes_is_counted_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reverse = DIAGONAL + "open(backward, 'w').write('0-0\\n' * len(pairs))\n"
    program(tmp_path, reverse, monkeypatch)
    bitext = small_bitext()
    expected: dict[str, Counter] = {"forward": Counter(), "backward": Counter()}
    for pair in range(len(bitext)):
        source, target = (
            getattr(bitext, f"{side}_ids")[getattr(bitext, f"{side}_offsets")[pair] :][: lengths[pair]].tolist()
            for side, lengths in (
                ("source", np.diff(bitext.source_offsets)),
                ("target", np.diff(bitext.target_offsets)),
            )
        )
        expected["forward"].update(zip(source, target, strict=False))
        expected["backward"][source[0], target[0]] += 1
    links = align(bitext, OPTIONS)
    found = list(zip(links.source_index.tolist(), links.target_index.tolist(), strict=True))
    assert found == sorted(expected["forward"])
    assert links.forward.tolist() == [expected["forward"][key] for key in found]
    assert links.backward.tolist() == [expected["backward"][key] for key in found]
    limit = int(np.median(np.diff(bitext.source_offsets)))
    assert align(bitext, dataclasses.replace(OPTIONS, max_length=limit)).forward.sum() < links.forward.sum()
    assert not len(align(bitext, dataclasses.replace(OPTIONS, max_length=1)))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("sys.exit('no memory left')", "ended with status 1. Its last words: ...no memory left"),
        ("sys.exit(3)", "ended with status 3. It said nothing"),
        ("open(forward, 'w').write('0-0\\n' * len(pairs))", "wrote no file of backward links"),
        (
            DIAGONAL + "rows = open(backward).read(); open(backward, 'w').write(rows[: len(rows) // 2])",
            r"wrote \d+ whole lines of backward links for 20 pairs",
        ),
        (DIAGONAL + "open(forward, 'a').write('0-0\\n')", "wrote 21 whole lines of forward links for 20 pairs"),
        (DIAGONAL + "open(forward, 'w').write('999-0\\n' * 20)", "line 1, has a link to source word 999"),
        (DIAGONAL + "open(forward, 'w').write('?\\n' * 20)", "line 1, is no line of links: '?'"),
    ],
)
def test_a_program_that_fails(body: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, body, monkeypatch)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    with pytest.raises(AlignmentError, match=message):
        align(small_bitext(), OPTIONS)
    assert not list(scratch.iterdir())


def test_a_program_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(MissingDependencyError, match="pip install eflomal"):
        align(small_bitext(), OPTIONS)


def test_a_program_that_cannot_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / eflomal.PROGRAM).write_text("#!/nowhere/at/all\n")
    (tmp_path / eflomal.PROGRAM).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AlignmentError, match="cannot be started"):
        align(small_bitext(), OPTIONS)


def test_the_tokenizers_are_left_as_they_were() -> None:
    cutter = copy.deepcopy(tokenizer("gpt2"))
    cutter.backend_tokenizer.enable_truncation(3)
    counts = read_counts(PharaohAlignment([("the water is cold", "maji ni baridi")], ["1-0 3-2"]), cutter, cutter)
    assert as_dict(counts).keys() == {
        (ids(tokenizer("gpt2"), " water"), ids(tokenizer("gpt2"), "maji")),
        (ids(tokenizer("gpt2"), " cold"), ids(tokenizer("gpt2"), " baridi")),
    }
    assert cutter.backend_tokenizer.truncation["max_length"] == 3
