"""Train the small reference models on English text: two from scratch to extend, three for mini-model adaptation.

    python scripts/reference_models.py --data DATA --out reference                       # causal and masked
    python scripts/reference_models.py --data DATA --out reference --only deep joint minilm

`reference/causal` is shaped like Llama, `reference/masked` like BERT in its modern form (ModernBERT: rotary
positions, normalised first; BERT and RoBERTa themselves did not get below the loss of word frequencies in this
budget). Each has a byte-level BPE tokenizer of the same text. They are what `benchmark_training.py` brings to another
language: small enough for two cores, and trained on text that is known, so that nothing of the new language was ever
seen. `reference/deep` is a masked one of 12 layers, `reference/joint` the same with a second head after layer 4
(MiniJoint), and `reference/minilm` is all-MiniLM-L6-v2 with an output layer after layer 6 and one after layer 3, all
of it trained on: what `benchmark_mini_model.py` compares. A model that is there is not trained again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transfer_data import MODEL, Language
from transformers import (
    AutoTokenizer,
    BertForMaskedLM,
    DataCollatorForLanguageModeling,
    LlamaConfig,
    LlamaForCausalLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
)

from hf_vocab_extend import MiniJointModel
from hf_vocab_extend.adaptation.data import packed_blocks
from hf_vocab_extend.modeling.masked_positions import masked_positions_only
from hf_vocab_extend.saving import save_tokenizer

VOCABULARY, BLOCK, BATCH, SEED = 8_000, 128, 16, 0
MASKED = 0.3
"""More than BERT's 15 %: more to learn from in each step (Wettig et al. 2023, arXiv 2202.08005)."""
WORDS = r"'(?:s|t|re|ve|m|ll|d)| ?[\p{L}\p{M}]+| ?\p{N}{1,3}| ?[^\s\p{L}\p{M}\p{N}]+|\s+(?!\S)|\s+"
"""Pre-tokens: words with their combining marks, so that Hindi is not cut at its vowel signs."""
SPECIAL = {
    "causal": {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"},
    "masked": {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "cls_token": "<s>",
        "sep_token": "</s>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    },
}


@dataclass(frozen=True)
class Kind:
    """One reference model.

    Attributes:
        objective: ``causal`` or ``masked``.
        tokens: Tokens that it is trained on. A masked model learns from a part of them only, and its steps cost less.
        shape: Width, layers and attention heads; None for all-MiniLM-L6-v2.
        second_head: The layer after which a second head reads, if there is one.
        learning_rate: Highest learning rate.
    """

    objective: str
    tokens: int
    shape: tuple[int, int, int] | None
    second_head: int | None = None
    learning_rate: float = 2e-3


KINDS = {
    "causal": Kind("causal", 2_400_000, (256, 4, 4)),
    "masked": Kind("masked", 6_000_000, (256, 4, 4)),
    "deep": Kind("masked", 4_000_000, (192, 12, 3)),
    "joint": Kind("masked", 4_000_000, (192, 12, 3), second_head=4),
    "minilm": Kind("masked", 614_400, None, second_head=3, learning_rate=5e-4),
}
FIRST = ("causal", "masked")
"""Those that are trained by default."""


def english(data: Path) -> list[str]:
    """Return the English training text, each line once."""
    lines = [line for code in ("sw", "hi") for line in Language(data, code).english_text]
    return list(dict.fromkeys(lines))


def train_tokenizer(objective: str, text: list[str]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer; the same text gives the same tokenizer."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    special = list(dict.fromkeys(SPECIAL[objective].values()))
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(text, trainer)
    bos, eos = (backend.token_to_id(token) for token in ("<s>", "</s>"))
    template = "<s> $A" if objective == "causal" else "<s> $A </s>"
    backend.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[("<s>", bos), ("</s>", eos)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=BLOCK, **SPECIAL[objective])


def build(kind: Kind, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Build a model that was not trained here yet."""
    torch.manual_seed(SEED)
    if kind.shape is None:
        return BertForMaskedLM.from_pretrained(MODEL, local_files_only=True)
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    width, n_layers, n_heads = kind.shape
    shape = {
        "vocab_size": len(tokenizer),
        "hidden_size": width,
        "num_hidden_layers": n_layers,
        "num_attention_heads": n_heads,
        "tie_word_embeddings": True,
    }
    if kind.objective == "causal":
        return LlamaForCausalLM(
            LlamaConfig(intermediate_size=8 * width // 3 // 16 * 16, max_position_embeddings=512, **shape, **ids)
        )
    ids |= {name: getattr(tokenizer, name) for name in ("cls_token_id", "sep_token_id")}
    config = ModernBertConfig(
        intermediate_size=2 * width, max_position_embeddings=512, global_attn_every_n_layers=1, **shape, **ids
    )
    return ModernBertForMaskedLM(config)


def blocks(tokenizer: PreTrainedTokenizerBase, text: list[str]) -> list[dict[str, list[int]]]:
    """Return blocks of BLOCK tokens; lines are joined by the end token, the last incomplete block is dropped."""
    eos: list[int] = [tokenizer.eos_token_id]
    ids = [token for line in tokenizer(text, add_special_tokens=False)["input_ids"] for token in line + eos]
    return [{"input_ids": ids[start : start + BLOCK]} for start in range(0, len(ids) - BLOCK + 1, BLOCK)]


def train(name: str, data: Path, folder: Path, n_tokens: int) -> dict[str, Any]:
    """Train one model and write it with its tokenizer."""
    kind, text = KINDS[name], english(data)
    tokenizer: Any = (
        train_tokenizer(kind.objective, text)
        if kind.shape
        else AutoTokenizer.from_pretrained(MODEL, local_files_only=True)
    )
    model = build(kind, tokenizer)
    rows = blocks(tokenizer, text) if kind.shape else list(packed_blocks(tokenizer, text, BLOCK, objective="masked"))
    if kind.second_head:
        model = MiniJointModel.from_model(model, layer=kind.second_head, seed=SEED)
    arguments = TrainingArguments(
        output_dir=str(folder.with_name(f"{name}-work")),
        max_steps=n_tokens // (BATCH * BLOCK),
        per_device_train_batch_size=BATCH,
        learning_rate=kind.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=100 if kind.shape else 40,
        weight_decay=0.05 if kind.shape else 0.01,
        adam_beta2=0.98,
        bf16=True,
        use_cpu=True,
        seed=SEED,
        save_strategy="no",
        logging_steps=100,
        report_to=[],
        dataloader_pin_memory=False,
    )
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=kind.objective == "masked", mlm_probability=MASKED)
    trainer = Trainer(model, arguments, train_dataset=rows, data_collator=collator)
    start = time.perf_counter()
    sparse = kind.objective == "masked" and not kind.second_head  # a joint model does so by itself
    if sparse:
        masked_positions_only(model)
    trainer.train()
    if sparse:
        masked_positions_only(model, False)
    seconds = time.perf_counter() - start
    model.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    facts = {
        "seconds": round(seconds, 1),
        "steps": arguments.max_steps,
        "tokens": arguments.max_steps * BATCH * BLOCK,
        "tokens_in_text": len(rows) * BLOCK,
        "last_loss": losses[-1],
        "parameters": model.num_parameters(),
        "threads": torch.get_num_threads(),
    }
    (folder / "training.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
    return facts


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with mono/ and parallel/")
    parser.add_argument("--out", type=Path, required=True, help="folder for the models")
    parser.add_argument("--only", nargs="+", choices=tuple(KINDS), default=FIRST, help="which to train")
    parser.add_argument("--tokens", type=int, help="tokens to train on (default: each model's own number)")
    parser.add_argument("--threads", type=int, help="threads of torch")
    options = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    if options.threads:
        torch.set_num_threads(options.threads)
    for name in options.only:
        folder = options.out / name
        if (folder / "training.json").is_file():
            print(f"{name}: already there")
            continue
        facts = train(name, options.data, folder, options.tokens or KINDS[name].tokens)
        print(name, json.dumps(facts), platform.machine(), flush=True)


if __name__ == "__main__":
    main()
