"""Segments in and out, labels, and generation with what users switch on."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional
from transformers import LogitsProcessorList, NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

from hf_vocab_extend import LanguageHeads
from hf_vocab_extend.errors import InvalidOptionError

from .language_models import EN_SIZE, SW_SIZE, english_and_swahili, heads, output_of, random_ids


@pytest.fixture(scope="module")
def llama() -> LanguageHeads:
    return english_and_swahili()


def test_segments_are_cut_by_their_own_tokenizers(llama: LanguageHeads) -> None:
    english, swahili = (llama.tokenizers[name] for name in ("en", "sw"))
    batch = llama.encode([("en", "Read this: "), ("sw", "watu wote"), ("en", " now")])
    parts = [english("Read this: ").input_ids]
    parts += [tokenizer(text, add_special_tokens=False).input_ids for tokenizer, text in ((swahili, "watu wote"),)]
    parts += [english(" now", add_special_tokens=False).input_ids]
    assert batch["input_ids"].tolist() == [sum(parts, [])]
    assert batch["language_ids"].tolist() == [[0] * len(parts[0]) + [1] * len(parts[1]) + [0] * len(parts[2])]
    assert bool(batch["attention_mask"].all())


@pytest.mark.parametrize(
    ("segments", "first", "last"),
    [
        ([("en", "one")], 700, None),
        ([("sw", "watu")], 0, 2),
        ([("sw", "watu"), ("en", "one")], 0, None),
        ([("en", "one"), ("sw", "watu")], 700, 2),
        ([("sw", "watu"), ("sw", "wote")], 0, 2),
    ],
)
def test_special_tokens_stand_as_in_one_text(
    llama: LanguageHeads, segments: list[tuple[str, str]], first: int, last: int | None
) -> None:
    ids = llama.encode(segments)["input_ids"][0].tolist()
    specials = {"en": set(llama.tokenizers["en"].all_special_ids), "sw": {0, 2}}
    assert ids[0] == first
    assert (ids[-1] == last) if last is not None else (ids[-1] not in specials["en"])
    assert not {0, 1, 2, 700} & set(ids[1:-1])
    assert llama.encode(segments, special_tokens=False)["input_ids"][0].tolist() == [
        index for name, text in segments for index in llama.tokenizers[name](text, add_special_tokens=False).input_ids
    ]


def test_plain_strings_are_of_the_input_language(llama: LanguageHeads) -> None:
    assert torch.equal(llama.encode("some words")["input_ids"], llama.encode([("en", "some words")])["input_ids"])
    with llama.using(input="sw"):
        batch = llama.encode(["watu wote", "watu"])
        expected = llama.tokenizers["sw"](
            ["watu wote", "watu"], padding=True, return_tensors="pt", padding_side="left"
        )
        assert torch.equal(batch["input_ids"], expected["input_ids"])
        assert torch.equal(batch["attention_mask"], expected["attention_mask"])
        assert bool((batch["language_ids"] == 1).all())


def test_decode_gives_back_what_encode_took(llama: LanguageHeads) -> None:
    prompts = [[("en", "Read this:"), ("sw", "watu wote"), ("en", " now")], [("sw", "habari")]]
    batch = llama.encode(prompts)
    decoded = llama.decode(batch["input_ids"], batch["language_ids"], attention_mask=batch["attention_mask"])
    assert decoded == [[(name, text) for name, text in prompt] for prompt in prompts]


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding(llama: LanguageHeads, side: str) -> None:
    batch = llama.encode([[("en", "one two three")], [("sw", "watu")]], padding_side=side, labels=True)
    longest, shortest = (int(row.sum()) for row in batch["attention_mask"])
    padded = slice(0, longest - shortest) if side == "left" else slice(shortest, None)
    assert batch["attention_mask"][1, padded].sum() == 0
    assert set(batch["input_ids"][1, padded].tolist()) == {llama.tokenizers["sw"].pad_token_id}
    assert set(batch["labels"][1, padded].tolist()) == {-100}
    kept = batch["attention_mask"].bool()
    assert torch.equal(batch["labels"][kept], batch["input_ids"][kept])


@pytest.mark.parametrize("prompt", [[("fr", "le mot")], [[("en", "a"), ("fr", "le mot")]]])
def test_a_segment_of_no_language(llama: LanguageHeads, prompt: list) -> None:
    with pytest.raises(InvalidOptionError, match=r"'fr', which is not here\. Languages: en, sw"):
        llama.encode(prompt)


@pytest.mark.parametrize("prompt", [[[]], [[("en",)]], [[("en", 3)]], [], [["en text", "more"]]])
def test_what_is_no_prompt(llama: LanguageHeads, prompt: list) -> None:
    with pytest.raises(InvalidOptionError, match="segment|nothing to encode"):
        llama.encode(prompt)


def test_ids_out_of_range_are_not_read_as_another_language() -> None:
    both = heads("llama")
    ids, languages = random_ids(SW_SIZE, 1), torch.ones(2, 7, dtype=torch.long)
    ids[1, 3] = SW_SIZE
    with pytest.raises(InvalidOptionError, match=rf"holds {SW_SIZE} for 'sw', whose table has {SW_SIZE} rows"):
        both(ids, language_ids=languages)
    with pytest.raises(InvalidOptionError, match="language_ids holds 2, and there are 2 languages: en 0, sw 1"):
        both(ids, language_ids=languages + 1)
    with pytest.raises(InvalidOptionError, match="shape"):
        both(ids, language_ids=languages[:, :3])


# Labels


def test_labels_of_other_languages_are_masked() -> None:
    both = heads("llama", tied=False)
    both.set_language(input="en", output="sw")
    ids, languages = random_ids(SW_SIZE, 1), torch.tensor([[0, 0, 1, 1, 0, 1, 1], [0, 1, 0, 0, 0, 0, 0]])
    output = both(ids, language_ids=languages, labels=ids)
    labels = ids.masked_fill(languages == 0, -100)
    expected = functional.cross_entropy(output.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    torch.testing.assert_close(output.loss, expected)
    assert output.logits.shape == (2, 7, SW_SIZE)


def test_a_batch_without_the_output_language_teaches_nothing() -> None:
    both = heads("llama")
    both.set_language(input="en", output="sw")
    ids, languages = random_ids(EN_SIZE, 1), torch.zeros(2, 7, dtype=torch.long)
    languages[:, 0] = 1  # a causal model predicts no first token
    loss = both(ids.clamp(max=SW_SIZE - 1), language_ids=languages, labels=ids).loss
    loss.backward()
    assert loss.item() == 0
    assert all(not parameter.grad.any() for parameter in both.parameters() if parameter.grad is not None)
    with pytest.raises(InvalidOptionError, match="all would be masked"):
        both(ids, labels=ids)


def test_labels_of_one_language_are_those_of_its_model() -> None:
    both = heads("llama")
    ids = random_ids(EN_SIZE, 1)
    assert torch.equal(both(ids, labels=ids).loss, both.model(input_ids=ids, labels=ids).loss)


def test_encoder_reads_one_language_and_decoder_writes_another() -> None:
    both = heads("bart")
    both.set_language(input="en", output="sw")
    source, target = random_ids(EN_SIZE, 1), random_ids(SW_SIZE, 2)
    output = both(source, labels=target)
    start = torch.full((2, 1), both.config.decoder_start_token_id)
    logits = output_of(both, source, decoder_input_ids=torch.cat([start, target[:, :-1]], 1))
    torch.testing.assert_close(output.logits, logits)
    torch.testing.assert_close(output.loss, functional.cross_entropy(logits.flatten(0, 1), target.flatten()))


def test_masked_model_predicts_the_output_language() -> None:
    both = heads("bert")
    both.set_language(input="en", output="sw")
    ids, languages = random_ids(SW_SIZE, 1), torch.tensor([[0, 0, 1, 1, 0, 1, 1]] * 2)
    output = both(ids, language_ids=languages, labels=ids)
    chosen = languages == 1
    torch.testing.assert_close(output.loss, functional.cross_entropy(output.logits[chosen], ids[chosen]))


def test_gradients_reach_the_active_tables_alone() -> None:
    both = heads("llama", tied=False)
    both.set_language(input="sw", output="sw")
    ids = random_ids(SW_SIZE, 1)
    both(ids, labels=ids).loss.backward()
    assert all(parameter.grad is None for parameter in both.language_parameters("en"))
    assert all(parameter.grad is not None for parameter in both.language_parameters("sw"))

    both.zero_grad(set_to_none=True)
    both.set_language(input="en", output="sw")
    languages = torch.tensor([[0, 0, 0, 1, 1, 1, 1]] * 2)
    both(ids, language_ids=languages, labels=ids).loss.backward()
    english = {name: tensor.grad for name, tensor in both._language("en").tensors.named().items()}
    assert english["lm_head.weight"] is None
    touched = english["model.embed_tokens.weight"].abs().sum(1).nonzero().flatten().tolist()
    assert touched == sorted(set(ids[:, :3].flatten().tolist()))


def test_the_padding_row_of_each_language_keeps_no_gradient() -> None:
    both = heads("bert", tied=False)
    both.set_language(input="en", output="sw")
    for name, padding in (("en", 9), ("sw", 11)):
        both._language(name).settings["modules", "bert.embeddings.word_embeddings", "padding_idx"] = padding
    ids, languages = torch.tensor([[9, 11, 9, 11]]), torch.tensor([[0, 0, 1, 1]])
    both(ids, language_ids=languages).logits.sum().backward()
    table = "bert.embeddings.word_embeddings.weight"
    grads = {name: both._language(name).tensors.by_slot()[table].grad for name in ("en", "sw")}
    reached = {name: grad.abs().sum(1).nonzero().flatten().tolist() for name, grad in grads.items()}
    assert reached == {"en": [11], "sw": [9]}


# Generation


def test_a_batch_writes_what_each_prompt_alone_writes(llama: LanguageHeads) -> None:
    prompts = [[("en", "Read this:"), ("sw", "watu wote")], [("en", "The")], [("sw", "habari ya")]]
    together = llama.encode(prompts, special_tokens=False)
    written = llama.generate(**together, max_new_tokens=6, do_sample=False)[:, together["input_ids"].shape[1] :]
    for prompt, row in zip(prompts, written, strict=True):
        alone = llama.encode(prompt, special_tokens=False)
        single = llama.generate(**alone, max_new_tokens=6, do_sample=False)[0, alone["input_ids"].shape[1] :]
        assert torch.equal(row[: len(single)], single)


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_ids_without_languages_are_of_the_input_language(name: str) -> None:
    both = heads(name)
    both.set_language(input="en", output="sw")
    ids = random_ids(EN_SIZE, 1)
    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 4, "do_sample": False}
    explicit = both.generate(ids, language_ids=torch.zeros_like(ids), **options)
    assert torch.equal(both.generate(ids, **options), explicit)
    if name == "llama":
        assert torch.equal(explicit[:, :7], ids)


def test_processors_see_every_prompt_token_apart() -> None:
    """A penalty falls on the tokens of the output language alone, also where another language has the same id."""
    both = heads("llama", tied=False)
    both.set_language(input="en", output="sw")
    ids, languages = random_ids(SW_SIZE, 5), torch.tensor([[0, 0, 1, 1, 0, 1, 1]] * 2)
    given = {"input_ids": ids, "language_ids": languages, "attention_mask": torch.ones_like(ids)}
    options = {"repetition_penalty": 5.0, "no_repeat_ngram_size": 2, "do_sample": False, "min_new_tokens": 6}
    written = both.generate(**given, **options, max_new_tokens=6)[:, 7:]

    processors = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(5.0), NoRepeatNGramLogitsProcessor(2)])
    for row in range(2):
        joined = torch.where(languages[row] == 1, ids[row], ids[row] + SW_SIZE)[None]
        plain, marks = ids[row : row + 1], languages[row : row + 1]
        for expected in written[row]:
            scores = output_of(both, plain, language_ids=marks)[:, -1]
            wide = processors(joined, functional.pad(scores, (0, EN_SIZE), value=-torch.inf))[0, :SW_SIZE]
            wide[both.generation_config.eos_token_id] = -torch.inf
            chosen = wide.argmax()
            assert chosen == expected
            joined, plain = (torch.cat([item, chosen.view(1, 1)], 1) for item in (joined, plain))
            marks = torch.cat([marks, torch.ones(1, 1, dtype=torch.long)], 1)


@pytest.mark.parametrize("name", ["llama", "bart"])
@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 3, "num_return_sequences": 2},
        {"do_sample": True, "top_p": 0.9, "typical_p": 0.9, "eta_cutoff": 1e-3, "epsilon_cutoff": 1e-3},
        {"do_sample": True, "num_return_sequences": 3, "min_p": 0.01, "temperature": 2.0},
        {"do_sample": False, "encoder_repetition_penalty": 1.3, "bad_words_ids": [[7], [8, 9]]},
        {"do_sample": False, "use_cache": False, "suppress_tokens": [6], "renormalize_logits": True},
    ],
)
def test_what_users_switch_on_stays_within_the_output_language(name: str, options: dict) -> None:
    both = heads(name, tied=False)
    both.set_language(input="en", output="sw")
    ids, languages = random_ids(SW_SIZE, 5), torch.tensor([[0, 0, 1, 1, 0, 1, 1]] * 2)
    torch.manual_seed(0)
    result = both.generate(
        ids,
        torch.ones_like(ids),
        languages,
        max_new_tokens=8,
        return_dict_in_generate=True,
        output_scores=True,
        output_logits=True,
        **options,
    )
    returned = options.get("num_return_sequences", 1)
    assert len(result.sequences) == 2 * returned
    assert bool((result.sequences < SW_SIZE).all())
    assert {step.shape[-1] for step in (*result.scores, *result.logits)} == {SW_SIZE}
    if name == "llama":
        assert torch.equal(result.sequences[:, :7], ids.repeat_interleave(returned, 0))
    assert "forward" not in vars(both.slots.readers[0].module)
    assert not both.model._forward_hooks


def test_a_failure_inside_leaves_the_model_as_it_was() -> None:
    both = heads("llama")
    both.set_language(input="en", output="sw")
    ids = random_ids(EN_SIZE, 1)
    with pytest.raises(TypeError):
        both(ids, position_ids="nonsense")
    with pytest.raises(ValueError, match="nonsense"):
        both.generate(ids, nonsense=True)
    assert "forward" not in vars(both.slots.readers[0].module)
    assert not both.model._forward_hooks
    assert both.slots.readers[0].tensor.shape[0] == SW_SIZE
