"""The README's Python runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_eight_lines_run(tmp_path, monkeypatch, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert len([line for line in code.splitlines() if line.strip()]) <= 8
    monkeypatch.chdir(tmp_path)  # nothing of the clone lies there
    exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "mean.png").stat().st_size > 10_000
    assert "nfe=4" in capsys.readouterr().out


def test_the_readmes_links_lead_somewhere():
    text = (ROOT / "README.md").read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert "://" in target or (ROOT / target).exists(), target
