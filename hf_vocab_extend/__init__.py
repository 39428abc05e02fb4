"""Give a pretrained Hugging Face model a vocabulary for a new language.

Names are imported at first use, so that ``import hf_vocab_extend`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import registration

__version__ = "0.1.0"

_EXPORTS = {
    "Cost": "adaptation.cost",
    "CostMeter": "adaptation.cost",
    "ExtensionReport": "report",
    "InitMethod": "methods.base",
    "LanguageHeads": "modeling.language_heads",
    "LearnedEmbeddings": "adaptation.mini_model.learning",
    "MiniJointModel": "adaptation.mini_model.joint",
    "MiniModelCallback": "adaptation.mini_model.post_training",
    "Stage": "adaptation.stages",
    "TaskModel": "adaptation.mini_model.task_models",
    "TokenMapping": "mapping",
    "TrainingOptions": "adaptation.training_options",
    "VocabExtension": "result",
    "VocabExtensionCallback": "adaptation.callback",
    "VocabExtensionTrainer": "adaptation.trainer",
    "VocabExtensionTrainerMixin": "adaptation.trainer",
    "bits_per_byte": "evaluation.bits_per_byte",
    "build_mini_model": "adaptation.mini_model.building",
    "build_plan": "plan",
    "check_alignment": "adaptation.mini_model.alignment",
    "choose_rank": "surgery.low_rank",
    "distill_parallel": "adaptation.distillation.parallel",
    "distill_tokens": "adaptation.distillation.tokens",
    "extend_tokenizer": "vocab.growing",
    "extend_vocabulary": "extend",
    "factorize_embeddings": "surgery.factorize",
    "factorized_parameter_groups": "surgery.parameter_groups",
    "learn_embeddings": "adaptation.mini_model.learning",
    "list_methods": "methods",
    "load_adapter": "adaptation.adapter_files",
    "lora_arguments": "adaptation.adapters",
    "measure_fertility": "vocab.fertility",
    "merge_factorized": "surgery.factorize",
    "merge_tokenizers": "vocab.merging",
    "mix_replay": "adaptation.replay",
    "parameter_groups": "adaptation.learning_rates",
    "register_method": "methods",
    "render_card": "hub.card",
    "save_adapter": "adaptation.adapter_files",
    "train_classifier": "adaptation.mini_model.tasks",
    "train_language_model": "adaptation.training",
    "train_mini_model": "adaptation.mini_model.post_training",
    "train_tagger": "adaptation.mini_model.tasks",
    "training_flops": "adaptation.flops",
    "transplant_embeddings": "adaptation.mini_model.transplanting",
}

if TYPE_CHECKING:
    from .adaptation.adapter_files import load_adapter, save_adapter
    from .adaptation.adapters import lora_arguments
    from .adaptation.callback import VocabExtensionCallback
    from .adaptation.cost import Cost, CostMeter
    from .adaptation.distillation.parallel import distill_parallel
    from .adaptation.distillation.tokens import distill_tokens
    from .adaptation.flops import training_flops
    from .adaptation.learning_rates import parameter_groups
    from .adaptation.mini_model.alignment import check_alignment
    from .adaptation.mini_model.building import build_mini_model
    from .adaptation.mini_model.joint import MiniJointModel
    from .adaptation.mini_model.learning import LearnedEmbeddings, learn_embeddings
    from .adaptation.mini_model.post_training import MiniModelCallback, train_mini_model
    from .adaptation.mini_model.task_models import TaskModel
    from .adaptation.mini_model.tasks import train_classifier, train_tagger
    from .adaptation.mini_model.transplanting import transplant_embeddings
    from .adaptation.replay import mix_replay
    from .adaptation.stages import Stage
    from .adaptation.trainer import VocabExtensionTrainer, VocabExtensionTrainerMixin
    from .adaptation.training import train_language_model
    from .adaptation.training_options import TrainingOptions
    from .evaluation.bits_per_byte import bits_per_byte
    from .extend import extend_vocabulary
    from .hub.card import render_card
    from .mapping import TokenMapping
    from .methods import list_methods, register_method
    from .methods.base import InitMethod
    from .modeling.language_heads import LanguageHeads
    from .plan import build_plan
    from .report import ExtensionReport
    from .result import VocabExtension
    from .surgery.factorize import factorize_embeddings, merge_factorized
    from .surgery.low_rank import choose_rank
    from .surgery.parameter_groups import factorized_parameter_groups
    from .vocab.fertility import measure_fertility
    from .vocab.growing import extend_tokenizer
    from .vocab.merging import merge_tokenizers

__all__ = [
    "Cost",
    "CostMeter",
    "ExtensionReport",
    "InitMethod",
    "LanguageHeads",
    "LearnedEmbeddings",
    "MiniJointModel",
    "MiniModelCallback",
    "Stage",
    "TaskModel",
    "TokenMapping",
    "TrainingOptions",
    "VocabExtension",
    "VocabExtensionCallback",
    "VocabExtensionTrainer",
    "VocabExtensionTrainerMixin",
    "__version__",
    "bits_per_byte",
    "build_mini_model",
    "build_plan",
    "check_alignment",
    "choose_rank",
    "distill_parallel",
    "distill_tokens",
    "extend_tokenizer",
    "extend_vocabulary",
    "factorize_embeddings",
    "factorized_parameter_groups",
    "learn_embeddings",
    "list_methods",
    "load_adapter",
    "lora_arguments",
    "measure_fertility",
    "merge_factorized",
    "merge_tokenizers",
    "mix_replay",
    "parameter_groups",
    "register_method",
    "render_card",
    "save_adapter",
    "train_classifier",
    "train_language_model",
    "train_mini_model",
    "train_tagger",
    "training_flops",
    "transplant_embeddings",
]

registration.install()


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name not in _EXPORTS:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    value = getattr(importlib.import_module(f".{_EXPORTS[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return __all__
