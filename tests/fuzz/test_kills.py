"""Commands killed at some of their calls to the file system; `make fuzz` takes all of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

WHOLE = "LATINO_FUZZ" in os.environ
KILLS = Path(__file__).with_name("kills.py")


@pytest.mark.slow  # a process for each kill and one for each look
@pytest.mark.timeout(0 if WHOLE else 900)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the harness forks")
@pytest.mark.parametrize("exchange", [True, False])
def test_killed_anywhere_the_old_or_the_new_stands(exchange):
    few = [] if WHOLE else ["--points", "1"]
    if not exchange:
        few += ["--no-exchange", "--commands", "compile", "sample", "--targets", "existing"]
    command = [sys.executable, str(KILLS), *few]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=None if WHOLE else 850
    )
    print(done.stdout, file=sys.stderr)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0 and rows, done.stdout + done.stderr
    assert all(row["killed_at"] > 0 and row["fell_short"] == [] for row in rows)
