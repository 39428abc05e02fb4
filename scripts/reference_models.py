"""Train two small reference models from scratch on English text: one causal, one masked.

    python scripts/reference_models.py --data DATA --out reference            # both, one after the other
    python scripts/reference_models.py --data DATA --out reference --only causal

`reference/causal` is shaped like Llama, `reference/masked` like BERT in its modern form (ModernBERT: rotary
positions, normalised first; BERT and RoBERTa themselves did not get below the loss of word frequencies in this
budget). Each has a byte-level BPE tokenizer of the same text. They are what `benchmark_training.py` brings to another
language: small enough for two cores, and trained on text that is known, so that nothing of the new language was ever
seen. A model that is there is not trained again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transfer_data import Language
from transformers import (
    DataCollatorForLanguageModeling,
    LlamaConfig,
    LlamaForCausalLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
)

from hf_vocab_extend.modeling.masked_positions import masked_positions_only
from hf_vocab_extend.saving import save_tokenizer

VOCABULARY, BLOCK, BATCH, SEED = 8_000, 128, 16, 0
WIDTH, LAYERS, HEADS = 256, 4, 4
TOKENS = {"causal": 2_400_000, "masked": 6_000_000}
"""A masked model learns from a part of the tokens only, and its steps cost half as much."""
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


def english(data: Path) -> list[str]:
    """Return the English training text, each line once."""
    lines = [line for code in ("sw", "hi") for line in Language(data, code).english_text]
    return list(dict.fromkeys(lines))


def train_tokenizer(kind: str, text: list[str]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer; the same text gives the same tokenizer."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    special = list(dict.fromkeys(SPECIAL[kind].values()))
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(text, trainer)
    bos, eos = (backend.token_to_id(token) for token in ("<s>", "</s>"))
    template = "<s> $A" if kind == "causal" else "<s> $A </s>"
    backend.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[("<s>", bos), ("</s>", eos)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=BLOCK, **SPECIAL[kind])


def build(kind: str, tokenizer: PreTrainedTokenizerFast) -> torch.nn.Module:
    """Build an untrained model."""
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    shape = {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "tie_word_embeddings": True,
    }
    torch.manual_seed(SEED)
    if kind == "causal":
        return LlamaForCausalLM(
            LlamaConfig(intermediate_size=8 * WIDTH // 3 // 16 * 16, max_position_embeddings=512, **shape, **ids)
        )
    ids |= {name: getattr(tokenizer, name) for name in ("cls_token_id", "sep_token_id")}
    config = ModernBertConfig(
        intermediate_size=2 * WIDTH, max_position_embeddings=512, global_attn_every_n_layers=1, **shape, **ids
    )
    return ModernBertForMaskedLM(config)


def blocks(tokenizer: PreTrainedTokenizerFast, text: list[str]) -> list[dict[str, list[int]]]:
    """Return blocks of BLOCK tokens; lines are joined by the end token, the last incomplete block is dropped."""
    eos: list[int] = [tokenizer.eos_token_id]
    ids = [token for line in tokenizer(text, add_special_tokens=False)["input_ids"] for token in line + eos]
    return [{"input_ids": ids[start : start + BLOCK]} for start in range(0, len(ids) - BLOCK + 1, BLOCK)]


def train(kind: str, data: Path, folder: Path, n_tokens: int) -> dict[str, float]:
    """Train one model and write it with its tokenizer."""
    text = english(data)
    tokenizer = train_tokenizer(kind, text)
    model, rows = build(kind, tokenizer), blocks(tokenizer, text)
    arguments = TrainingArguments(
        output_dir=str(folder.with_name(f"{kind}-work")),
        max_steps=n_tokens // (BATCH * BLOCK),
        per_device_train_batch_size=BATCH,
        learning_rate=2e-3,
        lr_scheduler_type="cosine",
        warmup_steps=100,
        weight_decay=0.05,
        adam_beta2=0.98,
        bf16=True,
        use_cpu=True,
        seed=SEED,
        save_strategy="no",
        logging_steps=100,
        report_to=[],
        dataloader_pin_memory=False,
    )
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=kind == "masked", mlm_probability=MASKED)
    trainer = Trainer(model, arguments, train_dataset=rows, data_collator=collator)
    start = time.perf_counter()
    if kind == "masked":
        masked_positions_only(model)
    trainer.train()
    if kind == "masked":
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
    parser.add_argument("--out", type=Path, required=True, help="folder for the two models")
    parser.add_argument("--only", choices=tuple(SPECIAL), help="train one of them")
    parser.add_argument("--tokens", type=int, help=f"tokens to train on (default: {TOKENS})")
    parser.add_argument("--threads", type=int, help="threads of torch")
    options = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    if options.threads:
        torch.set_num_threads(options.threads)
    for kind in (options.only,) if options.only else tuple(SPECIAL):
        folder = options.out / kind
        if (folder / "training.json").is_file():
            print(f"{kind}: already there")
            continue
        facts = train(kind, options.data, folder, options.tokens or TOKENS[kind])
        print(kind, json.dumps(facts), platform.machine(), flush=True)


if __name__ == "__main__":
    main()
