#!/usr/bin/env bash
# Set up an environment of its own (Python 3.11 and a C compiler are all it needs) and run the tests.
# Arguments go to pytest: bash scripts/test.sh tests/test_plan.py -k extend
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh
make_environment .venv-test dev
say "Running the tests (pytest)"
export HF_HUB_OFFLINE=1
exec "$PYTHON" -m pytest -m "not slow" -n 2 "$@"
