"""Language heads that are trained: on a toy language pair, beside an adapter, and by ``Trainer``."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path

import peft
import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Trainer, TrainingArguments

from hf_vocab_extend import LanguageHeads
from hf_vocab_extend.errors import InvalidOptionError, UnsupportedModelError

from .language_models import SW_SIZE, heads, output_of, random_ids, word_tokenizer

WORDS, LENGTH = 16, 3
ENGLISH, SWAHILI = (word_tokenizer(WORDS + 4, name, {"pad": 0, "eos": 1}) for name in ("en", "sw"))
"""Words 3 ... 18 of either language; ``en2`` asks for a repetition, and ``sw``'s words are English's in reverse."""


pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated"),  # peft asks for it
]


def translation(word: int) -> int:
    return WORDS + 5 - word


def sentences(n: int, seed: int) -> torch.Tensor:
    return torch.randint(3, WORDS + 3, (n, LENGTH), generator=torch.Generator().manual_seed(seed))


@cache
def english_model() -> LlamaForCausalLM:
    """A model that repeats: ``a b c en2`` is followed by ``a b c``. It knows English only."""
    config = LlamaConfig(
        vocab_size=WORDS + 4,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for step in range(250):
        words = sentences(64, step)
        ids = torch.cat([words, torch.full((64, 1), 2), words, torch.ones(64, 1, dtype=torch.long)], 1)
        labels = ids.clone()
        labels[:, :LENGTH] = -100
        loss = model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05, "the toy model did not learn"
    return model.eval()


def with_swahili(model: LlamaForCausalLM) -> LanguageHeads:
    both = LanguageHeads.from_model(model, ENGLISH)
    both.add_language("sw", SWAHILI, "mean", fallback="mean")
    return both


def pairs(n: int, seed: int) -> list[list[tuple[str, str]]]:
    """English, then the same in Swahili."""
    return [
        [
            ("en", " ".join(f"en{word}" for word in [*row, 2])),
            ("sw", " ".join(f"sw{translation(word)}" for word in row) + " <sw-eos>"),
        ]
        for row in sentences(n, seed).tolist()
    ]


@cache
def trained() -> tuple[LanguageHeads, dict[str, torch.Tensor]]:
    """The model with Swahili tables trained by ``Trainer``, all else frozen; and the state of the untouched model."""
    model = copy.deepcopy(english_model())
    untouched = {name: value.clone() for name, value in model.state_dict().items()}
    both = with_swahili(model)
    both.set_language(input="en", output="sw")
    both.freeze_body(train=["sw"])
    rows = []
    for pair in pairs(512, 99):
        batch = both.encode([pair], labels=True)
        rows.append({name: value[0].tolist() for name, value in batch.items()})
    arguments = TrainingArguments(
        output_dir="unused",
        num_train_epochs=15,
        per_device_train_batch_size=64,
        learning_rate=3e-2,
        lr_scheduler_type="linear",
        weight_decay=0.0,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        seed=0,
    )
    Trainer(model=both, args=arguments, train_dataset=rows, data_collator=both.collate).train()
    return both.eval(), untouched


def written(both: LanguageHeads, prompts: list[list[tuple[str, str]]]) -> list[str]:
    batch = both.encode(prompts)
    sequences = both.generate(**batch, max_new_tokens=LENGTH + 1, do_sample=False)
    decoded = both.decode(sequences[:, batch["input_ids"].shape[1] :])
    return [dict(segments)["sw"] for segments in decoded]


def test_english_prompt_in_swahili_out() -> None:
    both, _ = trained()
    asked = pairs(200, 12345)
    answers = written(both, [pair[:1] for pair in asked])
    right = sum(answer == pair[1][1].removesuffix(" <sw-eos>") for answer, pair in zip(answers, asked, strict=True))
    assert right >= 190, (right, answers[:3], asked[:3])


def test_base_language_is_bitwise_the_untouched_model() -> None:
    both, untouched = trained()
    ids = sentences(8, 7)
    reference = english_model()
    with both.using("en"):
        assert torch.equal(output_of(both, ids), output_of(reference, ids))
        assert all(torch.equal(value, untouched[name]) for name, value in both.model.state_dict().items())
        options = {"max_new_tokens": 4, "do_sample": False, "attention_mask": torch.ones_like(ids)}
        assert torch.equal(both.generate(ids, **options), reference.generate(ids, **options))
    assert both.output_language == "sw"


def test_trainer_saves_and_loads_a_checkpoint(tmp_path: Path) -> None:
    both = with_swahili(copy.deepcopy(english_model()))
    both.set_language("sw")
    both.freeze_body(train=["sw"])
    rows = [{"input_ids": row, "labels": row} for row in sentences(16, 1).tolist()]
    options = {"report_to": [], "disable_tqdm": True, "use_cpu": True, "seed": 0}
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=2, save_steps=2, eval_strategy="steps", eval_steps=2, **options
    )
    trainer = Trainer(
        model=both,
        args=arguments,
        train_dataset=rows,
        eval_dataset=rows,
        data_collator=both.collate,
        processing_class=SWAHILI,
    )
    trainer.train()
    assert trainer.evaluate()["eval_loss"] > 0
    fresh = with_swahili(copy.deepcopy(english_model()))
    fresh.set_language("sw")
    again = Trainer(model=fresh, args=TrainingArguments(output_dir=str(tmp_path), **options))
    again._load_from_checkpoint(str(tmp_path / "checkpoint-2"))
    for name, value in both.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], value), name
    assert torch.equal(output_of(fresh, sentences(2, 2)), output_of(both, sentences(2, 2)))


def test_freezing_the_body() -> None:
    both = heads("llama", tied=False)
    both.freeze_body()
    tables = {id(parameter) for name in both.languages for parameter in both.language_parameters(name)}
    assert all(parameter.requires_grad == (id(parameter) in tables) for parameter in both.parameters())
    both.freeze_body(train=["sw"])
    assert [p.requires_grad for p in both.language_parameters("en")] == [False, False]
    assert [p.requires_grad for p in both.language_parameters("sw")] == [True, True]
    with pytest.raises(InvalidOptionError, match="Languages: en, sw"):
        both.freeze_body(train=["fr"])
    assert [p.requires_grad for p in both.language_parameters("sw")] == [True, True]


def lora(both: LanguageHeads, **options: object) -> peft.PeftModel:
    config = peft.LoraConfig(target_modules=["q_proj", "v_proj"], r=4, **options)
    return peft.get_peft_model(both.model, config)


def train_a_little(both: LanguageHeads, steps: int = 5) -> None:
    optimizer = torch.optim.AdamW([p for p in both.parameters() if p.requires_grad], lr=1e-2)
    for step in range(steps):
        batch = both.encode(pairs(16, step), labels=True)
        loss = both(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def test_a_lora_adapter_works_beside_the_heads(tmp_path: Path) -> None:
    both = with_swahili(copy.deepcopy(english_model()))
    both.set_language(input="en", output="sw")
    tables = {name: value.clone() for name, value in both.vocabularies.state_dict().items()}
    body = both._fingerprint()
    adapted = lora(both)
    for name in both.languages:
        for parameter in both.language_parameters(name):
            parameter.requires_grad_(False)
    prompt = both.encode(pairs(4, 3))
    before = both(**prompt).logits
    train_a_little(both)
    after = both(**prompt).logits.detach()
    assert not torch.allclose(before, after)
    assert all(torch.equal(value, tables[name]) for name, value in both.vocabularies.state_dict().items())
    assert both._fingerprint() == body

    adapted.save_pretrained(tmp_path / "adapter")
    both.save_pretrained(tmp_path / "heads")
    both.save_language("sw", tmp_path / "sw")
    assert both.output_language == "sw"

    fresh = LanguageHeads.from_pretrained(tmp_path / "heads")
    assert torch.equal(fresh(**prompt).logits, before), "the adapter leaked into the saved body"
    wrapped = peft.PeftModel.from_pretrained(fresh.model, tmp_path / "adapter").eval()
    assert torch.equal(fresh(**prompt).logits, after)
    with wrapped.disable_adapter():
        assert torch.equal(fresh(**prompt).logits, before)

    alone = LanguageHeads.from_model(copy.deepcopy(english_model()), ENGLISH)
    alone.load_language(tmp_path / "sw")
    peft.PeftModel.from_pretrained(alone.model, tmp_path / "adapter").eval()
    alone.set_language(input="en", output="sw")
    assert torch.equal(alone(**prompt).logits, after)


def test_a_model_that_has_an_adapter_already(tmp_path: Path) -> None:
    adapted = peft.get_peft_model(
        copy.deepcopy(english_model()), peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
    )
    both = with_swahili(adapted)
    ids = sentences(2, 1)
    assert torch.equal(output_of(both, ids), output_of(adapted, ids))
    assert not torch.equal(output_of(both, ids), output_of(english_model(), ids))
    both.freeze_body(train=["sw"])
    assert {name for name, p in both.named_parameters() if p.requires_grad and "lora" in name}
    both.save_language("sw", tmp_path / "sw")
    plain = LanguageHeads.from_model(copy.deepcopy(english_model()), ENGLISH)
    assert plain.load_language(tmp_path / "sw") == "sw"


@pytest.mark.parametrize("options", [{"target_modules": ["embed_tokens"]}, {"modules_to_save": ["lm_head"]}])
def test_an_adapter_on_a_vocabulary_is_refused(options: dict) -> None:
    both = with_swahili(copy.deepcopy(english_model()))
    peft.get_peft_model(both.model, peft.LoraConfig(**({"target_modules": ["q_proj"]} | options)))
    with pytest.raises(UnsupportedModelError, match="an adapter belongs on the body"):
        both(sentences(2, 1))
    with pytest.raises(UnsupportedModelError, match="an adapter belongs on the body"):
        both.set_language("sw")
    assert both.output_language == "en"


def test_an_adapter_of_transformers_cannot_be_saved_along(tmp_path: Path) -> None:
    both = with_swahili(copy.deepcopy(english_model()))
    both.model.add_adapter(peft.LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(UnsupportedModelError, match="get_peft_model"):
        both.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["activation_checkpointing", "gradient_checkpointing"])
def test_checkpointing_changes_no_gradient(name: str) -> None:
    found = []
    for checkpointing in (False, True):
        both = with_swahili(copy.deepcopy(english_model())).train()
        both.set_language(input="en", output="sw")
        batch = both.encode(pairs(4, 3), labels=True)
        if checkpointing:
            getattr(both, f"{name}_enable")(**{f"{name}_kwargs": {"use_reentrant": False}})
            assert getattr(both, f"is_{name}")
        both(**batch).loss.backward()
        found.append({name: p.grad for name, p in both.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for key, grad in found[0].items():
        torch.testing.assert_close(grad, found[1][key], msg=key)
    getattr(both, f"{name}_disable")()
    assert not getattr(both, f"is_{name}")


@pytest.mark.parametrize("name", ["llama", "marian", "bert"])
@pytest.mark.parametrize("tied", [True, False])
def test_casting_reaches_every_language(name: str, tied: bool) -> None:
    both = heads(name, tied).to(torch.bfloat16)
    assert {tensor.dtype for tensor in both.state_dict().values() if tensor.is_floating_point()} == {torch.bfloat16}
    for language in both.languages:
        both.set_language(language)
        tensors = both._language(language).tensors.by_slot()
        assert all(slot.tensor is tensors[slot.name] for slot in both.slots)
        assert output_of(both, random_ids(SW_SIZE, 1)).dtype == torch.bfloat16
    both.float()
    tensors = both._language(both.output_language).tensors.by_slot()
    assert all(slot.tensor is tensors[slot.name] for slot in both.slots)
    assert all(slot.tensor.dtype == torch.float32 for slot in both.slots)


def test_every_tensor_is_counted_and_stored_once() -> None:
    both = heads("llama", tied=True)
    names = [name for name, _ in both.named_parameters()]
    assert sum("embed_tokens" in name or "lm_head" in name for name in names) == 2
    assert "vocabularies.language_sw.model/embed_tokens/weight" in names
    keys = set(both.state_dict())
    both.set_language("sw")
    assert [name for name, _ in both.named_parameters()] == names
    assert set(both.state_dict()) == keys
    assert set(nn.Sequential(both).state_dict()) == {f"0.{key}" for key in keys}


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("name", ["llama", "marian"])
def test_a_state_loads_whichever_language_is_active(name: str, assign: bool) -> None:
    both, other = heads(name), heads(name)
    with torch.no_grad():
        for parameter in both.parameters():
            parameter.normal_()
    other.set_language("sw")
    other.load_state_dict({key: value.clone() for key, value in both.state_dict().items()}, assign=assign)
    for language in both.languages:
        both.set_language(language)
        other.set_language(language)
        assert torch.equal(output_of(both, random_ids(SW_SIZE, 1)), output_of(other, random_ids(SW_SIZE, 1)))
    incomplete = dict(both.state_dict())
    del incomplete[next(iter(incomplete))]
    with pytest.raises(RuntimeError, match="Missing key"):
        other.load_state_dict(incomplete)


def test_a_copy_is_a_copy() -> None:
    both = heads("llama", tied=True)
    both.set_language("sw")
    other = copy.deepcopy(both)
    ids = random_ids(SW_SIZE, 1)
    expected = output_of(both, ids)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.set_language("en")
    assert torch.equal(output_of(both, ids), expected)
    assert (both.output_language, other.output_language) == ("sw", "en")


def test_modes_follow() -> None:
    model = english_model()
    assert isinstance(ENGLISH, PreTrainedTokenizerFast)
    both = with_swahili(copy.deepcopy(model))
    assert (both.training, both.model.training) == (False, False)
    both.train()
    both.set_language("sw")
    assert (both.training, both.model.training) == (True, True)
