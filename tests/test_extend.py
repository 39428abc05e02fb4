"""The one call: choice of method, overrides, and bad input that leaves everything as it was."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch

from hf_vocab_extend import errors, extend_tokenizer, extend_vocabulary, list_methods, register_method
from hf_vocab_extend.errors import VocabExtendWarning
from hf_vocab_extend.mapping import RowKind, TokenMapping
from hf_vocab_extend.methods import METHODS, resolve_method
from hf_vocab_extend.methods.base import FitContext, InitMethod, Resources
from hf_vocab_extend.methods.mixture import Mixture
from hf_vocab_extend.prepare import choose_method

from .factories import gpt2_like, swahili, tokenizer
from .test_invariants import NEW_TOKENS, grown, make_model, method_arguments, replacement, run

NAME = "bert-uncased"


def extend(model=None, target=None, **arguments):
    """Extend a small BERT with defaults that work."""
    arguments = {"method": "subword", "tokenizer": tokenizer(NAME), **arguments}
    return extend_vocabulary(
        model if model is not None else make_model(NAME, True), target or grown(NAME), **arguments
    )


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        ({}, "subword"),
        ({"corpus": ["watu"]}, "focus"),
        ({"token_vectors": {"watu": [1.0]}, "corpus": ["watu"]}, "focus"),
        ({"dictionary": [("people", "watu")], "corpus": ["watu"]}, "trans_tokenization"),
        ({"word_vectors": {"people": [1.0], "watu": [1.0]}}, "ofa"),
        ({"word_vectors": "folder-of-languages"}, "ofa"),
        ({"word_vectors": ("en.vec", "sw.vec"), "dictionary": [("people", "watu")]}, "wechsel"),
        ({"word_vectors": {"source": "en.vec", "target": "sw.vec"}}, "wechsel"),
        ({"parallel": [("people", "watu")], "word_vectors": ("en.vec", "sw.vec")}, "trans_tokenization"),
    ],
)
def test_auto_goes_by_what_was_brought(given: dict, chosen: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert choose_method("auto", Resources(**given))[0].name == chosen


def test_auto_says_what_it_chose_and_why() -> None:
    extension = extend(method="auto")
    assert extension.report.method == "subword"
    assert extension.report.method_reason
    vectors = method_arguments("focus", grown(NAME))["token_vectors"]
    extension = extend(method="auto", token_vectors=vectors)
    assert extension.report.method == "focus"
    assert "token vectors" in extension.report.method_reason


def test_extending_again_by_the_old_tokenizer_warns_of_the_rows_that_it_overwrites() -> None:
    model = make_model(NAME, True)
    first = extend(model)
    with pytest.warns(VocabExtendWarning, match="taken for padding and written over"):
        extend(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        extend(model, tokenizer=first.tokenizer)


def test_a_tokenizer_that_did_not_grow_from_the_source_is_merged_in() -> None:
    model = make_model(NAME, True)
    old = model.get_input_embeddings().weight.detach().clone()
    extension = extend(model, replacement(NAME))
    vocab = extension.tokenizer.get_vocab()
    assert all(vocab[token] == index for token, index in tokenizer(NAME).get_vocab().items())
    assert len(vocab) > len(tokenizer(NAME))
    assert torch.equal(model.get_input_embeddings().weight[: len(old)], old)


def test_sources_override_any_method() -> None:
    target = grown(NAME)
    first, second = (target.convert_ids_to_tokens(len(target) - offset) for offset in (1, 2))
    for method in ("subword", "mean", "normal"):
        extension = extend(method=method, sources={first: [("the", 0.75), ("and", 0.25)], second: "of"})
        table, source = extension.model.get_input_embeddings().weight, tokenizer(NAME)
        the, and_, of = (table[source.convert_tokens_to_ids(word)] for word in ("the", "and", "of"))
        torch.testing.assert_close(table[len(target) - 1], 0.75 * the + 0.25 * and_)
        assert torch.equal(table[len(target) - 2], of)
        assert extension.mapping.explain(first).kind is RowKind.OVERRIDE
        assert extension.report.counts_by_kind["override"] == 2


def test_corpus_gives_fertility_and_coverage() -> None:
    report = extend(corpus=swahili(200)).report
    assert report.fertility_after["tokens_per_word"] < report.fertility_before["tokens_per_word"]
    assert sum(report.coverage.values()) == pytest.approx(1.0)
    assert report.coverage["method"] > 0.1


def test_pad_to_multiple_of() -> None:
    extension = extend(pad_to_multiple_of=64)
    assert extension.model.get_input_embeddings().weight.shape[0] % 64 == 0
    assert extension.model.config.vocab_size % 64 == 0


def test_mapping_survives_saving(tmp_path) -> None:
    mapping = extend().mapping
    mapping.save(tmp_path / "mapping.safetensors")
    loaded = TokenMapping.load(tmp_path / "mapping.safetensors")
    token = grown(NAME).convert_ids_to_tokens(len(grown(NAME)) - 3)
    assert loaded.explain(token) == mapping.explain(token)
    assert loaded.counts() == mapping.counts()
    whole = (tmp_path / "mapping.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(errors.InvalidTableError, match="cut.safetensors"):
        TokenMapping.load(tmp_path / "cut.safetensors")


def test_a_registered_method_is_used_and_what_it_leaves_open_is_counted() -> None:
    class FirstOnly(InitMethod):
        name, pretty_name, summary = "first-only", "First only", "Covers one token."

        def fit(self, context: FitContext) -> Mixture:
            rows: list[list[tuple[int, float]]] = [[] for _ in context.plan.new_ids]
            rows[0] = [(9, 1.0)]
            return Mixture.from_lists(rows, n_source=context.n_source)

    try:
        register_method(FirstOnly)
        assert "first-only" in list_methods()
        counts = extend(method="first-only").report.counts_by_kind
        assert counts["method"] == 1
        assert counts["fallback"] == NEW_TOKENS - 1
    finally:
        METHODS.pop("first-only", None)


BAD = {
    "unknown method": ({"method": "focsu"}, errors.UnknownMethodError, "Did you mean 'focus'"),
    "unknown mode": ({"mode": "append"}, errors.InvalidOptionError, "extend"),
    "unknown fallback": ({"fallback": "zeros"}, errors.InvalidOptionError, "subword"),
    "bad multiple": ({"pad_to_multiple_of": 0}, errors.InvalidOptionError, "at least 1"),
    "bad seed": ({"seed": -1}, errors.InvalidOptionError, "seed"),
    "missing resource": ({"method": "focus"}, errors.MissingResourceError, "corpus="),
    "empty corpus": ({"corpus": []}, errors.CorpusError, "empty|no "),
    "another model's tokenizer": (lambda: {"tokenizer": gpt2_like(300)}, errors.TokenizerMismatchError, "belong|grow"),
    "more tokens than rows": (lambda: {"tokenizer": grown(NAME)}, errors.TokenizerMismatchError, r"\d+"),
    "unknown source token": ({"sources": {"nosuchtoken": "the"}}, errors.InvalidOptionError, "nosuchtoken"),
    "override of an old row": ({"sources": {"the": "of"}}, errors.InvalidOptionError, "already"),
    "override with NaN": (
        {"sources": {"##ika": [("the", float("nan"))]}},
        errors.InvalidOptionError,
        "finite|no token",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_error_and_changes_nothing(case: str) -> None:
    arguments, error, message = BAD[case]
    arguments = arguments() if callable(arguments) else arguments
    model = make_model(NAME, True)
    state, config = copy.deepcopy(model.state_dict()), model.config.to_dict()
    with pytest.raises(error, match=message):
        extend(model, **arguments)
    assert model.config.to_dict() == config
    for key, value in state.items():
        assert torch.equal(model.state_dict()[key], value), key


def test_what_the_method_makes_no_use_of_is_said() -> None:
    with pytest.warns(errors.VocabExtendWarning, match="no use of parallel"):
        extend(parallel=[("house", "nyumba")])


def test_no_source_tokenizer_to_be_found() -> None:
    with pytest.raises(errors.MissingResourceError, match="tokenizer="):
        extend_vocabulary(make_model(NAME, True), grown(NAME), "subword")


def test_nan_in_the_source_table_is_refused_by_name() -> None:
    model = make_model("gpt2", True)
    with torch.no_grad():
        model.get_input_embeddings().weight[5, 3] = float("nan")
    with pytest.raises(errors.InvalidTableError, match="wte"):
        extend_vocabulary(model, grown("gpt2"), "subword", tokenizer=tokenizer("gpt2"))


def test_a_method_that_fails_leaves_the_model_as_it_was() -> None:
    class Broken(InitMethod):
        name, pretty_name, summary = "broken", "Broken", "Gives NaN."

        def fit(self, context: FitContext):
            class Rows:
                import numpy as np

                covered = np.ones(len(context.plan.new_ids), bool)

                def rows(self, table):
                    return torch.full((len(context.plan.new_ids), table.shape[1]), float("nan"))

            return Rows()

    model = make_model("llama2", False)
    state, config = copy.deepcopy(model.state_dict()), model.config.to_dict()
    with pytest.raises(errors.InvalidTableError, match="NaN"):
        extend_vocabulary(model, grown("llama2"), Broken(), tokenizer=tokenizer("llama2"))
    assert model.config.to_dict() == config
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_unknown_option_suggests_the_nearest() -> None:
    from hf_vocab_extend.methods.focus import FocusConfig

    with pytest.raises(errors.InvalidOptionError, match="Did you mean 'epochs'"):
        FocusConfig.from_dict({"epoch": 3})
    with pytest.raises(errors.InvalidOptionError):
        resolve_method("focus").__class__(resolve_method("normal").config)


def test_a_row_of_zeros_is_refused() -> None:
    token = grown(NAME).convert_ids_to_tokens(len(grown(NAME)) - 1)
    for pairs in ([("the", 0.0)], [("the", 1.0), ("the", -1.0)], []):
        with pytest.raises(errors.InvalidOptionError, match="nothing"):
            extend(sources={token: pairs})


def test_a_name_where_a_loaded_object_is_needed() -> None:
    with pytest.raises(errors.InvalidOptionError, match="AutoModel.from_pretrained"):
        extend_vocabulary("some/model", grown(NAME), "subword")
    with pytest.raises(errors.InvalidOptionError, match="AutoTokenizer.from_pretrained"):
        extend_vocabulary(make_model(NAME, True), "some/tokenizer", "subword")


def test_one_language_is_one_language() -> None:
    assert extend(languages="sw").report.languages == ("sw",)
    assert extend(languages=["sw", "ha"]).report.languages == ("sw", "ha")


def test_given_vectors_are_spoken_of() -> None:
    extension = extend(**method_arguments("focus", grown(NAME)))
    assert any("given by the caller" in note for note in extension.report.notes)


def test_explain_takes_the_ids_of_an_array() -> None:
    import numpy as np

    mapping = extend().mapping
    last = np.int64(len(mapping.tokens) - 1)
    assert mapping.explain(last) == mapping.explain(int(last))


@pytest.mark.parametrize("mode", ["extend", "replace"])
def test_clip_goes_on_pooling_at_its_end_of_text(mode: str) -> None:
    own = tokenizer("clip")
    model = make_model("clip", True)
    for module in [model.config, *(item for item in model.modules() if hasattr(item, "eos_token_id"))]:
        module.eos_token_id = 2  # what the published checkpoints say; their code then pools at the highest id
    before = copy.deepcopy(model)
    target = grown("clip") if mode == "extend" else replacement("clip")
    extend_vocabulary(model, target, "subword", tokenizer=own, mode=mode)
    assert model.config.eos_token_id == target.eos_token_id
    if mode == "extend":
        new = len(own)  # an id above that of the end of text
        middle = [own.bos_token_id, 40, new, own.eos_token_id]
        states = model.text_model(torch.tensor([middle])).last_hidden_state
        torch.testing.assert_close(model(torch.tensor([middle])).text_embeds, model.text_projection(states[:, 3]))
        plain = torch.tensor([[own.bos_token_id, 40, 41, own.eos_token_id]])
        torch.testing.assert_close(model(plain).text_embeds, before(plain).text_embeds)


def test_languages_that_a_class_switches_in_code_are_spoken_of() -> None:
    from hf_vocab_extend.vocab.backend import read_json, rebuild

    class Switching(type(tokenizer("xlmr"))):
        src_lang = "eng_Latn"

        def set_src_lang_special_tokens(self, language):
            raise NotImplementedError

    own = copy.deepcopy(tokenizer("xlmr"))
    own.__class__ = Switching
    with pytest.warns(errors.VocabExtendWarning, match="Switching switches languages.*eng_Latn"):
        rebuild(own, read_json(own))


def test_order_of_the_target_vocabulary_does_not_matter() -> None:
    from hf_vocab_extend.vocab.backend import read_json, rebuild

    data = read_json(grown(NAME))
    data["model"]["vocab"] = dict(reversed(data["model"]["vocab"].items()))
    shuffled = rebuild(grown(NAME), data)
    _, first, _ = run(NAME, "subword", True, "extend")
    second = extend(target=shuffled)
    assert torch.equal(first.model.get_input_embeddings().weight, second.model.get_input_embeddings().weight)


def test_extending_twice_keeps_what_the_first_call_made() -> None:
    first = extend()
    table = first.model.get_input_embeddings().weight.detach().clone()
    again = extend_tokenizer(first.tokenizer, swahili(), 40)
    second = extend_vocabulary(first.model, again, "subword", tokenizer=first.tokenizer)
    assert torch.equal(second.model.get_input_embeddings().weight[: len(table)], table)
    assert second.report.sizes["new_tokens"] == 40
