"""What each launcher can do of staged training, what it needs for that, and what is refused with which remedy.

Two moments count. Before the model is wrapped (``on_init_end``) options can still be set; when training begins
(``on_train_begin``) the model is wrapped, and what does not work is refused. See :data:`LAUNCHERS`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import InvalidOptionError, VocabExtendWarning
from .optimizer_state import fill_state, set_decay_aside

if TYPE_CHECKING:
    from transformers import TrainingArguments


@dataclass(frozen=True)
class Launcher:
    """One way to spread training over processes.

    Attributes:
        name: What it is called.
        support: What works, in a sentence.
        refusal: Why stages that freeze do not work, with the remedy; None where they do.
        prepare: Sets options before the model is wrapped.
        check: Refuses options that do not work once the model is wrapped.
        begin_stage: What model and optimizer need when a stage has begun; its last argument is whether it freezes.
        widening: Whether a stage may only add to what the one before trained.
    """

    name: str
    support: str
    refusal: str | None = None
    prepare: Callable[[TrainingArguments, Any, bool], None] | None = None
    check: Callable[[TrainingArguments, Any], None] | None = None
    begin_stage: Callable[[Any, Any, bool], None] | None = None
    widening: bool = False


def launcher_of(args: TrainingArguments, trainer: Any | None) -> Launcher:
    """Tell which launcher a Trainer runs under.

    Args:
        args: Its arguments.
        trainer: The Trainer; None stands for one process.
    """
    accelerator = getattr(trainer, "accelerator", None)
    if accelerator is None:
        return LAUNCHERS["single"]
    if getattr(trainer, "is_fsdp_xla_enabled", False):
        return LAUNCHERS["fsdp_xla"]
    if getattr(trainer, "is_distributed_loading_by_transformers", False):
        return LAUNCHERS["sharded_at_load"]
    kind = str(getattr(accelerator.distributed_type, "value", accelerator.distributed_type))
    if kind == "DEEPSPEED":
        stage = accelerator.state.deepspeed_plugin.zero_stage
        return LAUNCHERS["zero3" if stage == 3 else "zero"]
    if kind == "FSDP":
        return LAUNCHERS["fsdp2" if getattr(accelerator, "is_fsdp2", False) else "fsdp1"]
    if kind == "MEGATRON_LM":
        return LAUNCHERS["megatron"]
    if kind.startswith("MULTI_"):
        return LAUNCHERS["ddp"]
    return LAUNCHERS["data_parallel" if args.n_gpu > 1 else "single"]


def prepare_launch(args: TrainingArguments, trainer: Any | None, *, freezes: bool = True) -> None:
    """Set what must be set before the model is wrapped; call it in ``on_init_end``.

    An option that the user has set is left alone; if it does not work, :func:`check_launch` refuses it.

    Args:
        args: The Trainer's arguments.
        trainer: The Trainer, whose accelerator has just been made.
        freezes: Whether any stage freezes anything.

    Raises:
        InvalidOptionError: If the model cannot be wrapped; the message names the remedy.
    """
    prepare = launcher_of(args, trainer).prepare
    if prepare is not None:
        prepare(args, trainer, freezes)


def check_launch(args: TrainingArguments, trainer: Any | None, *, freezes: bool, widens: bool = True) -> Launcher:
    """Refuse what the launcher cannot do; call it in ``on_train_begin``, before anything is changed.

    After each stage that begins, call ``begin_stage`` of what is returned, if it is not None, with the model, the
    optimizer and whether the stage leaves anything frozen.

    Args:
        args: The Trainer's arguments.
        trainer: The Trainer; None stands for one process.
        freezes: Whether any stage leaves a parameter or row frozen that trains in another, or never.
        widens: Whether each stage trains all that the one before trained.

    Returns:
        The launcher.

    Raises:
        InvalidOptionError: If the stages cannot be carried out; the message names the remedy.
    """
    launcher = launcher_of(args, trainer)
    if not freezes:
        return launcher
    if launcher.refusal is not None:
        raise InvalidOptionError(
            f"Stages that freeze parameters do not work under {launcher.name}: {launcher.refusal}"
        )
    if launcher.widening and not widens:
        raise InvalidOptionError(
            f"A stage stops training what the stage before it trained. {launcher.name} keeps moments in a flat buffer "
            "that would move it on. Let each stage train all that the one before it trained, or use FSDP2 or DDP."
        )
    if launcher.check is not None:
        launcher.check(args, trainer)
    return launcher


def _prepare_ddp(args: TrainingArguments, trainer: Any, freezes: bool) -> None:
    """Let DDP look for parameters without a gradient, where the user has not said otherwise."""
    if args.ddp_find_unused_parameters is not None or not freezes:
        return
    handler = getattr(trainer.accelerator, "ddp_handler", None)
    if handler is not None and not handler.find_unused_parameters:
        # The Trainer turns it off when activations are checkpointed: reentrant checkpointing breaks with it.
        handler.find_unused_parameters = True
        args.ddp_find_unused_parameters = True


def _prepare_fsdp2(args: TrainingArguments, trainer: Any, freezes: bool) -> None:
    """Keep a tied table out of the modules that are wrapped on their own.

    Some models name their embeddings among the modules not to split (BERT's family does). accelerate then wraps the
    table with them and once more with the head that shares it, which fails.
    """
    plugin, model = trainer.accelerator.state.fsdp_plugin, trainer.model
    if not hasattr(model, "get_output_embeddings") or model.get_output_embeddings() is None:
        return
    head, table = model.get_output_embeddings(), model.get_input_embeddings()
    _check_head_bias(model, head)
    names = getattr(model, "_no_split_modules", None)
    shared = getattr(table, "weight", None)
    if not names or plugin.transformer_cls_names_to_wrap is not None or shared is None:
        return
    if getattr(head, "weight", None) is not shared:
        return
    holding = {
        type(module).__name__ for module in model.modules() if any(item is shared for item in module.parameters())
    }
    kept = [name for name in names if name not in holding]
    if kept and len(kept) < len(names):
        plugin.transformer_cls_names_to_wrap = kept


def _check_head_bias(model: Any, head: Any) -> None:
    """Refuse a head whose bias another module holds as well, which accelerate puts into two groups of FSDP2."""
    bias = getattr(head, "bias", None)
    if bias is None:
        return
    holders = [module for module in model.modules() if any(item is bias for item in module.parameters(recurse=False))]
    if len(holders) > 1:
        raise InvalidOptionError(
            f"FSDP2 cannot wrap {type(model).__name__}: two modules hold the bias of its head, and accelerate shards "
            "one of them alone. Use DDP (leave fsdp out)."
        )


def _check_ddp(args: TrainingArguments, trainer: Any) -> None:
    """Refuse a wrapper that waits for gradients of frozen parameters."""
    wrapped = trainer.model_wrapped
    if not hasattr(wrapped, "find_unused_parameters"):
        return
    if getattr(wrapped, "static_graph", False):
        raise InvalidOptionError(
            "DDP was told that the graph is static, but stages change what trains. Leave ddp_static_graph out of "
            "TrainingArguments."
        )
    if not wrapped.find_unused_parameters:
        raise InvalidOptionError(
            "DDP waits for the gradients of all parameters, but stages freeze some after it has wrapped the model. "
            "Set ddp_find_unused_parameters=True in TrainingArguments, or leave it out and give the callback to the "
            "Trainer in callbacks=[...]."
        )
    checkpointing = getattr(args, "activation_checkpointing", None) or getattr(args, "gradient_checkpointing", None)
    options = _checkpointing_options(args)
    if checkpointing and options.get("use_reentrant"):
        raise InvalidOptionError(
            "Reentrant checkpointing under DDP cannot leave parameters without a gradient, which stages do. Set "
            "use_reentrant to False in the options of checkpointing of TrainingArguments."
        )


def _checkpointing_options(args: TrainingArguments) -> dict[str, Any]:
    """Return the options of checkpointing, under the name that this version of transformers has for them."""
    for name in ("activation_checkpointing_kwargs", "gradient_checkpointing_kwargs"):
        if getattr(args, name, None):
            return dict(getattr(args, name))
    return {}


def _begin_sharded(model: Any, optimizer: Any, freezes: bool) -> None:
    """Let FSDP2 read again what trains: it notes the type of gradients of a group when the group is first used.

    A group in which nothing trained then would take gradients in the type of mixed precision for float32 parameters,
    which torch refuses. Gathering a group reads its parameters anew.
    """
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.unshard()
            module.reshard()


def _begin_fsdp2(model: Any, optimizer: Any, freezes: bool) -> None:
    """Make the state of what does not train yet, too, so that a checkpoint can be loaded."""
    _begin_sharded(model, optimizer, freezes)
    fill_state(optimizer)


def _spare_frozen(model: Any, optimizer: Any, freezes: bool) -> None:
    """Keep weight decay off while anything is frozen.

    ZeRO steps on flat copies in which frozen parameters lie among the others, with gradients of zero. Without decay
    such a step leaves them bitwise as they are; with it, rows that are written back would still fade in the copy.
    """
    set_decay_aside(optimizer, freezes)


def _warn_zero(args: TrainingArguments, trainer: Any) -> None:
    """Tell that decay pauses."""
    if args.weight_decay:
        warnings.warn(
            f"Under DeepSpeed ZeRO weight_decay={args.weight_decay} acts only in stages that train everything: it "
            "would shrink frozen rows in the optimizer's own copies.",
            VocabExtendWarning,
            stacklevel=2,
        )


LAUNCHERS: dict[str, Launcher] = {
    "single": Launcher("one process", "everything"),
    "data_parallel": Launcher("DataParallel", "everything; torchrun is faster"),
    "ddp": Launcher(
        "DDP",
        "everything; find_unused_parameters is set where the Trainer would not",
        prepare=_prepare_ddp,
        check=_check_ddp,
    ),
    "fsdp2": Launcher(
        "FSDP2",
        "everything; the optimizer's state of what is frozen is made at once, so that checkpoints load",
        prepare=_prepare_fsdp2,
        begin_stage=_begin_fsdp2,
    ),
    "sharded_at_load": Launcher(
        "sharding by from_pretrained (DistributedConfig)",
        "everything that the Trainer does with it; it does not resume",
        begin_stage=_begin_sharded,
    ),
    "zero": Launcher(
        "DeepSpeed ZeRO-1 or ZeRO-2",
        "stages that only widen; no weight decay while anything is frozen; moments are not begun anew",
        check=_warn_zero,
        begin_stage=_spare_frozen,
        widening=True,
    ),
    "zero3": Launcher(
        "DeepSpeed ZeRO-3",
        "no stages",
        refusal="parameters are placeholders whose rows lie elsewhere. Use ZeRO-2 ('stage': 2), or FSDP2 "
        "(fsdp=True, fsdp_config={'version': 2}).",
    ),
    "fsdp1": Launcher(
        "FSDP1",
        "no stages",
        refusal="parameters are flattened, so rows cannot be told, and what is frozen is fixed when the model is "
        "wrapped. Use FSDP2: fsdp_config={'version': 2} in TrainingArguments, or fsdp_version: 2 for accelerate.",
    ),
    "fsdp_xla": Launcher(
        "FSDP on XLA", "no stages", refusal="parameters are flattened. Use FSDP2 on GPUs, or one process for each TPU."
    ),
    "megatron": Launcher(
        "Megatron-LM",
        "no stages",
        refusal="the model is rebuilt with tables split by columns of tokens. Use FSDP2 (fsdp_config={'version': 2}).",
    ),
}
"""What every launcher can do."""

__all__ = ["LAUNCHERS", "Launcher", "check_launch", "launcher_of", "prepare_launch"]
