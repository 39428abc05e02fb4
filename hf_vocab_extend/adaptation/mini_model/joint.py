"""A model with a second language modelling head at a middle layer, from which an aligned mini-model is cut.

MiniJoint of Marchisio et al. 2023 (arXiv 2212.10503): one model, two heads, and the mean of their losses. What lies
below the second head is a mini-model that speaks the same token table as the whole.

The second head needs no code of its own for an architecture. The primary runs, and what the middle layer gives is
kept. Then it runs once more as a view (:mod:`.views`) whose layers all give just that, with the final norm and the
transform of the second head: what runs again is the lookup of embeddings.
"""

from __future__ import annotations

import copy
import inspect
import os
from dataclasses import dataclass
from typing import Any, cast

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from ...errors import InvalidOptionError, UnsupportedModelError
from ...modeling.reading import IGNORED
from ...surgery.config_tree import main_config
from ..objectives import choose_objective
from .given import check_model_given
from .joint_check import check_heads
from .layers import find_layer_stack, layer_states, set_layer_count
from .random_state import random_state_kept
from .record import FIELD, MiniRecord, write_record
from .sharing import rebuild_shared
from .views import Observed, Part, Replayed, at_places, copies_of, part_at, view_with

MODEL_TYPE = "mini_joint"  # as in registration.py
_NOT_GIVEN = ("output_hidden_states", "output_attentions", "past_key_values", "output_router_logits")
"""Inputs of a model that have no meaning for two heads at once."""


class MiniJointConfig(PretrainedConfig):
    """Config of a :class:`MiniJointModel`.

    Attributes:
        primary: Config of the full model.
        primary_class: Name of its class in transformers.
        layer: After how many layers the second head stands.
        layers_path: Where the list of layers is inside the full model; found if None.
        head_parts: Names of what runs after the last layer and is not vocabulary-sized; found if None.
        mini_weight: Share of the second head's loss, in (0, 1); 0.5 is the mean of both.
        labelled_only: Whether a masked model in training computes heads at labelled positions only.
        generation: Generation config of the full model, as plain data.
    """

    model_type = MODEL_TYPE
    sub_configs = {"primary": AutoConfig}  # noqa: RUF012  (transformers reads it so)
    keys_to_ignore_at_inference = ["primary_loss", "mini_loss", "mini_logits"]  # noqa: RUF012

    def __init__(
        self,
        primary: PretrainedConfig | dict[str, Any] | None = None,
        primary_class: str | None = None,
        layer: int = 4,
        layers_path: str | None = None,
        head_parts: list[str] | None = None,
        mini_weight: float = 0.5,
        labelled_only: bool = True,
        generation: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        if isinstance(primary, dict):
            primary = AutoConfig.for_model(**primary)
        self.primary_class = primary_class
        self.layer = layer
        self.layers_path = layers_path
        self.head_parts = head_parts
        self.mini_weight = mini_weight
        self.labelled_only = labelled_only
        self.generation = generation
        self.primary: PretrainedConfig | None = None
        super().__init__(**options)  # which resets settings of configs that are inside already
        self.primary = primary

    def to_diff_dict(self) -> dict[str, Any]:
        """Return what is written: without the folder that the full model was loaded from."""
        fields = super().to_diff_dict()
        if isinstance(fields.get("primary"), dict):
            fields["primary"].pop("_name_or_path", None)
        return fields

    def get_text_config(self, *args: Any, **kwargs: Any) -> PretrainedConfig:
        """Return the config of the full model that counts tokens and layers."""
        return super().get_text_config(*args, **kwargs) if self.primary is None else main_config(self.primary)


@dataclass
class MiniJointOutput(ModelOutput):
    """What a :class:`MiniJointModel` gives.

    Attributes:
        loss: The weighted mean of both losses; None without labels.
        logits: Of the full model, `(batch, length, V)`; `(n_labels, V)` where only labelled positions are computed.
        primary_loss: Mean loss of the full model over its labels.
        mini_loss: Mean loss of the second head over the same labels.
        mini_logits: Of the second head, shaped as ``logits``.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    primary_loss: torch.Tensor | None = None
    mini_loss: torch.Tensor | None = None
    mini_logits: torch.Tensor | None = None


class MiniJointModel(PreTrainedModel):
    """A masked or causal language model with a second head after its first layers, trained jointly.

    Both heads share everything that is vocabulary-sized, the tables and the bias; the second has its own copy of what
    else runs after the last layer (a final norm, the transform of a masked model's head). Any Trainer trains it;
    masked models compute both heads at labelled positions only while they train.

    Attributes:
        model: The full model, an ordinary one; also as :attr:`primary`.
        mini_head: The second head, its parts under their names in the full model.

    Example:
        >>> joint = MiniJointModel.from_scratch(config, layer=4)
        >>> Trainer(joint, arguments, train_dataset=blocks, data_collator=collator).train()
        >>> joint.primary.save_pretrained("full")
        >>> mini = joint.cut()
    """

    config_class = MiniJointConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: MiniJointConfig, model: PreTrainedModel | None = None) -> None:
        """Build both heads.

        Args:
            config: Its config.
            model: The full model, which is then a part of this one; by default a new one is made.

        Raises:
            InvalidOptionError: If the config names no model, or the layer or the weight is out of range.
            UnsupportedModelError: If the layers of the model cannot be cut.
        """
        super().__init__(config)
        self.model: PreTrainedModel = _primary_class(config)(cast(Any, config.primary)) if model is None else model
        config.primary = self.model.config
        if config.layers_path is None or config.head_parts is None:
            stack = find_layer_stack(self.model)
            config.layers_path, config.head_parts = stack.path, list(stack.after)
        _check_config(config, self._layers)
        self.mini_head = copies_of(self.model, config.head_parts)
        self.is_masked = choose_objective(self.model) == "masked"
        self.loss_type = "ForMaskedLM" if self.is_masked else "ForCausalLM"  # by which the Trainer counts labels
        if config.generation and self.model.can_generate():
            self.model.generation_config = type(self.model.generation_config).from_dict(config.generation)
        self.post_init()

    @classmethod
    def from_model(
        cls,
        model: PreTrainedModel,
        layer: int = 4,
        *,
        seed: int = 0,
        copy_head: bool = True,
        mini_weight: float = 0.5,
        labelled_only: bool = True,
    ) -> MiniJointModel:
        """Put a second head on a model, which becomes a part of the result and is trained with it.

        Args:
            model: A masked or causal language model.
            layer: After how many layers the second head stands.
            seed: Seed of a fresh second head; the global generators stay as they are.
            copy_head: Whether the second head begins as a copy of the first.
            mini_weight: Share of its loss, in (0, 1).
            labelled_only: Whether a masked model in training computes heads at labelled positions only.

        Raises:
            InvalidOptionError: If the layer is not between the first and the last, or the weight out of range.
            UnsupportedModelError: If the model has no language modelling head, if its layers cannot be cut (an encoder
                and a decoder, ALBERT), or if a probe shows other values than those of a model with fewer layers.
        """
        check_model_given(model)
        name = type(model).__name__
        if not isinstance(model, PreTrainedModel) or getattr(transformers, name, None) is not type(model):
            raise UnsupportedModelError(
                f"A {name} is no model class of transformers, so a saved joint model could not be loaded. Merge "
                "adapters and factorised tables first."
            )
        choose_objective(model)
        config = MiniJointConfig(
            primary=model.config,
            primary_class=name,
            layer=layer,
            mini_weight=mini_weight,
            labelled_only=labelled_only,
            name_or_path=model.config._name_or_path,
        )
        joint = cls(config, model)
        joint.training = model.training
        if not copy_head:
            joint._renew_head(seed)
        check_heads(joint)
        return joint

    @classmethod
    def from_scratch(
        cls,
        config: PretrainedConfig,
        layer: int = 4,
        *,
        seed: int = 0,
        model_class: str | None = None,
        mini_weight: float = 0.5,
        labelled_only: bool = True,
    ) -> MiniJointModel:
        """Build a model with two heads from a config, with random weights.

        Args:
            config: Config of the full model.
            layer: After how many layers the second head stands.
            seed: Seed of all weights; the global generators stay as they are.
            model_class: Name of the full model's class; by default what ``config.architectures`` says.
            mini_weight: Share of the second head's loss, in (0, 1).
            labelled_only: Whether a masked model in training computes heads at labelled positions only.

        Raises:
            InvalidOptionError: If there is no such class, or as :meth:`from_model`.
            UnsupportedModelError: As :meth:`from_model`.
        """
        name = model_class or next(iter(config.architectures or ()), None)
        made = _primary_class(MiniJointConfig(primary=config, primary_class=name))
        with random_state_kept(seed):
            model = made(copy.deepcopy(config))
        return cls.from_model(
            model, layer, seed=seed + 1, copy_head=False, mini_weight=mini_weight, labelled_only=labelled_only
        )

    @property
    def primary(self) -> PreTrainedModel:
        """The full model, which saves and loads as any other."""
        return self.model

    def cut(self) -> PreTrainedModel:
        """Return the mini-model: the layers below the second head, and that head, as a model of the full one's class.

        It shares the storage of every parameter with this model and trains none of them; what is done to its tables by
        ``extend_vocabulary`` leaves this model as it is. It is in the mode of this model, and its config remembers
        where it comes from (:class:`~.record.MiniRecord`).

        Raises:
            UnsupportedModelError: If the class cannot be built with fewer layers.
        """
        config = copy.deepcopy(self.model.config)
        vars(config).pop(FIELD, None)  # what the full model remembers of itself
        set_layer_count(config, self.config.layer)
        mini = rebuild_shared(view_with(self.model, self._head_parts()), config)
        layer, path = self.config.layer, self.config.layers_path
        write_record(mini, MiniRecord.of(self.model, "joint", layer, layers_path=path))
        return mini

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **inputs: Any,
    ) -> MiniJointOutput:
        """Run both heads.

        Args:
            input_ids: Shape `(batch, length)`.
            attention_mask: Shape `(batch, length)`.
            labels: Shape `(batch, length)`, -100 where there is none; a causal model shifts them itself.
            num_items_in_batch: Labels of all batches of a step, over which losses are then averaged.
            inputs: More inputs of the full model.

        Raises:
            InvalidOptionError: If labels are missing in training, or an input has no meaning for two heads.
        """
        self._check_inputs(labels, inputs)
        places = self._places(labels)
        given = {"input_ids": input_ids, "attention_mask": attention_mask, **inputs}
        given = {name: value for name, value in given.items() if value is not None} | self._quiet()
        if labels is not None:
            given["labels"] = labels if places is None else labels[places].unsqueeze(0)
        outputs = self.run_heads(given, places)
        logits = [output.logits if places is None else output.logits.flatten(0, -2) for output in outputs]
        if labels is None:
            return MiniJointOutput(logits=logits[0], mini_logits=logits[1])
        n_labels = self._count(labels, inputs.get("shift_labels"))
        losses = [output.loss for output in outputs]
        if self.training and not n_labels:  # a mean over none is no number, and neither is its gradient
            losses = [output.logits.float().sum() * 0.0 for output in outputs]
        weight = self.config.mini_weight
        loss = (1 - weight) * losses[0] + weight * losses[1]
        if num_items_in_batch is not None:
            loss = loss * (n_labels / torch.as_tensor(num_items_in_batch, device=loss.device).flatten()[0])
        return MiniJointOutput(loss, logits[0], losses[0], losses[1], logits[1])

    def run_heads(self, given: dict[str, Any], places: torch.Tensor | None) -> tuple[Any, Any]:
        """Return the outputs of the full model and of the second head."""
        layers, path = list(self._layers), self.config.layers_path
        middle, last = Observed(layers[self.config.layer - 1]), Observed(layers[-1], places)
        below, above = layers[: self.config.layer - 1], layers[self.config.layer : -1]
        full = view_with(self.model, {path: nn.ModuleList([*below, middle, *above, last])})(**given)
        kept = middle.given
        frozen = not any(parameter.requires_grad for parameter in middle.layer.parameters())
        if torch.is_grad_enabled() and not frozen and not layer_states(kept).requires_grad:
            raise UnsupportedModelError(
                "Checkpointed layers give states without a gradient, so the second head would not reach those below. "
                "Pass gradient_checkpointing_kwargs={'use_reentrant': False}."
            )
        slots: list[nn.Module] = [Replayed(layer, kept) for layer in layers[:-1]]
        slots.append(Replayed(layers[-1], at_places(kept, places)))
        return full, view_with(self.model, {path: nn.ModuleList(slots)} | self._head_parts())(**given)

    @property
    def _layers(self) -> nn.ModuleList:
        """The list of layers."""
        return cast(nn.ModuleList, self.model.get_submodule(self.config.layers_path))

    def _head_parts(self) -> dict[str, Part]:
        """Return the parts of the second head by the names of what they stand for."""
        return {name: part_at(self.mini_head, name) for name in self.config.head_parts}

    def _check_inputs(self, labels: torch.Tensor | None, inputs: dict[str, Any]) -> None:
        """Raise if a forward pass could not mean what its caller expects."""
        if labels is None and self.training:
            raise InvalidOptionError(
                "A joint model in training got no labels, and its loss is that of two heads. Call joint.eval() to "
                "predict. To train give labels, and leave label_smoothing_factor and compute_loss_func of the Trainer "
                "out: they keep labels from the model."
            )
        asked = [name for name in _NOT_GIVEN if inputs.get(name)]
        if asked:
            raise InvalidOptionError(
                f"A joint model has no {', '.join(asked)}: its output is that of two models. Ask joint.primary or "
                "joint.cut()."
            )

    def _places(self, labels: torch.Tensor | None) -> torch.Tensor | None:
        """Return where heads are computed, a mask `(batch, length)`; None for everywhere."""
        only = self.training and self.is_masked and self.config.labelled_only
        return labels != IGNORED if only and labels is not None else None

    def _count(self, labels: torch.Tensor, shifted: torch.Tensor | None) -> int:
        """Return how many labels the mean loss of a head is over."""
        if shifted is None:
            shifted = labels if self.is_masked else labels[..., 1:]
        return int((shifted != IGNORED).sum())

    def _quiet(self) -> dict[str, Any]:
        """Return inputs that switch off what two heads do not give."""
        accepted = inspect.signature(self.model.forward).parameters
        options: dict[str, Any] = {"use_cache": False} if "use_cache" in accepted else {}
        configs = (self.model.config, main_config(self.model.config))
        asked = (name for name in _NOT_GIVEN if any(getattr(config, name, None) for config in configs))
        return {"return_dict": True} | options | dict.fromkeys(asked, False)

    def _renew_head(self, seed: int) -> None:
        """Draw the second head anew, as the full model's class initialises its own."""
        with random_state_kept(seed), torch.no_grad():
            for module in reversed(list(self.mini_head.modules())):
                self._init_weights(module)

    def _init_weights(self, module: nn.Module) -> None:
        self.model._init_weights(module)

    def init_weights(self) -> None:
        """Do nothing: the full model has its values, and the second head begins as a copy."""

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Write a folder that :meth:`from_pretrained` loads; options are those of transformers."""
        if self.model.can_generate():
            self.config.generation = self.model.generation_config.to_diff_dict()
        super().save_pretrained(save_directory, *args, **kwargs)

    def get_input_embeddings(self) -> Any:
        """Return the token table of both heads."""
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Give both heads another token table."""
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> Any:
        """Return the output table of both heads."""
        return self.model.get_output_embeddings()

    def set_output_embeddings(self, value: nn.Module) -> None:
        """Give both heads another output table."""
        self.model.set_output_embeddings(value)


def _primary_class(config: MiniJointConfig) -> type[PreTrainedModel]:
    """Return the class of the full model.

    Raises:
        InvalidOptionError: If the config does not say.
    """
    found = getattr(transformers, config.primary_class or "", None)
    if config.primary is None or not isinstance(found, type) or not issubclass(found, PreTrainedModel):
        raise InvalidOptionError(
            f"The class of the full model is '{config.primary_class}', which transformers does not have. Give one of "
            "its classes as model_class, for example 'BertForMaskedLM'."
        )
    return found


def _check_config(config: MiniJointConfig, layers: nn.ModuleList) -> None:
    """Raise if an option is out of range.

    Raises:
        InvalidOptionError: The message names it.
    """
    layer: Any = config.layer
    if not isinstance(layer, int) or isinstance(layer, bool) or not 0 < layer < len(layers):
        raise InvalidOptionError(
            f"The second head cannot stand after layer {layer!r} of {len(layers)}. Give a whole number from 1 to "
            f"{len(layers) - 1}."
        )
    if not 0 < config.mini_weight < 1:
        raise InvalidOptionError(
            f"mini_weight is {config.mini_weight}. Give a share between 0 and 1, 0.5 for the mean."
        )


def register() -> None:
    """Let ``AutoConfig`` and ``AutoModel`` know the classes."""
    AutoConfig.register(MODEL_TYPE, MiniJointConfig, exist_ok=True)
    AutoModel.register(MiniJointConfig, MiniJointModel, exist_ok=True)


register()

__all__ = ["MODEL_TYPE", "MiniJointConfig", "MiniJointModel", "MiniJointOutput", "register"]
