"""The Python of docs/deepinv.md runs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("deepinv", reason="peers: run make test-peers")
sys.path.insert(0, str(Path(__file__).parents[1] / "pages"))

from test_docs import run_page


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore::UserWarning:deepinv")
def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_page("deepinv.md")
