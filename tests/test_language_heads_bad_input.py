"""What language heads refuse, and that nothing is changed by it."""

from __future__ import annotations

import copy

import pytest
import torch

from hf_vocab_extend import LanguageHeads, extend_vocabulary
from hf_vocab_extend.errors import BaseModelMismatchError, InvalidOptionError, UnsupportedModelError

from . import factories
from .language_models import EN_SIZE, SW_SIZE, heads, output_of, pair, random_ids, word_tokenizer
from .tiny_models import make_llama


@pytest.mark.parametrize("arguments", [{"language": "fr"}, {"input": "fr"}, {"output": "fr"}])
def test_an_unknown_language_names_those_that_are_here(arguments: dict[str, str]) -> None:
    both = heads("llama")
    both.set_language(input="en", output="sw")
    with pytest.raises(InvalidOptionError, match=r"no language 'fr' here\. Languages: en, sw"):
        both.set_language(**arguments)
    assert (both.input_language, both.output_language) == ("en", "sw")


@pytest.mark.parametrize("call", ["remove_language", "language_parameters", "push_language", "save_language"])
def test_every_call_names_the_languages(call: str) -> None:
    arguments = ("fr",) if call in ("remove_language", "language_parameters") else ("fr", "somewhere")
    with pytest.raises(InvalidOptionError, match="Languages: en, sw"):
        getattr(heads("llama"), call)(*arguments)


def test_two_languages_under_one_name() -> None:
    _, _, extension = pair("llama")
    both = heads("llama")
    for name in ("en", "sw"):
        with pytest.raises(InvalidOptionError, match=f"a language '{name}' already"):
            both.add_language(name, extension)


@pytest.mark.parametrize("name", ["", "a/b", "..", "s w", "a.b", None, 3, "x" * 65])
def test_what_cannot_name_a_folder_cannot_name_a_language(name: object) -> None:
    base, tokenizer, extension = pair("llama")
    with pytest.raises(InvalidOptionError, match="cannot name a language"):
        LanguageHeads.from_model(base, tokenizer, name)
    with pytest.raises(InvalidOptionError, match="cannot name a language"):
        LanguageHeads.from_model(base, tokenizer).add_language(name, extension)


def test_the_base_language_stays() -> None:
    with pytest.raises(InvalidOptionError, match="model's own language"):
        heads("llama").remove_language("en")


def test_an_extension_of_the_very_model_is_refused() -> None:
    tokenizer = factories.tokenizer("gpt2")
    model = make_llama(tokenizer)
    both = LanguageHeads.from_model(model, tokenizer)
    extension = extend_vocabulary(model, factories.gpt2_like(600, factories.swahili()), "mean", tokenizer=tokenizer)
    with pytest.raises(InvalidOptionError, match="the very model that holds the base language"):
        both.add_language("sw", extension)


def test_another_width_is_another_model() -> None:
    base, tokenizer, _ = pair("llama")
    _, _, extension = pair("llama")
    config = copy.deepcopy(extension.model.config)
    config.hidden_size = 32
    extension.model = type(base)(config)
    with pytest.raises(BaseModelMismatchError, match=r"rows of width 32, this model's have 16"):
        LanguageHeads.from_model(base, tokenizer).add_language("sw", extension)


def test_another_architecture_is_another_model() -> None:
    base, tokenizer, _ = pair("llama")
    _, _, extension = pair("gpt2")
    with pytest.raises(BaseModelMismatchError, match="made for another model: '.*' is extra"):
        LanguageHeads.from_model(base, tokenizer).add_language("sw", extension)


def test_another_body_is_refused_unless_asked_for() -> None:
    base, tokenizer, extension = pair("llama")
    with torch.no_grad():
        extension.model.model.norm.weight[3] += 0.5
    both = LanguageHeads.from_model(base, tokenizer)
    with pytest.raises(BaseModelMismatchError, match="allow_other_body=True"):
        both.add_language("sw", extension)
    assert both.languages == ("en",)
    with pytest.warns(UserWarning, match="other values"):
        both.add_language("sw", extension, allow_other_body=True)
    assert both.languages == ("en", "sw")


def test_another_depth_is_never_accepted() -> None:
    base, tokenizer, extension = pair("llama")
    config = copy.deepcopy(extension.model.config)
    config.num_hidden_layers = 2
    config.layer_types = None
    extension.model = type(base)(config)
    with pytest.raises(BaseModelMismatchError, match="another architecture"):
        LanguageHeads.from_model(base, tokenizer).add_language("sw", extension, allow_other_body=True)


def test_the_body_is_the_same_in_any_type() -> None:
    base, tokenizer, extension = pair("llama")
    extension.model.to(torch.bfloat16)
    both = LanguageHeads.from_model(base, tokenizer)
    both.add_language("sw", extension)
    both.set_language("sw")
    assert both.dtype == both.slots.by_name["lm_head.weight"].tensor.dtype == torch.float32


def test_tables_for_each_layer_read_one_language_at_a_time() -> None:
    both = heads("gemma3n_text")
    both.set_language(input="en", output="sw")
    with pytest.raises(UnsupportedModelError, match=r"'model\.embed_tokens_per_layer\.weight' beside its input table"):
        both(random_ids(EN_SIZE, 1))
    both.set_language("sw")
    _, _, extension = pair("gemma3n_text")
    ids = random_ids(SW_SIZE - 5, 1)
    assert torch.equal(output_of(both, ids), output_of(extension.model, ids))


def test_positions_that_would_move_are_refused_before_any_work() -> None:
    both = heads("roberta")
    new = word_tokenizer(50, "fi", {"pad": 7})
    with pytest.raises(UnsupportedModelError, match="positions .* count from the padding id 1 .* is 7"):
        both.add_language("fi", new, "mean")
    assert both.languages == ("en", "sw")


def test_names_and_options_in_the_wrong_place() -> None:
    base, tokenizer, extension = pair("llama")
    both = LanguageHeads.from_model(base, tokenizer)
    with pytest.raises(InvalidOptionError, match="load_language"):
        both.add_language("sw", "some/folder")
    with pytest.raises(InvalidOptionError, match="go with a tokenizer"):
        both.add_language("sw", extension, seed=3)
    with pytest.raises(InvalidOptionError, match="Load it first"):
        LanguageHeads.from_model("some/model", tokenizer)
    with pytest.raises(UnsupportedModelError, match="not a transformers model"):
        LanguageHeads.from_model(torch.nn.Linear(2, 2), tokenizer)
