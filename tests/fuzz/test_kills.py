"""Commands killed at some of their calls to the file system; `make fuzz` takes all of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = Path(__file__).with_name("kills.py")


@pytest.mark.slow  # a process for each kill and one for each look
@pytest.mark.timeout(0 if "LATINO_FUZZ" in os.environ else 1800)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the harness forks")
@pytest.mark.parametrize("exchange", [True, False])
def test_killed_anywhere_the_old_or_the_new_stands(exchange):
    few = [] if "LATINO_FUZZ" in os.environ else ["--points", "2"]
    if not exchange:
        few += ["--no-exchange", "--commands", "compile", "sample", "--targets", "existing"]
    done = subprocess.run(
        [sys.executable, str(KILLS), *few], capture_output=True, text=True, check=False
    )
    print(done.stdout, file=sys.stderr)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0 and rows, done.stdout + done.stderr
    assert all(row["killed_at"] > 0 and row["fell_short"] == [] for row in rows)
