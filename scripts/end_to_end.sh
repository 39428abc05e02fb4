#!/usr/bin/env bash
# From raw text to a model on the Hub and back by its name, by the commands a user types: a small English language
# model gets a Swahili vocabulary, is trained on Swahili, measured, pushed to a Hub on this machine, and loaded from
# there with plain transformers. A few minutes on one core; nothing is downloaded.
#
#     scripts/end_to_end.sh [FOLDER]        PYTHON=..., LINES=4000, SOURCE_STEPS=200, STEPS=100 change the defaults
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
if [ -z "${HF_ENDPOINT:-}" ]; then
    exec "$python" scripts/hub_for_tests.py bash scripts/end_to_end.sh "$@"
fi
folder=${1:-$(mktemp -d)}
name=me/llama-sw
export HF_HUB_DISABLE_PROGRESS_BARS=1
say() { printf '\n== %s\n' "$*"; }
run() { printf '$ hf-vocab-extend'; printf ' %q' "$@"; echo; "$python" -m hf_vocab_extend.cli.main "$@"; }

if [ -e "$folder" ] && { [ ! -d "$folder" ] || [ -n "$(ls -A "$folder")" ]; }; then
    echo "'$folder' is not empty. Name a new folder: scripts/end_to_end.sh FOLDER" >&2
    exit 1
fi

say "Raw text, and a model of its source language"
"$python" scripts/end_to_end_data.py "$folder" --lines "${LINES:-4000}" --steps "${SOURCE_STEPS:-200}"

say "A tokenizer with new tokens"
run grow "$folder/english-model" "$folder/tokenizer-sw" --corpus "$folder/swahili.txt" --num-new-tokens 1000
run fertility "$folder/english-model" "$folder/tokenizer-sw" --corpus "$folder/swahili-test.txt"

say "A model with the new vocabulary"
run extend "$folder/english-model" "$folder/tokenizer-sw" "$folder/extended" --method subword \
    --corpus "$folder/swahili.txt" --language sw

say "Training in stages, with replay"
run train "$folder/extended" "$folder/trained" --corpus "$folder/swahili.txt" --replay "$folder/english.txt" \
    --stages "${STAGES:-embeddings_first}" --steps "${STEPS:-100}" --batch-size 16 --block-size 64 \
    --learning-rate 2e-3 --held-out 50 --evaluations 2 --language sw --seed 1

say "Bits per byte before and after, into the report and the card"
run eval "$folder/trained" --bits-per-byte "$folder/swahili-test.txt" \
    --source-bits-per-byte "$folder/english-test.txt" --before "$folder/english-model" --record

say "To the Hub, private, in one commit"
run push "$folder/trained" "$name" --private --message "Swahili vocabulary, trained" --format json

say "Back by its name: plain transformers, without this package"
cd "$folder"
"$python" - "$name" "$folder/trained" <<'PYTHON'
import sys

sys.modules["hf_vocab_extend"] = None
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

name, folder = sys.argv[1:]
tokenizer, model = AutoTokenizer.from_pretrained(name), AutoModelForCausalLM.from_pretrained(name)
pushed = AutoModelForCausalLM.from_pretrained(folder)
inputs = tokenizer("Watu wengi wanahitaji maji safi.", return_tensors="pt")
with torch.no_grad():
    assert torch.equal(model(**inputs).logits, pushed(**inputs).logits)
print(f"{name}: {type(model).__name__}, {len(tokenizer)} tokens, {inputs['input_ids'].shape[1]} for the sentence; "
      "its outputs are bitwise those of the folder that was pushed.")
PYTHON
say "Done: $folder; the local Hub that held $name has ended"
