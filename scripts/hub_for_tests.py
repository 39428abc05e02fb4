"""Run a command with a small Hub of its own on 127.0.0.1: create, upload and download, nothing leaves the machine.

    python scripts/hub_for_tests.py bash -c 'hf-vocab-extend push ./bert-sw me/bert-sw'

The command finds the Hub by ``HF_ENDPOINT``, a token with write access in ``HF_TOKEN`` (the user is ``me``), and an
empty cache in ``HF_HOME``. What was committed is listed when it ends; the Hub is gone then.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.hub_server import WRITE_TOKEN, running_hub


def main() -> int:
    if len(sys.argv) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    with running_hub() as hub, tempfile.TemporaryDirectory(prefix="hub-cache-") as cache:
        own = {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": WRITE_TOKEN, "HF_HOME": cache, "HF_HUB_OFFLINE": "0"}
        code = subprocess.run(sys.argv[1:], env={**os.environ, **own}).returncode
        for name, repo in hub.repos.items():
            for commit in repo.commits:
                print(f"{name} {commit.branch} {commit.oid[:8]}: {len(commit.paths)} files, {commit.summary}")
    return code


if __name__ == "__main__":
    sys.exit(main())
