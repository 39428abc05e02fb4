"""Staged training of tiny models in one process or in several; the tests start it and compare what it writes.

``python -m torch.distributed.run --nproc_per_node 2 -m tests.distributed_training FOLDER NAME...`` carries out runs of
:data:`RUNS` one after another, in one launch, and writes ``NAME.json`` and ``NAME.pt`` into the folder.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, Trainer, TrainerCallback

from hf_vocab_extend import Stage, VocabExtensionCallback

from .adapting import NEW, V, examples, extended, trainer_for, without_dropout

STEPS, FROZEN_STEPS, BATCH = 8, 4, 8
TEXTS = [f"w{3 + place} w{90 - place} w{40 + place}" for place in range(5)]
STAGES = [Stage("new_rows", steps=FROZEN_STEPS), Stage("all")]
FSDP = {"fsdp": True, "fsdp_config": {"version": 2}}
SHARDED = {"fsdp": True, "fsdp_config": {"version": 2, "state_dict_type": "SHARDED_STATE_DICT"}}
# Trainer 5.23 multiplies the loss by the number of processes when it averages over their tokens; the loss of BERT,
# which takes a mean whatever it is told of tokens, would come out twice as large.
MASKED = {"average_tokens_across_devices": False}
CHECKPOINTED = {"activation_checkpointing": True}


@dataclass(frozen=True)
class Run:
    """One run: which model, how it is spread, what else.

    Attributes:
        model: Name of a model of the factories.
        tied: Whether its head is tied.
        options: Options of ``TrainingArguments``.
        resumed: Step after which the run is left and taken up again.
        load: Makes the model another way than by the factories.
    """

    model: str = "llama"
    tied: bool = True
    options: dict[str, Any] = field(default_factory=dict)
    resumed: int | None = None
    load: Callable[[Run, Path], PreTrainedModel] | None = None


def _sharded_at_load(run: Run, folder: Path) -> PreTrainedModel:
    """Let from_pretrained cut the model into shards."""
    from torch import distributed
    from transformers import AutoModelForCausalLM
    from transformers.distributed import DistributedConfig

    if not distributed.is_initialized():
        distributed.init_process_group("gloo")
    if distributed.get_rank() == 0:
        without_dropout(run.model, run.tied).save_pretrained(folder / "source")
    distributed.barrier()
    size = distributed.get_world_size()
    return AutoModelForCausalLM.from_pretrained(
        folder / "source", distributed_config=DistributedConfig(fsdp_size=size)
    )


RUNS: dict[str, Run] = {
    "tied": Run(),
    "untied": Run(tied=False),
    "masked": Run("bert", options=MASKED),
    "tied_resumed": Run(resumed=3),
    "untied_resumed": Run(tied=False, resumed=3),
    "tied_accumulated": Run(options={"gradient_accumulation_steps": 2}),
    "tied_bf16": Run(options={"bf16": True}),
    "tied_checkpointed": Run(options=CHECKPOINTED),
    "fsdp_tied": Run(options=FSDP),
    "fsdp_untied": Run(tied=False, options=FSDP),
    "modern": Run("modernbert", options=MASKED),
    "fsdp_modern": Run("modernbert", options={**FSDP, **MASKED}),
    "fsdp_tied_resumed": Run(options=FSDP, resumed=3),
    "fsdp_untied_resumed": Run(tied=False, options=FSDP, resumed=3),
    "fsdp_untied_sharded_resumed": Run(tied=False, options=SHARDED, resumed=3),
    "fsdp_tied_accumulated": Run(options={**FSDP, "gradient_accumulation_steps": 2}),
    "fsdp_tied_bf16": Run(options={**FSDP, "bf16": True}),
    "loaded_tied": Run(load=_sharded_at_load, options={"save_only_model": True}),
    "loaded_untied": Run(tied=False, load=_sharded_at_load, options={"save_only_model": True}),
}


def let_cpu_shard() -> None:
    """Let accelerate run FSDP2 on the CPU: torch can, accelerate would fall back to DDP without a word."""
    from accelerate import state
    from accelerate.utils import DistributedType

    begin = state.AcceleratorState.__init__

    def begin_sharded(self: Any, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
        begin(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            if self.mixed_precision != "no":
                fsdp_plugin.set_mixed_precision(self.mixed_precision)
            self.fsdp_plugin = fsdp_plugin
            self.distributed_type = DistributedType.FSDP
            state.PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    state.AcceleratorState.__init__ = begin_sharded  # type: ignore[method-assign]


def whole(parameter: torch.Tensor) -> torch.Tensor:
    """Copy a parameter together from all processes."""
    value = parameter.detach()
    return (value.full_tensor() if hasattr(value, "full_tensor") else value).clone()


class Watch(TrainerCallback):
    """Copies all values when the second stage is about to begin."""

    def __init__(self) -> None:
        self.seen: dict[str, torch.Tensor] = {}

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step == FROZEN_STEPS and not self.seen:
            self.seen = {name: whole(item) for name, item in model.named_parameters()}


def _trainer(run: Run, folder: Path, **options: Any) -> tuple[Trainer, Watch]:
    model = run.load(run, folder) if run.load else without_dropout(run.model, run.tied)
    extension = extended(model)
    watch = Watch()
    world = int(os.environ.get("WORLD_SIZE", "1"))
    accumulated = run.options.get("gradient_accumulation_steps", 1)
    settings = {
        "max_steps": STEPS,
        "per_device_train_batch_size": BATCH // world // accumulated,
        "seed": 3,
        **run.options,
        **options,
    }
    texts = TEXTS if run.model == "llama" else None  # the tokenizer has no mask token
    callbacks = (VocabExtensionCallback(extension, stages=STAGES, texts=texts), watch)
    return trainer_for(model, folder, *callbacks, data=examples(96), **settings), watch


def carry_out(name: str, folder: Path) -> None:
    """Carry out one run and write what it did: losses and gradient norms by step, values before, between and after."""
    run = RUNS[name]
    os.environ.pop("ACCELERATE_USE_FSDP", None)  # accelerate sets it for the whole process
    own = folder / name
    options: dict[str, Any] = {}
    if run.resumed is not None:
        options = {"save_strategy": "steps", "save_steps": run.resumed, "save_total_limit": 1}
    trainer, watch = _trainer(run, own, **options)
    begin = {key: whole(item) for key, item in trainer.model.named_parameters()}
    if run.resumed is not None:
        trainer.add_callback(_Stop(run.resumed))
        trainer.train()
        trainer, watch = _trainer(run, own, **options)
        trainer.train(resume_from_checkpoint=str(own / f"checkpoint-{run.resumed}"))
    else:
        trainer.train()
    end = {key: whole(item) for key, item in trainer.model.named_parameters()}
    trainer.save_model(str(own / "saved"))
    if trainer.is_world_process_zero():
        callback = next(
            item for item in trainer.callback_handler.callbacks if isinstance(item, VocabExtensionCallback)
        )
        logs = [entry for entry in trainer.state.log_history if "loss" in entry]
        told = {
            "losses": [entry["loss"] for entry in logs],
            "norms": [entry["grad_norm"] for entry in logs],
            "measures": callback.measures,
            "wrapper": type(trainer.model_wrapped).__name__,
            "placements": sorted({str(getattr(item, "placements", "")) for item in trainer.model.parameters()}),
        }
        (folder / f"{name}.json").write_text(json.dumps(told), encoding="utf-8")
        torch.save({"begin": begin, "between": watch.seen, "end": end}, folder / f"{name}.pt")


class _Stop(TrainerCallback):
    """Leaves a run after a checkpoint, as if the machine had gone."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            control.should_training_stop = True


def main() -> None:
    """Carry out the runs that are named on the command line."""
    folder, *names = sys.argv[1:]
    let_cpu_shard()
    for name in names:
        carry_out(name, Path(folder))


__all__ = ["NEW", "RUNS", "V", "carry_out", "whole"]

if __name__ == "__main__":
    main()
