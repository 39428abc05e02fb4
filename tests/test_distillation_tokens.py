"""Token distillation: places that read the same text, snippets, what moves and what never does, bad input."""

from __future__ import annotations

import copy

import pytest
import torch

from hf_vocab_extend import distill_tokens, extend_vocabulary
from hf_vocab_extend.adaptation.distillation import tokens as module
from hf_vocab_extend.adaptation.distillation.aligned import aligned_positions
from hf_vocab_extend.adaptation.distillation.snippets import encode, find_snippets
from hf_vocab_extend.adaptation.rows import new_row_ids
from hf_vocab_extend.errors import (
    BaseModelMismatchError,
    CorpusError,
    InvalidOptionError,
    InvalidTableError,
    MissingResourceError,
    TokenizerMismatchError,
    UnsupportedModelError,
)
from hf_vocab_extend.report import ExtensionReport

from .distilling import MODES, assert_same, base_model, extended, frozen_state, grown
from .factories import swahili, tokenizer
from .tiny_models import make_llama, make_t5

TEXT = swahili(120)
FEW = {"steps": 6, "batch_size": 8, "max_snippets": 60, "learning_rate": 1e-2}
FAMILIES = ["gpt2", "llama3", "llama2", "gemma", "xlmr", "bert-uncased"]


def naive_pairs(ours, theirs, is_new, causal):
    """Every pair of text tokens with no text left between them, found by comparing all with all."""
    first = is_new.index(True)
    pairs = []
    for i, (start, end) in enumerate(ours.offsets):
        for j, (other_start, other_end) in enumerate(theirs.offsets):
            if ours.special[i] or theirs.special[j] or end != other_end or end <= start or other_end <= other_start:
                continue
            later = any(item[1] == end and item[1] > item[0] for item in ours.offsets[i + 1 :])
            later |= any(item[1] == end and item[1] > item[0] for item in theirs.offsets[j + 1 :])
            if not later and (not causal or i >= first):
                pairs.append((i, j))
    return pairs


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("causal", [True, False])
def test_places_are_those_of_a_comparison_of_all_with_all(family: str, causal: bool) -> None:
    target, source = grown(family), tokenizer(family)
    texts = [*TEXT[:8], "kuna\u00e9 \U0001f600 watu  wengi", "  mtu "]
    n_old = max(source.get_vocab().values())
    seen = new = 0
    for ours, theirs in zip(encode(target, texts), encode(source, texts), strict=True):
        is_new = [token > n_old for token in ours.ids]
        found = aligned_positions(ours, theirs, is_new, causal=causal)
        if not any(is_new):
            assert found == []
            continue
        text_pairs = [pair for pair in found if not ours.special[pair[0]]]
        assert text_pairs == naive_pairs(ours, theirs, is_new, causal)
        assert all(ours.special[i] == theirs.special[j] for i, j in found)
        for i, j in text_pairs:  # both have read the same text
            assert ours.offsets[i][1] == theirs.offsets[j][1]
        if causal:
            assert min(i for i, _ in found) >= is_new.index(True)
        seen += sum(is_new[i] for i, _ in text_pairs)
        new += sum(is_new)
    assert seen > 0.6 * new > 5  # not all: source tokens may run over the end of a new one


def test_special_tokens_are_paired_where_the_model_reads_both_ways() -> None:
    ours, theirs = encode(grown("bert-uncased"), [TEXT[0]])[0], encode(tokenizer("bert-uncased"), [TEXT[0]])[0]
    is_new = [token >= 508 for token in ours.ids]
    both = aligned_positions(ours, theirs, is_new, causal=False)
    assert (0, 0) in both
    assert (len(ours.ids) - 1, len(theirs.ids) - 1) in both
    assert (0, 0) not in aligned_positions(ours, theirs, is_new, causal=True)


def test_snippets_are_short_hold_new_tokens_and_are_counted() -> None:
    target, source = grown("llama3"), tokenizer("llama3")
    ids = torch.arange(max(source.get_vocab().values()) + 1, max(target.get_vocab().values()) + 1)
    found = find_snippets(TEXT, target, source, ids, per_token=3, length=12, causal=True)
    new = set(ids.tolist())
    assert all(len(item.student) <= 12 + 3 for item in found.items)  # a cut text can be cut otherwise, and bos
    assert all(new & set(item.student) for item in found.items)
    naive = torch.tensor([sum(token in item.student for item in found.items) for token in ids.tolist()])
    assert torch.equal(found.counts, naive)
    summary = found.summary()
    assert sum(summary[f"tokens_{key}"] for key in ("with_all_snippets", "with_fewer", "without")) == len(ids)
    for item in found.items[:20]:
        assert all(i < len(item.student) and j < len(item.teacher) for i, j in item.pairs)
    assert len(find_snippets(TEXT, target, source, ids, per_token=3, length=12, causal=True, limit=7).items) == 7


@pytest.mark.parametrize(("case", "mode"), MODES)
def test_new_rows_move_and_nothing_else(case: str, mode: str) -> None:
    extension, base, own = extended(case, mode)
    before, old_base = frozen_state(extension), copy.deepcopy(base.state_dict())
    ids = new_row_ids(extension)
    start = extension.model.get_input_embeddings().weight.detach()[ids].clone()
    kinds = extension.report.counts_by_kind
    assert distill_tokens(extension, base if mode == "replace" else None, TEXT, tokenizer=own, **FEW) is extension
    assert_same(before, frozen_state(extension))
    assert_same(old_base, base.state_dict())
    said = extension.report.distillations[-1]
    assert said["method"] == "tokens"
    assert extension.report.counts_by_kind == kinds
    moved = (extension.model.get_input_embeddings().weight[ids] != start).any(1)
    assert said["rows"] == int(extension.mapping.distilled.sum())
    assert bool(moved.any()) == (said["kept_step"] > 0)
    if case != "llama":  # there a row of the head may have moved alone
        assert ids[moved].tolist() == extension.mapping.distilled.nonzero()[0].tolist()


def test_states_come_nearer_to_those_of_the_source_pieces() -> None:
    extension, _, own = extended("llama tied")
    options = FEW | {"steps": 24, "next_token": False}
    said = distill_tokens(extension, None, TEXT, tokenizer=own, **options).report.distillations[-1]
    assert said["held_out_after"]["states"] > 0.9 * said["held_out_before"]["states"]
    assert set(said["held_out_after"]) == {"states"}


def test_a_head_of_its_own_learns_from_the_text_and_a_shared_one_moves_along() -> None:
    extension, _, own = extended("llama")
    ids = new_row_ids(extension)
    head = extension.model.lm_head.weight.detach()[ids].clone()
    said = distill_tokens(extension, None, TEXT, tokenizer=own, **FEW | {"next_token": False}).report.distillations[-1]
    assert said["kept_step"] > 0
    assert not torch.equal(extension.model.lm_head.weight[ids], head)
    assert said["held_out_after"]["text"] > said["held_out_before"]["text"]


def test_the_same_seed_gives_the_same_rows_whatever_the_global_state() -> None:
    rows = []
    for seed, noise in ((1, 5), (1, 6), (2, 5)):
        torch.manual_seed(noise)
        extension, _, own = extended("bert")
        torch.manual_seed(noise)
        state = torch.get_rng_state()
        distill_tokens(extension, None, TEXT, tokenizer=own, seed=seed, **FEW)
        assert torch.equal(torch.get_rng_state(), state)
        rows.append(extension.model.get_input_embeddings().weight.detach())
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])


def test_an_interrupt_leaves_everything_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    extension, _, own = extended("llama")
    model = extension.model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report, mapping = extension.report, extension.mapping

    def interrupt(*args: object, **options: object) -> float:
        if interrupt.left == 0:
            raise KeyboardInterrupt
        interrupt.left -= 1
        return original(*args, **options)

    interrupt.left = 3
    original = module.Matching.backward
    monkeypatch.setattr(module.Matching, "backward", interrupt)
    with pytest.raises(KeyboardInterrupt):
        distill_tokens(extension, None, TEXT, tokenizer=own, **FEW)
    assert_same(before, dict(model.state_dict()))
    assert (extension.report, extension.mapping) == (report, mapping)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model.training


def test_the_report_and_the_mapping_say_so_after_saving(tmp_path) -> None:
    extension, _, own = extended("bert without head")
    distill_tokens(extension, None, TEXT, tokenizer=own, **FEW | {"steps": 20})
    assert extension.report.distillations[-1]["kept_step"] > 0
    extension.save_pretrained(tmp_path / "out", verify=False)
    again = ExtensionReport.from_json((tmp_path / "out" / "vocab_extension.json").read_text("utf-8"))
    assert again.distillations == extension.report.distillations
    mapping = type(extension.mapping).load(tmp_path / "out" / "vocab_mapping.safetensors")
    moved = int(mapping.distilled.nonzero()[0][0])
    assert "then distilled" in str(mapping.explain(moved))
    assert "distilled" not in str(mapping.explain(10))
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "refined by distillation; nothing else of the model was trained" in card
    assert "## Distillation" in card
    assert "distilled:" in str(again)


def refused(error: type[Exception], match: str, extension, *args: object, **options: object) -> None:
    """Check that a call fails before any change."""
    before = {name: tensor.clone() for name, tensor in extension.model.state_dict().items()}
    report = extension.report
    with pytest.raises(error, match=match):
        distill_tokens(extension, *args, **FEW | options)
    assert_same(before, dict(extension.model.state_dict()))
    assert extension.report is report


def test_bad_input_is_refused_with_the_remedy() -> None:
    extension, base, own = extended("llama")
    refused(CorpusError, "Pass corpus=", extension, None, tokenizer=own)
    refused(CorpusError, "None of the 60 new tokens", extension, None, ["+ + +", "1 2 3"], tokenizer=own)
    refused(TokenizerMismatchError, "source model", extension, None, TEXT, tokenizer=extension.tokenizer)
    refused(MissingResourceError, "tokenizer=", extension, None, TEXT)
    refused(InvalidOptionError, "layer 7", extension, base, TEXT, tokenizer=own, target_layer=7)
    refused(InvalidOptionError, "batch_size is 0", extension, None, TEXT, tokenizer=own, batch_size=0)
    refused(InvalidOptionError, "learning_rate", extension, None, TEXT, tokenizer=own, learning_rate=float("nan"))
    wider = make_llama(own)
    wider.config.hidden_size = 32
    refused(BaseModelMismatchError, "width 32", extension, wider, TEXT, tokenizer=own)


def test_what_cannot_be_distilled_is_refused() -> None:
    replaced = extended("llama", "replace")[0]
    refused(MissingResourceError, "untouched model", replaced, None, TEXT, tokenizer=tokenizer("llama3"))
    trained, _, own = extended("llama tied")
    trained.report = trained.report.with_training({"steps": 1})
    refused(MissingResourceError, "was trained", trained, None, TEXT, tokenizer=own)
    same = extend_vocabulary(base_model("llama"), tokenizer("llama3"), "subword", tokenizer=tokenizer("llama3"))
    refused(InvalidOptionError, "no new row", same, None, TEXT, tokenizer=tokenizer("llama3"))
    t5 = extend_vocabulary(make_t5(tokenizer("t5")), grown("t5"), "subword", tokenizer=tokenizer("t5"))
    refused(UnsupportedModelError, "encoder-decoder", t5, None, TEXT, tokenizer=tokenizer("t5"))
    broken = extended("bert")[0]
    with torch.no_grad():
        broken.model.get_input_embeddings().weight[int(new_row_ids(broken)[0]), 0] = torch.nan
    with pytest.raises(InvalidTableError, match="NaN|finite"):
        distill_tokens(broken, None, TEXT, tokenizer=tokenizer("bert-uncased"), **FEW)
