# Sourced by demo.sh and test.sh: makes a virtual environment with the pinned packages and this project in it.
# Sets PYTHON to its interpreter. Safe to run again: a finished environment of the same pins is taken as it is.

# say TEXT: what is being done, on standard error.
say() { printf '==> %s\n' "$*" >&2; }

# make_environment FOLDER EXTRAS
make_environment() {
    local folder=$1 extras=$2 base stamp
    base=${HF_VOCAB_EXTEND_PYTHON:-python3.11}
    command -v "$base" >/dev/null || base=python3
    "$base" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        say "Python 3.11 or later is needed; '$base' is $("$base" --version 2>&1). Set HF_VOCAB_EXTEND_PYTHON."
        return 1
    }
    PYTHON=$folder/bin/python
    stamp=$(cat scripts/constraints.txt pyproject.toml <(echo "$extras") | sha256sum | cut -d' ' -f1)
    if [ "$(cat "$folder/.stamp" 2>/dev/null)" = "$stamp" ] && "$PYTHON" -c 'import hf_vocab_extend' 2>/dev/null; then
        say "Using the environment in $folder"
        return 0
    fi
    say "Making a virtual environment in $folder (a few minutes, once)"
    rm -rf "$folder"
    "$base" -m venv "$folder"
    say "Installing torch (CPU)"
    "$PYTHON" -m pip install -qq --disable-pip-version-check -c scripts/constraints.txt torch==2.13.0
    say "Installing hf_vocab_extend[$extras] and what it needs"
    "$PYTHON" -m pip install -qq --disable-pip-version-check -c scripts/constraints.txt -e ".[$extras]"
    echo "$stamp" >"$folder/.stamp"
}
