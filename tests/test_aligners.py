"""Aligners against enumeration in plain Python, on texts where the answer is known, and on bad input."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from hf_vocab_extend.errors import InvalidOptionError
from hf_vocab_extend.resources.alignment import aligners, hmm
from hf_vocab_extend.resources.alignment.aligners import AlignerOptions, Links, align
from hf_vocab_extend.resources.alignment.bitext import Bitext
from hf_vocab_extend.resources.alignment.grid import _distinct, build_grid
from hf_vocab_extend.resources.alignment.units import Units

Pairs = list[tuple[list[int], list[int]]]
BUILT_IN = ["hmm", "ibm1"]


def make_bitext(pairs: Pairs, n_source: int, n_target: int) -> Bitext:
    def side(index: int, n_units: int) -> tuple[Units, np.ndarray, np.ndarray]:
        ids = np.array([unit for pair in pairs for unit in pair[index]], np.int32)
        offsets = np.cumsum([0] + [len(pair[index]) for pair in pairs]).astype(np.int64)
        frequency = np.bincount(ids, minlength=n_units)
        return Units(np.arange(n_units + 1), np.arange(n_units, dtype=np.int32), frequency), ids, offsets

    (source, source_ids, source_offsets), (target, target_ids, target_offsets) = side(0, n_source), side(1, n_target)
    return Bitext(source, target, source_ids, source_offsets, target_ids, target_offsets)


def random_pairs(seed: int, n: int, n_units: int = 6, longest: int = 4) -> Pairs:
    rng = np.random.default_rng(seed)
    return [
        (
            rng.integers(n_units, size=rng.integers(1, longest + 1)).tolist(),
            rng.integers(n_units, size=rng.integers(1, longest + 1)).tolist(),
        )
        for _ in range(n)
    ]


def as_dict(links: Links, which: str) -> dict[tuple[int, int], float]:
    values = getattr(links, which)
    return dict(zip(zip(links.source_index.tolist(), links.target_index.tolist(), strict=True), values, strict=True))


def naive_ibm1(pairs: Pairs, n_events: int, iterations: int) -> dict[tuple[int, int], float]:
    """p(second | first), null word None; returns the expected counts of the last round."""
    table: dict = {}
    counts: dict = {}
    for _ in range(iterations):
        counts, sums = {}, {}
        for left, right in pairs:
            for event in right:
                weights = [table.get((unit, event), 1 / n_events if not table else 0.0) for unit in [None, *left]]
                for unit, weight in zip([None, *left], weights, strict=True):
                    share = weight / sum(weights)
                    counts[unit, event] = counts.get((unit, event), 0.0) + share
                    sums[unit] = sums.get(unit, 0.0) + share
        table = {key: count / sums[key[0]] for key, count in counts.items()}
    return {key: count for key, count in counts.items() if key[0] is not None}


@pytest.mark.parametrize("iterations", [1, 2, 7])
@pytest.mark.parametrize("seed", [0, 1])
def test_ibm1_is_the_textbook_one(iterations, seed):
    pairs = random_pairs(seed, 30)
    links = align(make_bitext(pairs, 6, 6), AlignerOptions(aligner="ibm1", iterations=iterations, double=True))
    forward = naive_ibm1(pairs, 6, iterations)
    backward = naive_ibm1([(right, left) for left, right in pairs], 6, iterations)
    assert as_dict(links, "forward") == pytest.approx(forward, abs=1e-9)
    assert as_dict(links, "backward") == pytest.approx({(s, t): v for (t, s), v in backward.items()}, abs=1e-9)


def enumerate_hmm(cells: list[list[float]], null: list[float], weights: np.ndarray, null_share: float):
    """Posteriors and likelihood by the sum over every path; `cells[step][place]`."""
    n_steps, n_places = len(cells), len(cells[0])
    posterior, total = np.zeros((n_steps, n_places)), 0.0
    for path in itertools.product([None, *range(n_places)], repeat=n_steps):
        place, score = -1, 1.0
        for step, chosen in enumerate(path):
            if chosen is None:
                score *= null_share * null[step]
                continue
            ways = [weights[np.clip(k - place, -hmm.REACH, hmm.REACH) + hmm.REACH] for k in range(n_places)]
            score *= (1 - null_share) * ways[chosen] / sum(ways) * cells[step][chosen]
            place = chosen
        total += score
        for step, chosen in enumerate(path):
            if chosen is not None:
                posterior[step, chosen] += score
    return posterior / total, total


@pytest.mark.parametrize("null_share", [0.05, 0.5])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_hmm_posteriors_are_the_sum_over_all_paths(seed, null_share):
    rng = np.random.default_rng(seed)
    jumps = hmm.Jumps(torch.device("cpu"), torch.float64)
    jumps.weights = torch.from_numpy(rng.random(2 * hmm.REACH + 1) + 0.01)
    shapes = [(4, 3), (2, 4), (1, 1), (4, 1), (1, 4)]  # steps, places
    cells, null = torch.zeros(4, len(shapes), 4, dtype=torch.float64), torch.ones(4, len(shapes), dtype=torch.float64)
    places = torch.zeros(len(shapes), 4, dtype=torch.bool)
    for row, (n_steps, n_places) in enumerate(shapes):
        cells[:n_steps, row, :n_places] = torch.from_numpy(rng.random((n_steps, n_places)))
        null[:n_steps, row] = torch.from_numpy(rng.random(n_steps))
        places[row, :n_places] = True
    linked, unlinked = hmm.posteriors(hmm.Chain(cells.clone(), null.clone(), places, null_share), jumps)
    for row, (n_steps, n_places) in enumerate(shapes):
        expected, _ = enumerate_hmm(
            cells[:n_steps, row, :n_places].tolist(), null[:n_steps, row].tolist(), jumps.weights.numpy(), null_share
        )
        np.testing.assert_allclose(linked[:n_steps, row, :n_places].numpy(), expected, atol=1e-9)
        np.testing.assert_allclose(unlinked[:n_steps, row].numpy(), 1 - expected.sum(1), atol=1e-9)
        assert linked[n_steps:, row].count_nonzero() == 0
        assert linked[:, row, n_places:].count_nonzero() == 0


def test_learning_the_jumps_raises_the_likelihood_up_to_the_best():
    """With fixed cells, rounds of counting and estimating end where no change of a weight raises the likelihood."""
    rng = np.random.default_rng(3)
    n, n_steps, n_places = 8, 4, 3
    cells = torch.from_numpy(rng.random((n_steps, n, n_places)) ** 4)
    null = torch.full((n_steps, n), 0.1, dtype=torch.float64)
    chain = hmm.Chain(cells, null, torch.ones(n, n_places, dtype=torch.bool), 0.1)
    jumps = hmm.Jumps(torch.device("cpu"), torch.float64)

    def likelihood(weights: np.ndarray) -> float:
        rows = [enumerate_hmm(cells[:, row].tolist(), null[:, row].tolist(), weights, 0.1)[1] for row in range(n)]
        return float(np.log(rows).sum())

    scores = [likelihood(jumps.weights.numpy())]
    for _ in range(100):
        hmm.posteriors(chain, jumps)
        jumps.estimate()
        jumps.reset()
        if len(scores) < 6:
            scores.append(likelihood(jumps.weights.numpy()))
    assert scores == sorted(scores)
    best = likelihood(jumps.weights.numpy())
    for distance in (-2, -1, 0, 1, 2, 3):
        for factor in (0.9, 1.1):
            changed = jumps.weights.numpy().copy()
            changed[distance + hmm.REACH] *= factor
            assert likelihood(changed) <= best + 1e-3


def naive_hmm_aligner(pairs: Pairs, n_units: int, model1: int, null_share: float) -> dict[tuple[int, int], float]:
    """One round of the HMMs of both directions after some of Model 1: the product of their posteriors."""

    def table_of(pairs: Pairs) -> tuple[dict, dict]:
        table: dict = {}
        for _ in range(model1):
            counts: dict = {}
            sums: dict = {}
            for left, right in pairs:
                for event in right:
                    weights = [table.get((unit, event), 1 / n_units if not table else 0.0) for unit in [None, *left]]
                    for unit, weight in zip([None, *left], weights, strict=True):
                        counts[unit, event] = counts.get((unit, event), 0.0) + weight / sum(weights)
                        sums[unit] = sums.get(unit, 0.0) + weight / sum(weights)
            table = {key: count / sums[key[0]] for key, count in counts.items()}
        return table

    swapped = [(right, left) for left, right in pairs]
    forward, backward = table_of(pairs), table_of(swapped)
    weights = hmm.Jumps(torch.device("cpu"), torch.float64).weights.numpy()
    result: dict = {}
    for left, right in pairs:
        there, _ = enumerate_hmm(
            [[forward[s, t] for s in left] for t in right], [forward[None, t] for t in right], weights, null_share
        )
        back, _ = enumerate_hmm(
            [[backward[t, s] for t in right] for s in left], [backward[None, s] for s in left], weights, null_share
        )
        for (i, s), (j, t) in itertools.product(enumerate(left), enumerate(right)):
            result[s, t] = result.get((s, t), 0.0) + there[j, i] * back[i, j]
    return result


@pytest.mark.parametrize("seed", [0, 1])
def test_hmm_counts_what_both_directions_agree_on(seed):
    pairs = random_pairs(seed, 20)
    options = AlignerOptions(aligner="hmm", model1_iterations=3, iterations=1, null_share=0.2, double=True)
    links = align(make_bitext(pairs, 6, 6), options)
    expected = naive_hmm_aligner(pairs, 6, 3, 0.2)
    assert as_dict(links, "forward") == pytest.approx(expected, abs=1e-9)
    np.testing.assert_array_equal(links.forward, links.backward)


def planted(seed: int, n: int, n_units: int = 40) -> tuple[Pairs, np.ndarray]:
    """Sentences whose translation swaps neighbours now and then, drops units, and adds a word that means nothing."""
    rng = np.random.default_rng(seed)
    meaning = rng.permutation(n_units)
    frequency = 1 / np.arange(1, n_units + 1)
    pairs = []
    for _ in range(n):
        left = rng.choice(n_units, size=rng.integers(3, 9), p=frequency / frequency.sum())
        right = meaning[left]
        place = rng.integers(len(right) - 1)
        if rng.random() < 0.5:
            right[[place, place + 1]] = right[[place + 1, place]]
        if rng.random() < 0.3:
            right = np.delete(right, rng.integers(len(right)))
        right = np.insert(right, rng.integers(len(right) + 1), n_units)  # the null word's
        pairs.append((left.tolist(), right.tolist()))
    return pairs, meaning


@pytest.mark.parametrize("aligner", ["ibm1", "hmm"])
def test_a_planted_dictionary_is_found(aligner):
    pairs, meaning = planted(0, 400)
    links = align(make_bitext(pairs, 40, 41), AlignerOptions(aligner=aligner))
    counts = np.zeros((40, 41))
    counts[links.source_index, links.target_index] = links.forward + links.backward
    seen = counts.sum(1) > 0
    assert seen.sum() >= 38
    np.testing.assert_array_equal(counts.argmax(1)[seen], meaning[seen])


def test_the_hmm_is_surer_of_a_planted_dictionary_than_model_1():
    pairs, meaning = planted(1, 300)
    shares = {}
    for aligner in ("ibm1", "hmm"):
        links = align(make_bitext(pairs, 40, 41), AlignerOptions(aligner=aligner))
        counts = links.forward + links.backward
        shares[aligner] = counts[meaning[links.source_index] == links.target_index].sum() / counts.sum()
    assert shares["hmm"] > shares["ibm1"] + 0.02
    assert shares["hmm"] > 0.93


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("aligner", BUILT_IN)
def test_batches_do_not_change_the_result(aligner, double, monkeypatch):
    bitext = make_bitext(random_pairs(5, 60, n_units=9, longest=12), 9, 9)
    results = []
    for cells in (1, 50, 1 << 18):
        monkeypatch.setitem(aligners._CELLS, "cpu", cells)
        results.append(align(bitext, AlignerOptions(aligner=aligner, double=double)))
    for other in results[1:]:
        np.testing.assert_array_equal(other.source_index, results[0].source_index)
        np.testing.assert_array_equal(other.target_index, results[0].target_index)
        np.testing.assert_allclose(other.forward, results[0].forward, atol=1e-9 if double else 1e-3)
        np.testing.assert_allclose(other.backward, results[0].backward, atol=1e-9 if double else 1e-3)


@pytest.mark.parametrize("aligner", BUILT_IN)
def test_the_same_text_gives_the_same_bits(aligner):
    bitext = make_bitext(random_pairs(6, 200, n_units=30, longest=15), 30, 30)
    first, second = (align(bitext, AlignerOptions(aligner=aligner, threads=threads)) for threads in (2, 2))
    for name in ("source_index", "target_index", "forward", "backward"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


@pytest.mark.parametrize("aligner", BUILT_IN)
def test_links_are_unique_sorted_and_of_the_right_size(aligner):
    pairs = random_pairs(7, 100, n_units=8, longest=10)
    links = align(make_bitext(pairs, 8, 8), AlignerOptions(aligner=aligner))
    keys = links.source_index.astype(np.int64) * 8 + links.target_index
    assert (np.diff(keys) > 0).all()
    assert links.source_index.dtype == links.target_index.dtype == np.int32
    assert links.forward.dtype == links.backward.dtype == np.float64
    # no unit is linked more than once
    assert 0 < links.forward.sum() <= sum(len(right) for _, right in pairs)
    assert 0 < links.backward.sum() <= sum(len(left) for left, _ in pairs)
    assert (links.forward + links.backward > 0).all()


@pytest.mark.parametrize("aligner", BUILT_IN)
def test_shards_add_up(aligner):
    pairs, meaning = planted(2, 600)
    bitext = make_bitext(pairs, 40, 41)
    whole = align(bitext, AlignerOptions(aligner=aligner))
    parts = align(bitext, AlignerOptions(aligner=aligner, max_links=8000))
    halves = [align(make_bitext(pairs[shard::3], 40, 41), AlignerOptions(aligner=aligner)) for shard in range(3)]
    total: dict = {}
    for half in halves:
        for key, value in as_dict(half, "forward").items():
            total[key] = total.get(key, 0.0) + value
    n_links = sum(len(left) * len(right) for left, right in pairs)
    assert 16000 < n_links <= 24000  # three shards
    assert as_dict(parts, "forward") == pytest.approx(total, abs=1e-9)
    assert parts.forward.sum() == pytest.approx(whole.forward.sum(), rel=0.05)


@pytest.mark.parametrize("aligner", BUILT_IN)
def test_pairs_beyond_the_longest_are_left_out(aligner):
    pairs = random_pairs(8, 20)
    long = [*pairs, (list(range(6)) * 5, [1])]
    options = AlignerOptions(aligner=aligner, max_length=29, double=True)
    links = align(make_bitext(long, 6, 6), options)
    assert as_dict(links, "forward") == pytest.approx(as_dict(align(make_bitext(pairs, 6, 6), options), "forward"))


@pytest.mark.parametrize("aligner", BUILT_IN)
@pytest.mark.parametrize("pairs", [[], [([], [])], [([0], []), ([], [1])]])
def test_nothing_to_align_gives_no_links(aligner, pairs):
    assert len(align(make_bitext(pairs, 2, 2), AlignerOptions(aligner=aligner))) == 0


@pytest.mark.parametrize("aligner", BUILT_IN)
@pytest.mark.parametrize(
    "pairs",
    [
        [([0], [0])],
        [([0] * 9, [0] * 3)],
        [([0, 1], [1, 0])] * 3,
        [([0], [1, 1]), ([1, 1, 1], [0])],
        [([0], [])] * 2 + [([1], [1])],
    ],
)
def test_degenerate_texts_give_finite_counts(aligner, pairs):
    links = align(make_bitext(pairs, 2, 2), AlignerOptions(aligner=aligner, iterations=20))
    assert len(links)
    assert np.isfinite(links.forward).all()
    assert np.isfinite(links.backward).all()


@pytest.mark.parametrize("aligner", BUILT_IN)
def test_a_prior_keeps_probabilities_finite_and_prefers_few_translations(aligner):
    pairs, _ = planted(4, 200)
    plain, sparse = (
        align(make_bitext(pairs, 40, 41), AlignerOptions(aligner=aligner, prior=prior)) for prior in (0.0, 0.01)
    )
    assert np.isfinite(sparse.forward).all()
    assert (sparse.forward > 0.01).sum() < (plain.forward > 0.01).sum()


@pytest.mark.parametrize("aligner", BUILT_IN)
def test_an_interruption_comes_through_and_leaves_torch_as_it_was(aligner, monkeypatch):
    calls = []
    real = torch.Tensor.index_add_

    def interrupted(self, *args):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(self, *args)

    before = torch.get_num_threads()
    monkeypatch.setattr(torch.Tensor, "index_add_", interrupted)
    with pytest.raises(KeyboardInterrupt):
        align(make_bitext(random_pairs(9, 50), 6, 6), AlignerOptions(aligner=aligner, threads=before + 1))
    assert torch.get_num_threads() == before
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iterations": 0}, "iterations is 0"),
        ({"max_links": 0}, "max_links is 0"),
        ({"max_length": -1}, "max_length is -1"),
        ({"threads": 0}, "threads is 0"),
        ({"model1_iterations": -1}, "model1_iterations is -1"),
        ({"prior": -0.1}, "prior is -0.1"),
        ({"prior": float("nan")}, "prior is nan"),
        ({"null_share": 0.0}, "null_share is 0.0"),
        ({"null_share": 1.0}, "null_share is 1.0"),
        ({"null_share": float("nan")}, "null_share is nan"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(InvalidOptionError, match=message):
        AlignerOptions(**options)


def test_an_unknown_aligner_is_named_with_those_there_are():
    with pytest.raises(InvalidOptionError, match="no aligner 'giza'. There are: hmm, ibm1, eflomal"):
        align(make_bitext([([0], [0])], 1, 1), AlignerOptions(aligner="giza"))


@pytest.mark.parametrize("device", ["nowhere", "cuda:77"])
@pytest.mark.parametrize("aligner", BUILT_IN)
def test_a_device_that_is_not_there_is_refused(aligner, device):
    with pytest.raises(InvalidOptionError, match=f"computed on '{device}'"):
        align(make_bitext([([0], [0])], 1, 1), AlignerOptions(aligner=aligner, device=device))


@pytest.mark.parametrize("largest_bits", [20, 62])
def test_distinct_keys(largest_bits):
    rng = np.random.default_rng(0)
    keys = rng.integers(1 << 10, size=5000) << (largest_bits - 10)
    found, places = _distinct(keys, 1 << largest_bits)
    expected, inverse = np.unique(keys, return_inverse=True)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(places, inverse)


@pytest.mark.parametrize("cells", [1, 30, 10_000])
def test_the_grid_holds_every_cell_once(cells):
    pairs = random_pairs(10, 80, n_units=7, longest=20)
    grid = build_grid(make_bitext(pairs, 7, 7), np.arange(80), cells)
    counts: dict = {}
    for batch in grid.batches(torch.device("cpu")):
        shape = batch.pairs.shape
        assert shape == (len(batch.source), batch.source.shape[1], batch.target.shape[1])
        assert len(batch.source) == 1 or batch.pairs.numel() <= cells
        for row, i, j in itertools.product(*map(range, shape)):
            s, t, pair = int(batch.source[row, i]), int(batch.target[row, j]), int(batch.pairs[row, i, j])
            if s == 7 or t == 7:
                assert pair == grid.n_pairs
            else:
                assert (grid.source_of[pair], grid.target_of[pair]) == (s, t)
                counts[s, t] = counts.get((s, t), 0) + 1
    expected: dict = {}
    for left, right in pairs:
        for key in itertools.product(left, right):
            expected[key] = expected.get(key, 0) + 1
    assert counts == expected


def test_threads_do_not_change_a_bit():
    bitext = make_bitext(random_pairs(11, 60), 6, 6)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            links = align(bitext, AlignerOptions())
            assert torch.get_num_threads() == threads
            found.append((links.forward.tobytes(), links.backward.tobytes()))
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1]
