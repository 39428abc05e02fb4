"""Tables learned under a frozen body: what trains, what does not, from every start, and bad input."""

from __future__ import annotations

import copy
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertModel, PreTrainedModel, TrainerCallback

from hf_vocab_extend import VocabExtension, extend_tokenizer, extend_vocabulary
from hf_vocab_extend.adaptation.mini_model.learning import learn_embeddings
from hf_vocab_extend.adaptation.mini_model.record import read_record, table_hashes
from hf_vocab_extend.adaptation.tables import vocabulary_tables
from hf_vocab_extend.adaptation.training_options import TrainingOptions
from hf_vocab_extend.errors import (
    BaseModelMismatchError,
    InvalidOptionError,
    TokenizerMismatchError,
    UnsupportedModelError,
    VocabExtendWarning,
)

from . import factories
from .mini_learning import (
    assert_same_state,
    full_model,
    learn,
    mini_of,
    no_drawings,
    source_tokenizer,
    state_of,
    swahili_tokenizer,
)

pytestmark = pytest.mark.usefixtures("one_thread", "no_drawings")


__all__ = ["no_drawings"]


def tables_of(model: torch.nn.Module) -> set[str]:
    """Names of all tensors that are indexed by token ids."""
    ids = {id(table.parameter) for table in vocabulary_tables(model)}
    return {name for name, item in model.named_parameters(remove_duplicate=False) if id(item) in ids}


def started(mini: PreTrainedModel) -> VocabExtension:
    """The tiny BERT's mini-model with Swahili rows that have not learned yet."""
    return extend_vocabulary(mini, swahili_tokenizer(), "normal", tokenizer=source_tokenizer("bert"), mode="replace")


class Watch(TrainerCallback):
    """Notes what trains, what has gradients, the inputs of the head, and the batches."""

    def __init__(self) -> None:
        self.trains: set[str] = set()
        self.graded: set[str] = set()
        self.head: list[tuple[int, ...]] = []
        self.batches: list[dict[str, torch.Tensor]] = []
        self.start: torch.nn.Module | None = None
        self.is_batch = False

    def on_train_begin(self, args, state, control, **kwargs):
        model = kwargs["model"]
        self.start = copy.deepcopy(model)
        self.trains = {name for name, item in model.named_parameters() if item.requires_grad}
        head = model.get_output_embeddings()

        def note(module, args):
            if self.is_batch:
                self.head.append(tuple(args[0].shape[:-1]))

        self.hooks = [
            head.register_forward_pre_hook(note),
            model.register_forward_pre_hook(self.keep, with_kwargs=True, prepend=True),
        ]

    def keep(self, model, args, kwargs):
        self.is_batch = model.training and kwargs["input_ids"].shape == (2, 16)  # others measure FLOPs
        if self.is_batch:
            self.batches.append({name: kwargs[name].clone() for name in ("input_ids", "labels", "attention_mask")})

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.graded |= {name for name, item in kwargs["model"].named_parameters() if item.grad is not None}

    def on_train_end(self, args, state, control, **kwargs):
        for hook in self.hooks:
            hook.remove()


@pytest.mark.parametrize(
    ("name", "tied", "family"),
    [
        ("bert", True, "bert-cased"),
        ("llama", False, "xlmr"),
        pytest.param("xlm_roberta", False, "xlmr", marks=pytest.mark.slow),
        pytest.param("gpt2", True, "gpt2", marks=pytest.mark.slow),
    ],
)
def test_tables_train_and_nothing_else(name: str, tied: bool, family: str, tmp_path: Path) -> None:
    mini, watch = mini_of(full_model(name, tied=tied)), Watch()
    flags = {key: item.requires_grad for key, item in mini.named_parameters()}
    before, hashes, record = state_of(mini), table_hashes(mini), read_record(mini)
    learned = learn(mini, tmp_path, name, swahili_tokenizer(family, 500), callbacks=[watch])
    tables, model = tables_of(learned.model), learned.model
    unique = {key for key, _ in model.named_parameters()} & tables
    unused = {"lm_head.bias"} if name == "xlm_roberta" else set()  # an untied RoBERTa reads its decoder's own
    assert watch.trains == unique
    assert watch.graded == unique - unused
    assert {key for key, item in model.named_parameters() if item.requires_grad} == unique
    after = state_of(model)
    body = before.keys() - tables
    assert_same_state({key: after[key] for key in body}, {key: before[key] for key in body})
    start = state_of(watch.start)
    assert all(not torch.equal(after[key], start[key]) for key in (tables & after.keys()) - unused)
    # What was given is as it was, and shares its body with what came out.
    assert_same_state(state_of(mini), before)
    assert flags == {key: item.requires_grad for key, item in mini.named_parameters()}
    assert table_hashes(mini) == hashes == read_record(model).source_tables
    assert read_record(model) == record
    own, given = dict(model.named_parameters()), dict(mini.named_parameters())
    shared = {key for key in given if own[key].data_ptr() == given[key].data_ptr()}
    assert shared == given.keys() - tables
    assert not model.training
    assert not any("_masked_position_hooks" in vars(item) for item in (model, mini))


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_equals_a_plain_loop_over_the_same_batches(name: str, tmp_path: Path) -> None:
    watch = Watch()
    learned = learn(mini_of(full_model(name), dropout=False), tmp_path, name, callbacks=[watch], weight_decay=0.1)
    model = watch.start.train()
    tables = {id(table.parameter): table for table in vocabulary_tables(model)}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in tables)
    trained = [item for item in model.parameters() if item.requires_grad]
    groups = [{"params": [p for p in trained if p.ndim > 1], "weight_decay": 0.1}]
    groups += [{"params": biases, "weight_decay": 0.0}] if (biases := [p for p in trained if p.ndim == 1]) else []
    optimizer = torch.optim.AdamW(groups, lr=1e-2)
    assert len(watch.batches) == 2
    for batch in watch.batches:
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        labels = batch["labels"]
        if name == "gpt2":
            logits, labels = logits[:, :-1], labels[:, 1:]
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
    there = dict(model.named_parameters())
    for key, parameter in learned.model.named_parameters():
        torch.testing.assert_close(
            parameter, there[key], rtol=1e-5, atol=1e-6, msg=lambda text, key=key: f"{key}: {text}"
        )


@pytest.mark.parametrize(
    "name",
    ["modernbert", *(pytest.param(name, marks=pytest.mark.slow) for name in ("bert", "xlm_roberta", "distilbert"))],
)
def test_head_runs_at_labels_only(name: str, tmp_path: Path) -> None:
    watch = Watch()
    learn(mini_of(full_model(name)), tmp_path, name, swahili_tokenizer("bert-cased"), callbacks=[watch])
    assert watch.head == [(int((batch["labels"] != -100).sum()),) for batch in watch.batches]
    assert 0 < watch.head[0][0] < watch.batches[0]["labels"].numel()


def test_extend_trains_new_rows_only(tmp_path: Path) -> None:
    full = full_model("bert")
    old = source_tokenizer("bert")
    grown = extend_tokenizer(old, factories.swahili(), 60)
    mini, n_old = mini_of(full), full.get_input_embeddings().weight.shape[0]
    before = state_of(mini)
    learned = learn(mini, tmp_path, "bert", grown, mode="extend")
    after = state_of(learned.model)
    for name in tables_of(learned.model) & before.keys():
        assert torch.equal(after[name][:n_old], before[name]), name
        assert len(after[name]) > n_old
    stage = learned.extension.report.training["stages"][0]
    assert stage["stage"] == "new_rows"
    n_new = len(after["bert.embeddings.word_embeddings.weight"]) - n_old
    assert stage["trained"] == n_new * (16 + 1)


def test_full_model_is_the_standard_route(tmp_path: Path) -> None:
    full = full_model("xlm_roberta")
    before = state_of(full)
    learned = learn(full, tmp_path, "xlm_roberta")
    record = read_record(learned.model)
    assert (record.kind, record.bottom_layers, record.new_layers) == ("full", 3, 0)
    assert record.source_tables == table_hashes(full)
    assert read_record(full) is None
    assert_same_state(state_of(full), before)


def test_a_started_extension_trains_in_place(tmp_path: Path) -> None:
    mini = mini_of(full_model("bert"))
    flags = [item.requires_grad for item in mini.parameters()]
    extension = started(mini)
    before = state_of(mini)
    learned = learn(extension, tmp_path, "bert", swahili_tokenizer(), method="auto", tokenizer=None)
    assert learned.extension is extension
    assert learned.model is mini
    assert [item.requires_grad for item in mini.parameters()] == flags
    tables, after = tables_of(mini), state_of(mini)
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed == tables & after.keys()


STARTS = {
    "normal": {},
    "mean": {},
    "subword": {},
    "auto": {},
    "trans_tokenization": {"parallel": factories.sample_pairs()[:120]},
    "wechsel": {"word_vectors": True},
    "ofa": {"word_vectors": True},
    "focus": {"token_vectors": True},
}


@pytest.mark.parametrize(
    "method", [name if name == "auto" else pytest.param(name, marks=pytest.mark.slow) for name in STARTS]
)
def test_every_start(method: str, tmp_path: Path) -> None:
    mini, options = mini_of(full_model("bert")), dict(STARTS[method])
    generator = np.random.default_rng(0)
    if method in ("wechsel", "ofa"):
        pairs = factories.sample_pairs()[:60]
        words = [sorted({word.lower() for pair in pairs for word in pair[side].split()}) for side in (0, 1)]
        both = sorted({*words[0], *words[1]})
        options["word_vectors"] = dict(zip(both, generator.standard_normal((len(both), 8)), strict=True))
    if method in ("focus", "auto"):
        tokens = [*swahili_tokenizer().get_vocab(), *source_tokenizer("bert").get_vocab()]
        vectors = generator.standard_normal((len(tokens), 8))
        options["token_vectors"] = dict(zip(tokens, vectors, strict=True))
    learned = learn(mini, tmp_path, "bert", method=method, **options)
    wanted = "focus" if method == "auto" else method
    assert learned.extension.report.method == wanted
    assert all(torch.isfinite(table.parameter).all() for table in vocabulary_tables(learned.model))
    assert learned.run.steps == 2


def test_two_runs_are_equal_and_leave_no_trace(tmp_path: Path) -> None:
    mini = mini_of(full_model("bert"))
    before = torch.get_rng_state(), random.getstate(), str(np.random.get_state())  # noqa: NPY002
    first = learn(mini, tmp_path / "a", "bert", method="normal")
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), str(np.random.get_state())) == before[1:]  # noqa: NPY002
    second = learn(mini, tmp_path / "b", "bert", method="normal")
    assert_same_state(state_of(first.model), state_of(second.model))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The new tokenizer has the same vocabulary")
def test_the_same_vocabulary_gets_a_table_of_its_own(tmp_path: Path) -> None:
    mini = mini_of(full_model("bert"))
    before = state_of(mini)
    learned = learn(mini, tmp_path, "bert", source_tokenizer("bert"))
    assert_same_state(state_of(mini), before)
    head, table = learned.model.get_output_embeddings().weight, learned.model.get_input_embeddings().weight
    assert head is table
    assert not torch.equal(table, before["bert.embeddings.word_embeddings.weight"])


def test_files_only_when_asked(tmp_path: Path) -> None:
    mini = mini_of(full_model("bert"))
    learn(mini, tmp_path / "none", "bert")
    assert not any(path.suffix in (".pt", ".bin") or "checkpoint" in path.name for path in tmp_path.rglob("*"))
    assert not list((tmp_path / "none").glob("*model*.safetensors"))
    learned = learn(mini, tmp_path / "two", "bert", evaluations=2, held_out=4)
    assert {path.name for path in (tmp_path / "two").glob("checkpoint-*")} == {"checkpoint-1", "checkpoint-2"}
    assert [entry["step"] for entry in learned.measures] == [0, 1, 2]


@pytest.mark.slow
def test_resumes_into_storage_of_its_own(tmp_path: Path) -> None:
    """A checkpoint is loaded in place: one of another body must not be written into the model that was given."""
    mini, options = mini_of(full_model("bert")), {"steps": 4, "evaluations": 2, "method": "normal"}
    whole = learn(mini, tmp_path / "a", "bert", **options)
    (tmp_path / "a" / "checkpoint-4").rename(tmp_path / "last")
    resumed = learn(mini, tmp_path / "a", "bert", resume=True, **options)
    assert_same_state(state_of(resumed.model), state_of(whole.model))
    own, given = dict(resumed.model.named_parameters()), dict(mini.named_parameters())
    assert {name for name in given if own[name].data_ptr() != given[name].data_ptr()} == tables_of(mini) & own.keys()
    other = full_model("bert", layer_norm_eps=1e-6)
    with torch.no_grad():
        other.bert.encoder.layer[0].output.dense.bias.add_(1)
    before = state_of(other)
    with pytest.raises(BaseModelMismatchError, match="another body"):
        learn(mini_of(other), tmp_path / "a", "bert", resume=True, **options)
    assert_same_state(state_of(other), before)


def test_report_cost_and_bfloat16(tmp_path: Path) -> None:
    learned = learn(mini_of(full_model("bert")), tmp_path, "bert", bf16=True)
    training = learned.extension.report.training
    assert training["cost"] == learned.cost.to_dict()
    assert training["precision"] == "bf16 over float32"
    assert [stage["stage"] for stage in training["stages"]] == ["embeddings + head"]
    assert learned.tokenizer is learned.extension.tokenizer


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"stages": "embeddings_first"}, InvalidOptionError, "stages is 'embeddings_first'"),
        ({"lora": 4}, InvalidOptionError, "lora is 4"),
        ({"stepps": 4}, InvalidOptionError, "learn_embeddings has no such option: stepps"),
        ({"steps": "4"}, InvalidOptionError, "of the wrong type"),
        ({"objective": "causal"}, InvalidOptionError, "Take 'masked'"),
        ({"mode": "both"}, InvalidOptionError, "mode is 'both'"),
        ({"tokenizer": factories.tokenizer("gpt2")}, TokenizerMismatchError, "they do not belong together"),
    ],
)
def test_wrong_options(options: dict, error: type[Exception], said: str, tmp_path: Path) -> None:
    mini = mini_of(full_model("bert"))
    before = state_of(mini)
    with pytest.raises(error, match=said):
        learn(mini, tmp_path, "bert", **options)
    assert_same_state(state_of(mini), before)


def test_options_that_do_not_go_together(tmp_path: Path) -> None:
    mini = mini_of(full_model("bert"))
    with pytest.raises(InvalidOptionError, match="Give new_tokenizer"):
        learn_embeddings(mini, None, factories.swahili(40), tmp_path)
    extension = started(mini)
    before = state_of(mini)
    with pytest.raises(InvalidOptionError, match="method says how they shall"):
        learn(extension, tmp_path, "bert", None, tokenizer=None)
    with pytest.raises(InvalidOptionError, match="another vocabulary"):
        learn(extension, tmp_path, "bert", swahili_tokenizer("bert-cased"), method="auto", tokenizer=None)
    with pytest.raises(InvalidOptionError, match="lora is 2"):
        learn_embeddings(extension, None, factories.swahili(40), tmp_path, TrainingOptions(lora=2))
    assert_same_state(state_of(mini), before)


def test_models_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="no head that writes tokens"):
        learn(BertModel(full_model("bert").config), tmp_path, "bert")
    mini = mini_of(full_model("bert"))
    with torch.no_grad():
        mini.get_input_embeddings().weight[5] += 1
    before = state_of(mini)
    with pytest.raises(BaseModelMismatchError, match=r"\(input\) are not those with which it was cut"):
        learn(mini, tmp_path, "bert")
    assert_same_state(state_of(mini), before)


def test_bottom_layers_that_moved_are_told(tmp_path: Path) -> None:
    """They are the full model's own storage, over which the new layers were trained."""
    full = full_model("bert")
    mini = mini_of(full)
    with torch.no_grad():
        full.bert.encoder.layer[0].output.dense.bias[0] += 1
    with pytest.warns(VocabExtendWarning, match="The 1 bottom layers of this mini-model") as told:
        learned = learn(mini, tmp_path, "bert")
    assert Path(told[0].filename).name == "mini_learning.py"
    assert "float16" not in str(told[0].message)
    with pytest.warns(VocabExtendWarning, match="bottom layers of this mini-model"):
        learn(learned.extension, tmp_path, "bert", method="auto", tokenizer=None)


def test_rounding_to_float16_is_named(tmp_path: Path) -> None:
    mini = mini_of(full_model("bert"))
    with pytest.raises(BaseModelMismatchError, match="load it in float32 or bfloat16"):
        learn(mini.to(torch.float16), tmp_path, "bert")
    with pytest.raises(BaseModelMismatchError, match="load it in float32 or bfloat16"):
        learn(mini.to(torch.float32), tmp_path, "bert")


def test_an_extension_is_checked_before_it_trains(tmp_path: Path) -> None:
    full, old = full_model("bert"), source_tokenizer("bert")
    twice = extend_vocabulary(
        started(mini_of(full)).model, old, "normal", tokenizer=swahili_tokenizer(), mode="replace"
    )
    with pytest.raises(TokenizerMismatchError, match=r"started from \d+ rows, and its mini-model was cut with \d+"):
        learn(twice, tmp_path, "bert", old, method="auto", tokenizer=None)
    grown = extend_tokenizer(old, factories.swahili(), 60)
    full.resize_token_embeddings(len(old))  # rows without a token would go to new ones
    mini, options = mini_of(full), {"method": "auto", "tokenizer": None}
    extension = extend_vocabulary(mini, grown, "subword", tokenizer=old, mode="extend")
    learned = learn(extension, tmp_path, "bert", grown, **options)
    with torch.no_grad():
        learned.model.get_input_embeddings().weight[-1] += 1
    learn(extension, tmp_path, "bert", grown, **options)
    with torch.no_grad():
        learned.model.get_input_embeddings().weight[7] += 1
    before = state_of(learned.model)
    with pytest.raises(BaseModelMismatchError, match=r"first \d+ rows of this extension \(input\)"):
        learn(extension, tmp_path, "bert", grown, **options)
    assert_same_state(state_of(learned.model), before)
