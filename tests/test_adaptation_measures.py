"""Measures while training: what they are, where they go, and that training does not notice them."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from transformers import DataCollatorForLanguageModeling, Trainer, TrainerCallback, TrainingArguments

from hf_vocab_extend import bits_per_byte, extend_tokenizer, extend_vocabulary
from hf_vocab_extend.adaptation.batches import BatchCounter, token_bytes
from hf_vocab_extend.adaptation.measures import STATE_FILE, MeasuresPart
from hf_vocab_extend.adaptation.rows import new_row_ids
from hf_vocab_extend.errors import InvalidOptionError

from .factories import english, swahili, tokenizer
from .tiny_models import make_llama, make_t5


def make_run(folder, part=None, *, max_steps=4, callbacks=(), tied=False, **options):
    """An extended model, and a Trainer of a few steps over it."""
    torch.manual_seed(0)
    own = tokenizer("llama3")
    grown = extend_tokenizer(own, swahili(200), num_new_tokens=50)
    extension = extend_vocabulary(make_llama(own, tied=tied), grown, method="mean", tokenizer=own)
    padded = copy.deepcopy(extension.tokenizer)
    padded.pad_token = padded.eos_token
    data = [{"input_ids": padded(text)["input_ids"]} for text in swahili(40)]
    settings = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "no", "report_to": []} | options
    args = TrainingArguments(
        str(folder),
        max_steps=max_steps,
        per_device_train_batch_size=3,
        learning_rate=1e-2,
        use_cpu=True,
        disable_tqdm=True,
        logging_steps=2,
        **settings,
    )
    if part is not None:
        part.extension = extension
    trainer = Trainer(
        model=extension.model,
        args=args,
        train_dataset=data,
        eval_dataset=data[:3],
        data_collator=DataCollatorForLanguageModeling(padded, mlm=False),
        callbacks=[*([part] if part is not None else []), *callbacks],
    )
    return extension, trainer, padded, data


class Recorder(TrainerCallback):
    """Keeps what is logged, as a logger before ours in the list would see it."""

    def __init__(self):
        self.logged = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Keep."""
        self.logged.append((state.global_step, dict(logs)))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    part = MeasuresPart(texts={"sw": swahili(50)[40:]}, source_texts=english(5))
    recorder = Recorder()
    extension, trainer, padded, data = make_run(tmp_path_factory.mktemp("run"), part)
    trainer.callback_handler.callbacks.insert(0, recorder)
    start = {name: parameter.detach().clone() for name, parameter in extension.model.named_parameters()}
    output = trainer.train()
    return part, recorder, extension, trainer, padded, data, start, output


def test_the_history_has_start_evaluations_and_end_once_each(run):
    part = run[0]
    assert [entry["step"] for entry in part.history] == [0, 2, 4]
    assert part.history[0]["drift_new_input"] == part.history[0]["drift_old_input"] == 0
    assert part.history[-1]["bits_per_byte_sw"] < part.history[0]["bits_per_byte_sw"]
    assert part.source_names == ("source",)
    assert part.described()["source"]["source"]
    assert not part.described()["sw"]["source"]


def test_bits_per_byte_are_those_of_the_model(run):
    part, _, extension, *_ = run
    measured = bits_per_byte(extension.model, extension.tokenizer, part.texts["sw"], new_ids=new_row_ids(extension))
    last = part.history[-1]
    assert last["bits_per_byte_sw"] == pytest.approx(measured.bits_per_byte, rel=1e-6)
    assert last["new_token_bits_sw"] == pytest.approx(measured.new_token_bits, rel=1e-6)
    assert last["old_token_bits_sw"] == pytest.approx(measured.old_token_bits, rel=1e-6)


def test_drift_is_that_of_all_rows(run):
    part, _, extension, _, _, _, start, _ = run
    new = new_row_ids(extension)
    old = torch.arange(int(new.min()))
    for name, label in (("model.embed_tokens.weight", "input"), ("lm_head.weight", "head")):
        now = extension.model.get_parameter(name).detach()
        for rows, kind in ((new, "new"), (old, "old")):
            moved = (now[rows] - start[name][rows]).norm() / start[name][rows].norm()
            cosine = torch.nn.functional.cosine_similarity(now[rows], start[name][rows]).mean()
            assert part.history[-1][f"drift_{kind}_{label}"] == pytest.approx(float(moved), rel=1e-4)
            assert part.history[-1][f"cosine_{kind}_{label}"] == pytest.approx(float(cosine), rel=1e-4)
            assert part.history[-1][f"norm_{kind}_{label}"] == pytest.approx(float(now[rows].norm(dim=1).mean()))


def test_tokens_and_shares_are_those_of_the_batches(run):
    part, _, extension, trainer, padded, data, *_ = run
    new = set(new_row_ids(extension).tolist())
    torch.manual_seed(trainer.args.seed)
    steps = []
    for index, batch in enumerate(trainer.get_train_dataloader()):
        if index == 4:
            break
        steps.append(
            [
                int(token)
                for row, own in zip(batch["input_ids"], batch["attention_mask"], strict=True)
                for token, kept in zip(row, own, strict=True)
                if kept
            ]
        )
    total = sum(len(step) for step in steps)
    assert part.history[-1]["trained_tokens"] == total
    late = [token for step in steps[2:] for token in step]
    assert part.history[-1]["new_token_share"] == pytest.approx(sum(token in new for token in late) / len(late))


def test_a_logger_that_comes_before_ours_sees_all_measures(run):
    part, recorder, _, trainer, *_ = run
    seen = {step: logs for step, logs in recorder.logged if "eval_bits_per_byte_sw" in logs}
    assert sorted(seen) == [0, 2, 4]
    assert seen[4]["eval_bits_per_byte_sw"] == part.history[-1]["bits_per_byte_sw"]
    assert {"eval_drift_new_head", "eval_new_token_share", "eval_trained_bytes"} <= set(seen[4])
    assert sum("eval_bits_per_byte_sw" in entry for entry in trainer.state.log_history) == 3


def test_training_does_not_notice_that_it_is_measured(run, tmp_path):
    extension = run[2]
    other, trainer, *_ = make_run(tmp_path)
    trainer.train()
    for one, two in zip(extension.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(one, two)


def test_tensorboard_gets_the_measures(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    part = MeasuresPart(texts=swahili(3))
    log = tmp_path / "log"
    import os

    os.environ["TENSORBOARD_LOGGING_DIR"] = str(log)
    try:
        _, trainer, *_ = make_run(tmp_path, part, report_to=["tensorboard"])
        trainer.train()
    finally:
        del os.environ["TENSORBOARD_LOGGING_DIR"]
    events = {}
    for file in log.rglob("events*"):
        found = EventAccumulator(str(file)).Reload()
        for tag in found.Tags()["scalars"]:
            events.setdefault(tag, []).extend((event.step, event.value) for event in found.Scalars(tag))
    steps, values = zip(*sorted(events["eval/bits_per_byte_target"]), strict=True)
    assert steps == (0, 2, 4)
    assert values == pytest.approx([entry["bits_per_byte_target"] for entry in part.history], rel=1e-5)


def test_a_measure_can_choose_the_best_checkpoint(tmp_path):
    part = MeasuresPart(texts=swahili(3))
    options = {"load_best_model_at_end": True, "metric_for_best_model": "eval_bits_per_byte_target"}
    _, trainer, *_ = make_run(tmp_path, part, save_strategy="steps", save_steps=2, greater_is_better=False, **options)
    trainer.train()
    best = min(entry["bits_per_byte_target"] for entry in part.history)
    assert trainer.state.best_metric == pytest.approx(best)
    assert part.history[-1]["best_checkpoint"]
    assert part.history[-1]["bits_per_byte_target"] == pytest.approx(best, rel=1e-5)


def test_a_resumed_run_has_the_history_of_an_unbroken_one(tmp_path, caplog):
    whole = MeasuresPart(texts=swahili(3))
    _, trainer, *_ = make_run(tmp_path, whole, save_strategy="steps", save_steps=2)
    trainer.train()
    resumed = MeasuresPart(texts=swahili(3))
    _, trainer, *_ = make_run(tmp_path, resumed, save_strategy="steps", save_steps=2)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    for one, other in zip(whole.history, resumed.history, strict=True):
        assert {key: value for key, value in one.items() if key != "seconds"} == pytest.approx(
            {key: value for key, value in other.items() if key != "seconds"}, rel=1e-5
        )
    (tmp_path / "checkpoint-2" / STATE_FILE).unlink()
    lost = MeasuresPart(texts=swahili(3))
    _, trainer, *_ = make_run(tmp_path, lost)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert [entry["step"] for entry in lost.history] == [0, 2, 4]
    assert lost.history[-1]["trained_tokens"] == whole.history[-1]["trained_tokens"]
    assert STATE_FILE in caplog.text
    assert (whole.drift_since, resumed.drift_since, lost.drift_since) == (0, 0, 2)


def test_without_evaluations_it_measures_every_so_many_steps(tmp_path):
    part = MeasuresPart(texts=swahili(2), every=3)
    _, trainer, *_ = make_run(tmp_path, part, eval_strategy="no", tied=True)
    trainer.train()
    assert [entry["step"] for entry in part.history] == [0, 3, 4]
    assert "drift_new_tied" in part.history[-1]
    assert "get_batch_samples" not in vars(trainer)


def test_drawn_rows_stand_for_all(tmp_path):
    part = MeasuresPart(rows=7)
    _, trainer, *_ = make_run(tmp_path, part)
    trainer.train()
    assert part.history[-1]["drift_new_input"] > 0


def test_forward_calls_are_counted_where_there_is_no_trainer():
    own = tokenizer("llama3")
    model = make_llama(own)
    counter = BatchCounter(own, torch.tensor([5, 6]), model)
    counter.attach(None)
    ids = torch.tensor([[5, 6, 7, 8]])
    model.train()(input_ids=ids)
    model.eval()(input_ids=ids)
    assert counter.totals()["trained_tokens"] == 4
    counter.detach()
    model.train()(input_ids=ids)
    totals = counter.totals()
    assert totals["trained_tokens"] == 4
    assert "new_token_share" not in totals


@pytest.mark.parametrize("name", ["gpt2", "llama3", "llama2", "xlmr", "bert-cased", "clip"])
def test_bytes_of_tokens_add_up_to_those_of_the_text(name):
    own = tokenizer(name)
    lengths = token_bytes(own)
    for text in english(5):
        ids = own(text, add_special_tokens=False)["input_ids"]
        marks = sum(not (char.isalnum() or char.isspace()) for char in text)
        assert abs(int(lengths[torch.tensor(ids)].sum()) - len(text.encode())) <= 1 + marks


def test_bad_options_are_refused():
    for options in ({"every": 0}, {"rows": 0}, {"texts": "a text"}, {"texts": []}, {"texts": {"a": [1]}}):
        with pytest.raises(InvalidOptionError):
            MeasuresPart(**options)
    with pytest.raises(InvalidOptionError, match="two names"):
        MeasuresPart(texts={"a": ["x"]}, source_texts={"a": ["y"]})


def test_an_encoder_decoder_is_measured_without_bits(caplog):
    own = tokenizer("t5")
    extension = extend_vocabulary(
        make_t5(own), extend_tokenizer(own, swahili(100), num_new_tokens=20), method="mean", tokenizer=own
    )
    part = MeasuresPart(extension, swahili(2))
    assert part._bits(extension.model) == {}
    assert "not measured" in caplog.text


def test_it_leaves_no_file_but_its_own(tmp_path):
    part = MeasuresPart(texts=swahili(2))
    _, trainer, *_ = make_run(tmp_path, part, save_strategy="steps", save_steps=4)
    trainer.train()
    assert (Path(tmp_path) / "checkpoint-4" / STATE_FILE).is_file()
