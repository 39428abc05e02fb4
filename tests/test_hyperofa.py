"""HyperOFA: what the networks see and predict, what is learnt, determinism, and bad input."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from hf_vocab_extend import extend_vocabulary
from hf_vocab_extend.errors import InvalidOptionError, InvalidTableError, MissingResourceError, OutputFolderError
from hf_vocab_extend.methods.base import Resources
from hf_vocab_extend.methods.hypernetwork.bags import find_scales, make_batch
from hf_vocab_extend.methods.hypernetwork.base import BASES, Split
from hf_vocab_extend.methods.hypernetwork.coordinates import make_coordinates
from hf_vocab_extend.methods.hypernetwork.losses import LOSSES
from hf_vocab_extend.methods.hypernetwork.networks import NETWORKS, AttentionPooling
from hf_vocab_extend.methods.hypernetwork.training import History, predict
from hf_vocab_extend.methods.hyperofa import HyperOfa, HyperOfaConfig
from hf_vocab_extend.resources.piece_incidence import piece_incidence
from hf_vocab_extend.resources.word_vectors import make_word_vectors

from .factories import tokenizer
from .test_invariants import make_model, replacement
from .test_methods import WIDTH, make_context
from .test_wechsel import SOURCE_WORDS, TARGET_WORDS, space

WORDS = sorted({*SOURCE_WORDS, *TARGET_WORDS})
SMALL = {
    "network": "attention",
    "norms": "none",
    "hidden": 24,
    "heads": 2,
    "layers": 1,
    "train_epochs": 3,
    "held_out": 0.1,
}
STEADY = {"learning_rate": 0.01, "batch_size": 64, "augment": 0.0}
CPU = torch.device("cpu")


def fitted(seed: int = 0, words=None, **options):
    """Rows that are still to be learnt, with small networks."""
    config = HyperOfaConfig(**(SMALL | options))
    context = make_context(resources=Resources(word_vectors=words or space(WORDS, 3)), seed=seed)
    return HyperOfa(config).fit(context)


def table_of_words(rows, noise: float = 0.1) -> torch.Tensor:
    """A table that depends on the words of a token, in a way that is not linear."""
    generator = torch.Generator().manual_seed(1)
    table = torch.randn(rows.known.max() + 40, WIDTH, generator=generator)
    pooled = rows.source.pooled()
    mixing = torch.randn(pooled.shape[1], WIDTH, generator=generator)
    known = torch.tanh(2 * pooled @ mixing) + 0.5 * pooled @ mixing.flip(1) + 1
    table[torch.from_numpy(rows.known)] = known + noise * torch.randn(known.shape, generator=generator)
    return table


def test_bags_hold_the_words_of_each_token() -> None:
    words = space(WORDS, 3)
    context = make_context(resources=Resources(word_vectors=words))
    rows = HyperOfa(HyperOfaConfig(variants="two")).fit(context)
    expected: dict[int, dict[str, float]] = {}
    for word in words.words:
        cuts = [
            set(context.source_tokenizer(text, add_special_tokens=False)["input_ids"]) for text in (word, " " + word)
        ]
        total = sum(map(len, cuts))
        for cut in cuts:
            for index in cut:
                bag = expected.setdefault(index, {})
                bag[word] = bag.get(word, 0) + 1 / total
    counted = dict(zip(words.words, words.frequencies, strict=True))
    expected = {index: {word: share * counted[word] ** 0.5 for word, share in bag.items()}
                for index, bag in expected.items()}  # fmt: skip
    known = [index for index in sorted(expected) if context.trained[index]]
    assert rows.known.tolist() == known
    matrix = words.take(np.arange(len(words)))
    places = {word: place for place, word in enumerate(words.words)}
    for row in range(0, len(known), 7):
        part = slice(rows.source.offsets[row], rows.source.offsets[row + 1])
        bag = expected[known[row]]
        vectors = rows.source.table[torch.from_numpy(rows.source.words[part])].numpy()
        order = sorted(bag, key=lambda word: places[word])
        assert np.array_equal(vectors, matrix[[places[word] for word in order]])
        np.testing.assert_allclose(rows.source.shares[part], [bag[word] for word in order], rtol=1e-6)
        mean = sum(bag[word] ** 2 * matrix[places[word]] / np.linalg.norm(matrix[places[word]]) for word in order)
        np.testing.assert_allclose(rows.source.pooled()[row], mean / np.linalg.norm(mean), atol=1e-5)
    covered = piece_incidence(words, context.target_tokenizer, context.plan.target, variants="two").covered
    assert np.array_equal(rows.covered, covered[context.plan.new_ids])


def test_a_large_bag_is_cut_at_random_and_not_at_its_head() -> None:
    bags = fitted().source
    limit = 3
    large = bags.sizes > limit
    assert large.sum() > 20
    drawn = [bags.sample(np.full(len(bags), limit), torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert np.array_equal(drawn[0].words, drawn[1].words)
    assert not np.array_equal(drawn[0].words, drawn[2].words)
    heads = 0
    for row in range(len(bags)):
        whole = bags.words[bags.offsets[row] : bags.offsets[row + 1]]
        part = drawn[0].words[drawn[0].offsets[row] : drawn[0].offsets[row + 1]]
        assert len(part) == min(limit, len(whole))
        assert np.isin(part, whole).all()
        assert len(np.unique(part)) == len(part)
        heads += large[row] and np.array_equal(part, whole[:limit])
    assert heads < large.sum() / 2


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "none"])
def test_networks_do_not_depend_on_what_shares_a_batch(name: str) -> None:
    """Nor, but for the recurrent one, on the order of the words."""
    bags = fitted().source.select(np.arange(40))
    config = HyperOfaConfig(**{**SMALL, "network": name})
    torch.manual_seed(0)
    network = config.make_network(bags.table.shape[1], 3, 5).eval()
    scales = find_scales(bags, with_features=True, unit=True)
    features = scales.features(bags)
    together = predict(network, bags, scales, features, 1000, CPU)
    for row in (0, 11, 39):
        alone = predict(network, bags.select(np.array([row])), scales, features[[row]], 1000, CPU)
        torch.testing.assert_close(alone[0], together[row], atol=1e-5, rtol=1e-4)
    if name == "bilstm":
        return
    order = np.concatenate(
        [np.arange(b, a)[::-1] + 0 for b, a in zip(bags.offsets[:-1], bags.offsets[1:], strict=True)]
    )
    turned = type(bags)(bags.offsets, bags.words[order], bags.shares[order], bags.features, bags.table)
    torch.testing.assert_close(predict(network, turned, scales, features, 1000, CPU), together, atol=1e-5, rtol=1e-4)


def test_attention_begins_as_weighted_means() -> None:
    """Each head weighs words by a power of their share: 0 for the first head, 1 for the second."""
    bags = fitted().source.select(np.arange(30))
    scales = find_scales(bags, with_features=False, unit=True)
    network = HyperOfaConfig(**SMALL).make_network(bags.table.shape[1], 0, 4).eval()
    assert isinstance(network, AttentionPooling)
    seen = []
    network.first.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    network(make_batch(bags, scales, scales.features(bags), CPU))
    dim = bags.table.shape[1]
    vectors = functional.normalize(bags.table, dim=1)
    for row in range(30):
        part = slice(bags.offsets[row], bags.offsets[row + 1])
        words = vectors[torch.from_numpy(bags.words[part])]
        for power in (0, 1):
            mean = (words * torch.from_numpy(bags.shares[part])[:, None] ** power).sum(0)
            expected = functional.normalize(mean, dim=0) * dim**0.5
            found = seen[0][row, power * dim : (power + 1) * dim]
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_losses_are_what_they_are_called() -> None:
    generator = torch.Generator().manual_seed(0)
    predicted, target = torch.randn(2, 9, 5, generator=generator)
    cosines = np.array([[float(functional.cosine_similarity(a, b, dim=0)) for b in target] for a in predicted])
    scaled = np.exp(cosines / 0.25)
    contrastive = -np.mean(np.log(np.diag(scaled) / scaled.sum(1)))
    absolute = float((predicted - target).abs().mean() / target.abs().mean())
    squared = float(((predicted - target) ** 2).mean() / (target**2).mean())
    expected = {
        "contrastive": contrastive,
        "absolute": absolute,
        "published": 0.1 * contrastive + 0.9 * absolute,
        "squared": squared,
        "cosine": 1 - np.diag(cosines).mean(),
        "cosine_squared": 1 - np.diag(cosines).mean() + squared,
    }
    assert expected.keys() == LOSSES.keys()
    for name, value in expected.items():
        assert float(LOSSES[name](0.25)(predicted, target)) == pytest.approx(value, abs=1e-5)


def test_coordinates_are_those_of_the_truncated_decomposition() -> None:
    table = torch.randn(80, 10, generator=torch.Generator().manual_seed(0)) @ torch.diag(torch.arange(1.0, 11))
    left, values, right = np.linalg.svd(table.double().numpy(), full_matrices=False)
    plain = make_coordinates(table, table, None, "E")
    torch.testing.assert_close(plain.decode(plain.encode(table)), table)
    cut = make_coordinates(table, table, 4, "E")
    best = torch.from_numpy((left[:, :4] * values[:4]) @ right[:4]).float()
    torch.testing.assert_close(cut.decode(cut.encode(table)), best, atol=1e-4, rtol=1e-4)
    assert cut.decode_loss is not None
    torch.testing.assert_close(cut.encode(table) @ cut.decode_loss * cut.scale, best, atol=1e-4, rtol=1e-4)
    factor = make_coordinates(table, table, 4, "F")
    assert factor.decode_loss is not None
    found = factor.encode(table) @ factor.decode_loss
    torch.testing.assert_close(
        found.abs(), torch.from_numpy(np.abs(left[:, :4])).float() * 80**0.5, atol=1e-3, rtol=1e-3
    )


def test_ridge_regression_solves_its_equations() -> None:
    rows = fitted()
    inputs, targets = rows.source.pooled(), torch.randn(len(rows.known), 4, generator=torch.Generator().manual_seed(0))
    order = torch.arange(len(inputs))
    split = Split(inputs, targets, order[20:], order[:20])
    linear = BASES["ridge"](split, order[:0], 1, None, CPU).linear
    one, two = inputs[20:].double(), targets[20:].double()
    one, two = one - one.mean(0), two - two.mean(0)
    weights = linear.weights[:-1].double()
    gap = one.T @ (two - one @ weights)  # equals the penalty times the weights
    penalty = float((gap * weights).sum() / weights.square().sum())
    torch.testing.assert_close(gap, penalty * weights, atol=1e-3, rtol=1e-3)
    assert penalty > 0
    mean = linear(inputs[20:]).mean(0)
    torch.testing.assert_close(mean, targets[20:].mean(0), atol=1e-5, rtol=1e-4)


def test_neighbours_add_the_mean_of_what_the_ridge_leaves() -> None:
    rows = fitted()
    inputs, targets = rows.source.pooled(), torch.randn(len(rows.known), 4, generator=torch.Generator().manual_seed(0))
    order = torch.arange(len(inputs))
    split = Split(inputs, targets, order[20:], order[:20])
    base = BASES["neighbours"](split, order[20:], 5, None, CPU)
    own = np.full(len(inputs), -1)
    own[20:] = np.arange(len(inputs) - 20)
    found, shares = base(inputs, CPU, own)
    residuals = targets - base.linear(inputs)
    cosines = functional.cosine_similarity(inputs[:, None].double(), inputs[None, 20:].double(), dim=2)
    for row in (3, 19, 20, 60, len(inputs) - 1):
        near = cosines[row].clone()
        if row >= 20:
            near[row - 20] = -2  # a token is no neighbour of its own
        top = near.topk(5)
        weights = torch.softmax(top.values / base.temperature, 0).float()
        expected = base.linear(inputs[[row]])[0] + weights @ residuals[20:][top.indices]
        torch.testing.assert_close(found[row], expected, atol=2e-4, rtol=1e-3)
        assert float(shares[row]) == pytest.approx(min(1.0, float(1 - near.max()) / base.reach), abs=1e-4)


def test_what_depends_on_words_is_learnt() -> None:
    """Rows of tokens that were set aside: a line beats the mean row, and a network does where no line can."""
    scores = {}
    for name, options in {
        "mean": {"base": "mean", "network": "none"},
        "ridge": {"base": "ridge", "network": "none"},
        "neighbours": {"network": "none", "k": 5},
        "network": {"base": "ridge", "train_epochs": 15, "hidden": 64, "patience": 15, "dropout": 0.0, **STEADY},
    }.items():
        rows = fitted(**options)
        pooled = rows.source.pooled()
        table = torch.zeros(rows.known.max() + 1, 3)
        table[torch.from_numpy(rows.known)] = pooled[:, :3].abs() - pooled[:, :3].abs().mean(0)
        aside = np.arange(0, len(rows.known), 6)
        kept = np.setdiff1d(np.arange(len(rows.known)), aside)
        rows.target, rows.covered = rows.source.select(aside), np.ones(len(aside), bool)
        truth = table[torch.from_numpy(rows.known[aside])]
        rows.source, rows.known = rows.source.select(kept), rows.known[kept]
        scores[name] = float(functional.cosine_similarity(rows.rows(table), truth, dim=1).mean())
    assert scores["mean"] + 0.1 < scores["neighbours"]
    assert scores["ridge"] + 0.1 < scores["neighbours"]
    assert scores["ridge"] + 0.1 < scores["network"]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_seed_gives_the_same_bits_and_leaves_global_randomness_alone(name: str) -> None:
    options = {"network": name, "max_words": 8}
    first = fitted(**options)
    table = table_of_words(first)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with torch.no_grad():  # as where rows are placed
        rows = first.rows(table)
    assert torch.equal(torch.rand(3), expected)
    torch.manual_seed(6)
    assert torch.equal(fitted(**options).rows(table), rows)
    assert first.rows(table) is not rows
    assert torch.isfinite(rows).all()
    assert (rows[~first.covered] == 0).all()
    assert rows[first.covered].any(1).all()
    if name != "none":
        assert not torch.equal(fitted(seed=1, **options).rows(table), rows)


@pytest.mark.parametrize("loss_space", ["E", "F"])
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_trains_in_both_spaces(loss: str, loss_space: str) -> None:
    rows = fitted(loss=loss, loss_space=loss_space, base="mean", train_epochs=8, patience=8)
    table = table_of_words(rows)
    found = rows.rows(table)
    history = next(iter(rows.predictors.values())).history
    assert history.losses[-1] < history.losses[0]
    assert history.best > 0
    assert torch.isfinite(found).all()


def test_rows_of_a_rank_lie_in_the_span_of_the_first_directions() -> None:
    rows = fitted(rank=4)
    table = table_of_words(rows)
    found = rows.rows(table)[torch.from_numpy(rows.covered)].double()
    _, _, right = torch.linalg.svd(table.double(), full_matrices=False)
    torch.testing.assert_close(found @ right[:4].T @ right[:4], found, atol=1e-5, rtol=1e-4)
    assert torch.linalg.matrix_rank(found, rtol=1e-4) == 4


def test_each_table_has_a_network_of_its_own() -> None:
    rows = fitted()
    table = table_of_words(rows)
    one, other = rows.rows(table), rows.rows(-table)
    assert len(rows.predictors) == 2
    assert functional.cosine_similarity(one[rows.covered], other[rows.covered], dim=1).mean() < 0
    assert torch.equal(rows.rows(table), one)
    assert len(rows.predictors) == 2


@pytest.mark.parametrize("norms", ["each", "mean"])
def test_rows_get_the_length_of_the_source_rows(norms: str) -> None:
    plain, rows = fitted(network="none"), fitted(network="none", norms=norms)
    table = table_of_words(rows)
    wanted = table[torch.from_numpy(rows.known)].norm(dim=1).mean()
    found, before = (source.rows(table)[torch.from_numpy(source.covered)] for source in (rows, plain))
    assert found.norm(dim=1).mean() == pytest.approx(float(wanted), rel=1e-4)
    assert (found.norm(dim=1).std() < 1e-4) == (norms == "each")
    assert functional.cosine_similarity(found, before, dim=1).min() > 1 - 1e-5


def test_the_best_pass_is_kept_and_training_stops_after_it() -> None:
    rows = fitted(train_epochs=30, patience=2, learning_rate=0.5, schedule="constant")
    table = table_of_words(rows)
    rows.rows(table)
    history: History = next(iter(rows.predictors.values())).history
    assert len(history.losses) == history.best + 2 < 30
    assert history.cosines[history.best] == max(history.cosines)


def test_a_network_is_kept_and_used_for_another_vocabulary(tmp_path) -> None:
    folder = str(tmp_path / "networks")
    rows = fitted(folder=folder)
    table = table_of_words(rows)
    first = rows.rows(table)
    rows.rows(-table)
    assert len(list((tmp_path / "networks").iterdir())) == 2
    words = space(WORDS, 3)
    files = {path.name for path in (tmp_path / "networks").rglob("*.*")}
    assert files == {"hypernetwork.json", "hypernetwork.safetensors"}
    sizes = sum(path.stat().st_size for path in (tmp_path / "networks").rglob("*.safetensors"))
    assert sizes < 2 * (200_000 + 8 * len(rows.known))
    again = fitted(folder=folder, train_epochs=9, seed=4)
    assert torch.equal(again.rows(table), first)
    other = make_context("gpt2", "xlmr", resources=Resources(word_vectors=words))
    new = HyperOfa(HyperOfaConfig(folder=folder)).fit(other)
    found = new.rows(table)
    fresh = HyperOfa(HyperOfaConfig(**SMALL)).fit(other)
    fresh.predictors = new.predictors
    assert found[torch.from_numpy(new.covered)].any(1).all()
    assert next(iter(new.predictors.values())).history.losses == next(iter(rows.predictors.values())).history.losses


def test_a_network_of_another_space_rank_or_table_is_refused(tmp_path) -> None:
    folder = str(tmp_path / "networks")
    rows = fitted(folder=folder, rank=4)
    table = table_of_words(rows)
    rows.rows(table)
    with pytest.raises(InvalidTableError, match="another space of words"):
        fitted(folder=folder, rank=4, words=space(WORDS, 4))
    with pytest.raises(InvalidOptionError, match="rank 4, and rank 5 is asked for"):
        fitted(folder=folder, rank=5)
    with pytest.raises(InvalidOptionError, match="rank 4, and the full width"):
        fitted(folder=folder)
    with pytest.raises(InvalidTableError, match="another table"):
        fitted(folder=folder, rank=4).rows(table + 1)
    place = next((tmp_path / "networks").iterdir())
    (place / "hypernetwork.safetensors").write_bytes(b"short")
    with pytest.raises(InvalidTableError, match=r"cannot be read .* Remove"):
        fitted(folder=folder, rank=4).rows(table)
    facts = json.loads((place / "hypernetwork.json").read_text())
    (place / "hypernetwork.json").write_text(json.dumps(facts | {"format": 99}))
    with pytest.raises(InvalidTableError, match="format 99"):
        fitted(folder=folder, rank=4)
    (place / "hypernetwork.json").write_text("{")
    with pytest.raises(InvalidTableError, match="cannot be read"):
        fitted(folder=folder, rank=4)


def test_a_folder_of_other_things_is_refused(tmp_path) -> None:
    (tmp_path / "notes").mkdir()
    with pytest.raises(OutputFolderError, match="'notes', which is no hypernetwork"):
        fitted(folder=str(tmp_path))
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(OutputFolderError, match="is a file"):
        fitted(folder=str(file))


def test_an_interrupted_training_leaves_nothing_behind(tmp_path, monkeypatch) -> None:
    rows = fitted(folder=str(tmp_path / "networks"))
    table = table_of_words(rows)

    def interrupt(self, batch):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(AttentionPooling, "forward", interrupt)
        with pytest.raises(KeyboardInterrupt):
            rows.rows(table)
    assert not (tmp_path / "networks").exists()
    assert torch.isfinite(rows.rows(table)).all()


def test_too_few_known_tokens_are_refused() -> None:
    words = make_word_vectors(["\u3042", "\u3044"], np.eye(2, dtype=np.float32))
    with pytest.raises(InvalidTableError, match=r"hold \d of the 700 source tokens"):
        fitted(words=words, variants="one")


def test_a_rank_beyond_the_table_is_refused_and_that_of_the_model_is_cut() -> None:
    rows = fitted(rank=WIDTH + 1)
    with pytest.raises(InvalidOptionError, match="rank"):
        rows.rows(table_of_words(rows))
    rows = fitted(network="none")
    rows.rank = WIDTH + 1
    assert torch.isfinite(rows.rows(table_of_words(rows))).all()


@pytest.mark.parametrize(
    "options",
    [
        {"network": "mlp"},
        {"base": "knn"},
        {"loss": "l1"},
        {"loss_space": "G"},
        {"norms": "unit"},
        {"temperature": 0.0},
        {"schedule": "cosine"},
        {"variants": "all"},
        {"rank": 0},
        {"k": 0},
        {"hidden": 0},
        {"train_epochs": 0},
        {"learning_rate": 0.0},
        {"weight_decay": -1.0},
        {"held_out": 0.0},
        {"held_out": 0.9},
        {"augment": 1.5},
        {"dropout": 1.0},
        {"contrast": 0.0},
        {"max_words": 0},
    ],
)
def test_values_out_of_range_are_refused(options: dict) -> None:
    with pytest.raises(InvalidOptionError, match=next(iter(options))):
        HyperOfaConfig(**options)


def test_heads_that_do_not_divide_the_words_are_refused_before_any_work() -> None:
    with pytest.raises(InvalidOptionError, match="heads"):
        fitted(network="setformer", heads=5)  # the words have 6 dimensions


def test_words_are_needed() -> None:
    model = make_model("bert-cased", True)
    with pytest.raises(MissingResourceError, match="word_vectors"):
        extend_vocabulary(model, replacement("gpt2"), "hyperofa", tokenizer=tokenizer("bert-cased"))


def test_the_report_is_told_how_many_tokens_are_predicted_and_from_how_many() -> None:
    context = make_context(resources=Resources(word_vectors=space(WORDS, 3)), seed=0)
    rows = HyperOfa(HyperOfaConfig(**SMALL)).fit(context)
    (note,) = context.notes
    assert f"{rows.covered.sum()} of {len(rows.covered)} new tokens" in note
    assert f"from {len(rows.known)} source tokens" in note


def test_published_settings() -> None:
    config = HyperOfaConfig.package("setformer", train_epochs=1)
    assert (config.network, config.loss, config.loss_space, config.base) == ("setformer", "published", "F", "mean")
    network = HyperOfaConfig.package().make_network(200, 0, 100)
    n_weights = sum(value.numel() for value in network.parameters())
    assert n_weights == pytest.approx(22.1e6, rel=0.01)  # that of RoBERTa, rank 100, in the report
    network = HyperOfaConfig.package("setformer").make_network(200, 0, 100)
    assert sum(value.numel() for value in network.parameters()) == pytest.approx(22e6, rel=0.05)
    assert HyperOfaConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


_PROCESSES = """
import os, sys
import torch
torch.set_num_threads(1)
from tests.test_hyperofa import fitted, table_of_words
rows = fitted(folder=sys.argv[1], base="mean", train_epochs=4, batch_size=64)
found = rows.rows(table_of_words(rows))
torch.save(found, os.path.join(sys.argv[2], os.environ["RANK"] + ".pt"))
"""


@pytest.mark.slow
def test_two_processes_train_one_network(tmp_path) -> None:
    script = tmp_path / "run.py"
    script.write_text(_PROCESSES)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", port]
    command += [str(script), str(tmp_path / "net"), str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert torch.equal(one, two)
    assert len([path for path in (tmp_path / "net").iterdir() if not path.name.startswith(".")]) == 1
