"""Several vocabularies on one body, over many architectures, against the models themselves."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import PreTrainedModel

from hf_vocab_extend import LanguageHeads, extend_vocabulary
from hf_vocab_extend.result import VocabExtension

from . import factories
from .language_models import EN_SIZE, SW_SIZE, heads, output_of, pair, random_ids
from .models import BODIES, DECODERS, build
from .tiny_models import MODELS, make_llama

NAMES = (
    *("bert", "roberta", "distilbert", "albert", "deberta_v2", "modernbert", "mobilebert", "rembert", "funnel"),
    *("bert_body", "xlm_roberta_body", "gpt2", "opt", "llama", "mixtral", "gemma", "gemma3", "phi", "mamba"),
    *("t5", "umt5", "bart", "m2m_100", "marian", "mllama", "t5gemma", "gemma3_multimodal"),
)
GRID = [(name, tied) for name in NAMES for tied in ((True,) if name in BODIES else (True, False))]


def with_both_tables(model: PreTrainedModel, extension: VocabExtension, base: PreTrainedModel) -> PreTrainedModel:
    """The extended model with the base's rows behind its own in every input table: the naive way to read both."""
    wide = copy.deepcopy(extension.model)
    ours, theirs = (LanguageHeads.from_model(item, extension.tokenizer).slots for item in (wide, base))
    for slot in ours.readers:
        rows = torch.cat([slot.tensor.detach(), theirs.by_name[slot.name].tensor.detach()])
        slot.module.weight = torch.nn.Parameter(rows)
    return wide


@pytest.mark.parametrize(("name", "tied"), GRID)
def test_each_language_is_its_own_model_bit_by_bit(name: str, tied: bool) -> None:
    base, tokenizer, extension = pair(name, tied)
    english, swahili = random_ids(EN_SIZE, 1), random_ids(SW_SIZE, 2)
    expected = output_of(base, english), output_of(extension.model, swahili)
    state = {key: value.clone() for key, value in base.state_dict().items()}
    config = base.config.to_dict()

    both = LanguageHeads.from_model(base, tokenizer)
    assert torch.equal(output_of(both, english), expected[0])
    both.add_language("sw", extension)
    assert torch.equal(output_of(both, english), expected[0])
    both.set_language("sw")
    assert torch.equal(output_of(both, swahili), expected[1])
    assert both.config.get_text_config().vocab_size == SW_SIZE
    both.set_language("en")
    assert torch.equal(output_of(both, english), expected[0])
    assert base.config.to_dict() == config
    assert all(torch.equal(value, state[key]) for key, value in base.state_dict().items())


@pytest.mark.parametrize(("name", "tied"), GRID)
def test_mixed_text_is_read_as_by_one_large_table(name: str, tied: bool) -> None:
    base, tokenizer, extension = pair(name, tied)
    english, swahili = random_ids(EN_SIZE, 1), random_ids(SW_SIZE, 2)
    languages = torch.tensor([[0, 0, 1, 1, 0, 1, 1], [1, 1, 0, 0, 0, 0, 0]])
    both = heads(name, tied)
    both.set_language(input="en", output="sw")
    decoder = {"decoder_input_ids": swahili} if base.config.is_encoder_decoder else {}

    ids = torch.where(languages == 0, english, swahili)
    mixed = output_of(both, ids, language_ids=languages, **decoder)

    naive = with_both_tables(base, extension, base)
    n_rows = extension.model.get_input_embeddings().weight.shape[0]
    joined = torch.where(languages == 0, english + n_rows, swahili)
    assert torch.equal(mixed, output_of(naive, joined, **decoder))
    assert mixed.shape[-1] in (SW_SIZE, 16)  # logits of the active head alone, or hidden states
    all_english = output_of(both, english, **decoder)
    assert torch.equal(all_english, output_of(naive, english + n_rows, **decoder))


@pytest.mark.parametrize("name", ["gpt2", "gemma", "bloom", "xglm", "t5", "bart", "marian", "m2m_100"])
def test_generation_is_that_of_one_large_table(name: str) -> None:
    """With its cache, generation gives what reading the whole sequence again for every token gives."""
    both = heads(name)
    both.set_language(input="en", output="sw")
    ids, languages = random_ids(SW_SIZE, 3), torch.tensor([[0, 0, 1, 1, 0, 1, 1]] * 2)
    given = {"input_ids": ids, "language_ids": languages, "attention_mask": torch.ones_like(ids)}
    both.generation_config.forced_eos_token_id = None  # BART's would end the last step
    sequences = both.generate(**given, max_new_tokens=5, min_new_tokens=5, do_sample=False)
    is_causal = name in DECODERS
    written = sequences[:, 7:] if is_causal else sequences[:, 1:]
    assert written.shape[1] == 5
    assert bool((written < SW_SIZE).all())
    if is_causal:
        assert torch.equal(sequences[:, :7], ids)

    stops = both.generation_config.eos_token_id
    for step in range(5):
        if is_causal:
            whole = torch.cat([languages, torch.ones_like(written[:, :step])], 1)
            logits = output_of(both, sequences[:, : 7 + step], language_ids=whole)[:, -1]
        else:
            decoder = sequences[:, : 1 + step]
            logits = output_of(both, ids, language_ids=languages, decoder_input_ids=decoder)[:, -1]
        banned = [] if stops is None else [stops] if isinstance(stops, int) else stops
        logits[:, banned] = -torch.inf
        assert torch.equal(logits.argmax(-1), written[:, step])


@pytest.mark.parametrize("name", list(MODELS))
def test_a_tokenizer_alone_gives_what_a_copy_extended_gives(name: str) -> None:
    model, tokenizer = MODELS[name][0]()
    new = (factories.t5_like if name == "t5" else factories.xlmr_like)(400, factories.swahili())
    expected = extend_vocabulary(copy.deepcopy(model), new, "subword", tokenizer=tokenizer, mode="replace")
    before = {key: value.clone() for key, value in model.state_dict().items()}

    both = LanguageHeads.from_model(model, tokenizer)
    both.add_language("sw", new, "subword")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    both.set_language("sw")
    ids = new(factories.swahili(2), return_tensors="pt", padding=True, truncation=True, max_length=20).input_ids
    assert torch.equal(output_of(both, ids), output_of(expected.model, ids))
    assert both.config.to_dict() == expected.model.config.to_dict()
    if both.can_generate():
        assert both.generation_config.to_dict() == expected.model.generation_config.to_dict()


def test_mode_extend_shares_the_rows_that_it_kept() -> None:
    tokenizer = factories.tokenizer("gpt2")
    model = make_llama(tokenizer, tied=True)
    both = LanguageHeads.from_model(model, tokenizer)
    both.add_language("sw", factories.gpt2_like(600, factories.swahili()), "subword", mode="extend")
    ids = tokenizer("The same text", return_tensors="pt").input_ids
    english = output_of(both, ids)
    both.set_language("sw")
    torch.testing.assert_close(output_of(both, ids)[..., : english.shape[-1]], english, rtol=0, atol=1e-6)


def test_the_clone_costs_no_memory_of_the_body() -> None:
    from hf_vocab_extend.modeling.slots import alias_clone

    model = build("llama")
    clone = alias_clone(model)
    pairs = zip(model.parameters(), clone.parameters(), strict=True)
    assert all(own is not other and own.data_ptr() == other.data_ptr() for own, other in pairs)


def test_three_languages_keep_apart() -> None:
    both = heads("llama", tied=False)
    _, _, other = pair("llama", tied=False)
    torch.nn.init.normal_(other.model.lm_head.weight)
    both.add_language("to", other)  # also the name of a method of every module
    assert both.languages == ("en", "sw", "to")
    ids = random_ids(SW_SIZE, 1)
    outputs = {}
    for name in both.languages:
        with both.using(name):
            outputs[name] = output_of(both, ids)
    assert both.output_language == "en"
    assert not torch.equal(outputs["sw"], outputs["to"])
    assert torch.equal(outputs["to"], output_of(other.model, ids))
    both.set_language(input="to", output="sw")
    both.remove_language("to")
    assert (both.languages, both.input_language, both.output_language) == (("en", "sw"), "en", "sw")
    assert not any("language_to" in key for key in both.state_dict())


def test_using_goes_back_after_an_error() -> None:
    both = heads("llama")
    with pytest.raises(RuntimeError, match="boom"), both.using("sw"):
        raise RuntimeError("boom")
    assert both.output_language == both.input_language == "en"
    assert both.config.vocab_size == EN_SIZE


def test_padding_of_any_language_is_padding() -> None:
    """RoBERTa counts positions from the padding id, so a foreign one would shift them."""
    both = heads("roberta")
    both.set_language(input="en", output="sw")
    ids = random_ids(EN_SIZE, 4)
    mask = torch.ones_like(ids)
    alone = output_of(both, ids[:, :5])
    mask[:, 5:] = 0
    padded = ids.masked_fill(mask == 0, both.tokenizers["en"].pad_token_id)
    torch.testing.assert_close(output_of(both, padded, attention_mask=mask)[:, :5], alone)
