"""The methods that need nothing: mean, normal, subword, and the pieces that subword stands on."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from tokenizers import AddedToken

from hf_vocab_extend.errors import InvalidOptionError, InvalidTableError, MissingResourceError
from hf_vocab_extend.methods import get_method_class, list_methods, resolve_method
from hf_vocab_extend.methods.base import FitContext, Resources, RowSource
from hf_vocab_extend.methods.mean import Mean, MeanRows
from hf_vocab_extend.methods.mixture import Mixture
from hf_vocab_extend.methods.normal import Normal, NormalConfig, NormalRows
from hf_vocab_extend.methods.segmentation import segment
from hf_vocab_extend.methods.subword import WEIGHTS, Subword, SubwordConfig
from hf_vocab_extend.plan import build_plan
from hf_vocab_extend.vocab.canonical import Family, TokenKind, canonicalise

from .factories import TOKENIZERS, gpt2_like, swahili, tokenizer

WIDTH = 12


@functools.cache
def target(name: str):
    """A tokenizer of a family for Swahili."""
    return TOKENIZERS[name](lines=swahili())


def make_context(
    source_name: str = "gpt2", target_name: str = "bert-cased", seed: int = 0, resources: Resources | None = None
) -> FitContext:
    """Replace one tokenizer by another; two source rows are marked as never trained."""
    plan = build_plan(tokenizer(source_name), target(target_name), mode="replace")
    trained = np.ones(plan.n_source, bool)
    trained[[5, 40]] = False
    return FitContext(
        plan=plan,
        source_tokenizer=tokenizer(source_name),
        target_tokenizer=target(target_name),
        resources=resources or Resources(),
        generator=torch.Generator().manual_seed(seed),
        trained=trained,
        device=torch.device("cpu"),
    )


def make_table(context: FitContext, width: int = WIDTH, seed: int = 1) -> torch.Tensor:
    """A correlated table whose untrained rows would show in any mean."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator)
    table = torch.randn(context.n_source, width, generator=generator) @ mixing + 3
    table[~torch.from_numpy(context.trained)] = 1e4
    return table


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [1, WIDTH])
@pytest.mark.parametrize("name", ["mean", "normal", "subword"])
def test_rows_have_the_promised_shape(name: str, width: int, dtype: torch.dtype) -> None:
    context = make_context()
    source = get_method_class(name)().fit(context)
    rows = source.rows(make_table(context, width).to(dtype))
    assert isinstance(source, RowSource)
    assert rows.dtype == torch.float32
    assert rows.shape == (len(context.plan.new_ids), width)
    assert len(source.covered) == len(context.plan.new_ids)
    assert torch.isfinite(rows).all()
    assert rows.abs().max() < 1e3  # no untrained row got in
    assert (rows[~source.covered] == 0).all()


def test_mean_is_that_of_the_trained_rows() -> None:
    context = make_context()
    table = make_table(context)
    rows = Mean().fit(context).rows(table)
    expected = table[torch.from_numpy(context.trained)].double().mean(0).float()
    assert torch.equal(rows, expected.expand_as(rows))


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_normal_has_the_mean_and_covariance_of_the_trained_rows(scale: float, diagonal: bool) -> None:
    context = make_context()
    table = make_table(context)
    source = Normal(NormalConfig(scale=scale, diagonal=diagonal)).fit(context)
    many = type(source)(np.ones(200_000, bool), source.trained, source.seed, source.config)
    drawn = many.rows(table).double()
    trained = table[torch.from_numpy(context.trained)].double()
    covariance = torch.cov(trained.T) * scale**2
    if diagonal:
        covariance = torch.diag(covariance.diagonal())
    size = covariance.diagonal().max()
    assert (drawn.mean(0) - trained.mean(0)).abs().max() < 0.02 * size.sqrt()
    assert (torch.cov(drawn.T) - covariance).abs().max() < 0.02 * size
    kurtosis = ((drawn - drawn.mean(0)) / drawn.std(0)).pow(4).mean(0)
    assert (kurtosis - 3).abs().max() < 0.1


def test_normal_with_fewer_rows_than_columns_stays_in_their_span() -> None:
    context = make_context()
    trained = np.zeros(context.n_source, bool)
    trained[10:14] = True
    table = make_table(context)
    source = Normal().fit(context)
    drawn = type(source)(np.ones(500, bool), trained, source.seed, source.config).rows(table)
    basis = (table[10:14] - table[10:14].mean(0)).double()
    outside = (drawn - table[10:14].mean(0)).double()
    outside = outside - torch.linalg.lstsq(basis.T, outside.T).solution.T @ basis
    assert outside.abs().max() < 1e-4 * basis.abs().max()
    assert drawn.std(0).min() > 0


def test_normal_differs_by_table_and_seed_and_not_by_order_or_global_state() -> None:
    first, second = make_context(), make_context()
    tables = make_table(first), make_table(first, seed=2)
    source = Normal().fit(first)
    forwards = [source.rows(table) for table in tables]
    torch.manual_seed(123)
    again = Normal().fit(second)
    backwards = [again.rows(table) for table in reversed(tables)][::-1]
    assert all(torch.equal(left, right) for left, right in zip(forwards, backwards, strict=True))
    noise = [
        rows - table[torch.from_numpy(first.trained)].mean(0) for rows, table in zip(forwards, tables, strict=True)
    ]
    correlation = torch.corrcoef(torch.stack([part.flatten() for part in noise]))[0, 1]
    assert correlation.abs() < 0.1
    assert not torch.equal(Normal().fit(make_context(seed=1)).rows(tables[0]), forwards[0])
    assert not torch.equal(forwards[0][0], forwards[0][1])


@pytest.mark.parametrize("options", [{}, {"diagonal": True}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_normal_and_mean_do_not_depend_on_the_number_of_threads(dtype: torch.dtype, options: dict) -> None:
    table = torch.randn(40_000, 160, generator=torch.Generator().manual_seed(4)).to(dtype)
    every = np.ones(len(table), bool)
    sources = (NormalRows(np.ones(5000, bool), every, 1, NormalConfig(**options)), MeanRows(np.ones(2, bool), every))
    expected = [source.rows(table) for source in sources]
    threads = torch.get_num_threads()
    for count in (1, 3):
        torch.set_num_threads(count)
        try:
            found = [source.rows(table) for source in sources]
        finally:
            torch.set_num_threads(threads)
        assert all(torch.equal(left, right) for left, right in zip(found, expected, strict=True))


def test_normal_without_scale_is_the_mean() -> None:
    context = make_context()
    table = make_table(context)
    flat = Normal(NormalConfig(scale=0.0)).fit(context).rows(table)
    torch.testing.assert_close(flat, Mean().fit(context).rows(table), atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("name", ["mean", "normal"])
def test_no_trained_row_is_an_error(name: str) -> None:
    context = make_context()
    context.trained[:] = False
    with pytest.raises(InvalidTableError, match="0 of"):
        get_method_class(name)().fit(context)


PAIRS = [
    pytest.param(source, goal, id=f"{source}-{goal}")
    for source in TOKENIZERS
    for goal in ("gpt2", "llama2", "xlmr", "bert-cased", "clip")
]


@pytest.mark.parametrize(("source_name", "target_name"), PAIRS)
def test_pieces_join_to_the_token(source_name: str, target_name: str) -> None:
    source_tokenizer = tokenizer(source_name)
    source, goal = canonicalise(source_tokenizer), canonicalise(target(target_name))
    ids = np.arange(len(goal))
    pieces = segment(source_tokenizer, source, goal, ids)
    normalizer = source_tokenizer.backend_tokenizer.normalizer
    spelled = 0
    for index in ids.tolist():
        own = pieces.of(index)
        if goal.kinds[index] not in (TokenKind.NORMAL, TokenKind.BYTE):
            assert own == []
            continue
        assert all(source.kinds[piece] in (TokenKind.NORMAL, TokenKind.BYTE) for piece in own)
        if not own:
            continue
        spelled += 1
        joined = b"".join(source.raw[piece] for piece in own).replace(b" ", b"")
        try:
            text = goal.raw[index].decode()
        except UnicodeDecodeError:
            assert joined == goal.raw[index].replace(b" ", b"")
            continue
        normal = normalizer.normalize_str(text) if normalizer is not None else text
        assert joined in (text.replace(" ", "").encode(), normal.replace("\u2581", "").replace(" ", "").encode())
    usable = np.isin(goal.kinds, (TokenKind.NORMAL, TokenKind.BYTE))
    assert spelled > 0.6 * usable.sum()


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_source_token_is_its_own_piece(name: str) -> None:
    """Also inside a word: ``##ing`` is not cut like ``ing``, nor ``Ġthe`` like ``the``."""
    vocab = canonicalise(tokenizer(name))
    usable = np.flatnonzero(vocab.kinds == TokenKind.NORMAL)
    pieces = segment(tokenizer(name), vocab, vocab, usable)
    same = [pieces.of(place) == [index] for place, index in enumerate(usable.tolist())]
    cut = [vocab.tokens[index] for place, index in enumerate(usable.tolist()) if not same[place]]
    assert np.mean(same) > (0.5 if name in ("xlmr", "t5") else 0.95), cut


def test_word_start_is_kept() -> None:
    for name, marked in (("gpt2", "\u0120"), ("llama2", "\u2581"), ("xlmr", "\u2581")):
        vocab = canonicalise(tokenizer(name))
        goal = canonicalise(target(name))
        ids = {token: index for index, token in enumerate(goal.tokens)}
        pairs = [
            (ids[token], ids[marked + token]) for token in ids if token and token.isalpha() and marked + token in ids
        ]
        assert len(pairs) > 5
        flat = np.asarray(pairs).flatten()
        pieces = segment(tokenizer(name), vocab, goal, flat)
        for place in range(0, len(flat), 2):
            inside, start = pieces.of(place), pieces.of(place + 1)
            assert inside != start
            assert (vocab.tokens[start[0]] or "").startswith(marked)
            assert not (vocab.tokens[inside[0]] or "").startswith(marked)


def test_partial_characters_go_through_bytes() -> None:
    for name in ("gpt2", "llama2", "gemma"):
        source = canonicalise(tokenizer(name))
        goal = canonicalise(gpt2_like(400, ["\u0b95\u0bbe \u0b95\u0bbf \u0b95\u0bc0"] * 50))
        partial = [
            index
            for index in range(len(goal))
            if goal.kinds[index] == TokenKind.NORMAL and goal.text(index) is None and len(goal.raw[index]) > 1
        ]
        assert partial
        pieces = segment(tokenizer(name), source, goal, partial)
        for place, index in enumerate(partial):
            assert b"".join(source.raw[piece] for piece in pieces.of(place)) == goal.raw[index]
    source = canonicalise(tokenizer("xlmr"))  # no bytes to fall back on
    assert len(segment(tokenizer("xlmr"), source, goal, partial).ids) == 0


def test_lower_casing_of_the_source_applies() -> None:
    source = canonicalise(tokenizer("bert-uncased"))
    goal = canonicalise(target("bert-cased"))
    upper = next(index for index, token in enumerate(goal.tokens) if token and token[0].isupper() and token.isalpha())
    pieces = segment(tokenizer("bert-uncased"), source, goal, [upper]).of(0)
    assert b"".join(source.raw[piece] for piece in pieces).decode() == (goal.text(upper) or "").lower()


def test_unknown_text_has_no_pieces() -> None:
    source = canonicalise(tokenizer("bert-cased"))
    grown = TOKENIZERS["gpt2"](lines=swahili())
    grown.add_tokens([AddedToken("\u13a0\u13a1", normalized=False)])
    grown.add_special_tokens({"pad_token": "<|pad|>"})
    goal = canonicalise(grown)
    assert len(segment(tokenizer("bert-cased"), source, goal, [len(goal) - 2, len(goal) - 1]).ids) == 0


@pytest.mark.parametrize("weights", sorted(WEIGHTS))
def test_subword_weights(weights: str) -> None:
    context = make_context("gpt2", "bert-cased")
    mixture = Subword(SubwordConfig(weights=weights, decay=0.25)).fit(context)
    pieces = segment(tokenizer("gpt2"), context.plan.source, context.plan.target, context.plan.new_ids)
    raw = context.plan.source.raw
    checked = 0
    for row in range(mixture.n_rows):
        own = [piece for piece in pieces.of(row) if context.trained[piece]]
        naive = {
            "mean": [1.0] * len(own),
            "length": [float(len(raw[piece])) for piece in own],
            "first": [1.0] + [0.0] * (len(own) - 1),
            "last": [0.0] * (len(own) - 1) + [1.0],
            "position": [0.25**place for place in range(len(own))],
        }[weights]
        expected: dict[int, float] = {}
        for piece, weight in zip(own, naive, strict=False):
            expected[piece] = expected.get(piece, 0.0) + weight / sum(naive)
        found = dict(mixture.row(row))
        assert found == pytest.approx({piece: weight for piece, weight in expected.items() if weight})
        checked += len(own) > 2
    assert checked > 20


def test_decay_above_one_favours_the_last_piece() -> None:
    context = make_context("gpt2", "bert-cased")
    falling = Subword(SubwordConfig(weights="position", decay=0.5)).fit(context)
    rising = Subword(SubwordConfig(weights="position", decay=2.0)).fit(context)
    pieces = segment(tokenizer("gpt2"), context.plan.source, context.plan.target, context.plan.new_ids)
    row = next(row for row in range(falling.n_rows) if len(set(pieces.of(row))) == len(pieces.of(row)) == 3)
    first, _, last = pieces.of(row)
    assert dict(falling.row(row))[first] == pytest.approx(dict(rising.row(row))[last]) == pytest.approx(4 / 7)


def test_pieces_that_were_never_trained_get_no_weight() -> None:
    context = make_context("gpt2", "bert-cased")
    used = np.unique(Subword().fit(context).columns)
    assert not set(used.tolist()) & {5, 40}
    context.trained[used] = False
    mixture = Subword().fit(context)
    assert not mixture.covered.any()


def test_options_are_checked() -> None:
    for config, options in (
        (SubwordConfig, {"weights": "median"}),
        (SubwordConfig, {"decay": 0.0}),
        (NormalConfig, {"scale": -1.0}),
    ):
        with pytest.raises(InvalidOptionError):
            config(**options)
    with pytest.raises(InvalidOptionError, match="Did you mean 'weights'"):
        SubwordConfig.from_dict({"weigths": "mean"})
    with pytest.raises(InvalidOptionError, match="SubwordConfig"):
        Subword(NormalConfig())


@pytest.mark.parametrize("name", list_methods())
def test_every_method_describes_itself(name: str) -> None:
    method = get_method_class(name)
    assert method.name == name
    assert method.summary.endswith(".")
    config = method.config_class()
    assert method.config_class.from_dict(config.to_dict()) == config
    assert type(resolve_method(config)) is method
    if method.needs:
        with pytest.raises(MissingResourceError, match=f"'{name}' needs"):
            method().check_resources(Resources())


def test_subword_is_a_mixture_over_all_source_rows() -> None:
    context = make_context()
    mixture = Subword().fit(context)
    assert isinstance(mixture, Mixture)
    assert mixture.n_source == context.n_source
    assert context.plan.source.family is Family.BYTE_BPE
    assert mixture.covered.mean() > 0.9
