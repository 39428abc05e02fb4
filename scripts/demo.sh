#!/usr/bin/env bash
# Set up an environment of its own (Python 3.11 and a C compiler are all it needs) and run the demo:
# a real English sentence encoder learns a Swahili vocabulary. Arguments go to `hf-vocab-extend demo`.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh
make_environment .venv-demo demo
say "Running the demo"
exec "$PYTHON" -m hf_vocab_extend.cli.main demo "$@"
