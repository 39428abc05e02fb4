"""What the end-to-end run starts from: raw text in two languages, and a small model that has read one of them.

    python scripts/end_to_end_data.py FOLDER

Text: the packaged English-Swahili sample. Model: a Llama of two layers with a byte-level BPE, trained on its English
for a minute on one core; it stands for a real one.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hf_vocab_extend.demo.data import load_samples

LENGTH, BATCH = 64, 16


def write_text(folder: Path, lines: int) -> list[str]:
    """Write the text in files, a line a sentence; return the English."""
    train, test = load_samples("train")[:lines], load_samples("test")[:100]
    texts = {
        "swahili.txt": [sample.swahili for sample in train],
        "english.txt": [sample.english for sample in train],
        "swahili-test.txt": [sample.swahili for sample in test],
        "english-test.txt": [sample.english for sample in test],
        "english-swahili.tsv": [f"{sample.english}\t{sample.swahili}" for sample in train],
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in texts.items():
        (folder / name).write_text("\n".join(rows) + "\n", "utf-8")
    return texts["english.txt"]


def make_tokenizer(lines: list[str], size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    backend.train_from_iterator(lines, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="</s>")


def train(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, lines: list[str], steps: int) -> None:
    """Train on the text, packed."""
    ids = [i for line in lines for i in [*tokenizer(line)["input_ids"], tokenizer.eos_token_id]]
    rows = torch.tensor(ids[: len(ids) // LENGTH * LENGTH]).view(-1, LENGTH)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).repeat(steps)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(steps):
        batch = rows[order[step * BATCH : (step + 1) * BATCH]]
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0 or step == steps - 1:
            print(f"step {step}: loss {loss.item():.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--lines", type=int, default=4000)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--vocabulary", type=int, default=1500)
    parser.add_argument("--width", type=int, default=96)
    args = parser.parse_args()
    lines = write_text(args.folder, args.lines)
    tokenizer = make_tokenizer(lines, args.vocabulary)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=args.width,
        intermediate_size=2 * args.width,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    train(model, tokenizer, lines, args.steps)
    model.save_pretrained(args.folder / "english-model")
    tokenizer.save_pretrained(args.folder / "english-model")


if __name__ == "__main__":
    main()
