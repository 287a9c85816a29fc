"""The Python of the pages in docs/ runs, and the navigation names pages that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

DOCS = Path(__file__).parents[2] / "docs"

#: Pages that have a test of their own, since they need other files or packages.
ELSEWHERE = {"priors.md", "ud2m.md", "deepinv.md", "operators.md", "latent.md"}
RUN = [
    page.name
    for page in sorted(DOCS.glob("*.md"))
    if page.name not in ELSEWHERE and "```python\n" in page.read_text()
]


def run_page(name: str) -> None:
    """Run the blocks of a page one after another; `<!-- not run -->` in front of one skips it."""
    text = (DOCS / name).read_text()
    names: dict[str, object] = {}
    for skipped, code in re.findall(
        r"(<!-- (?:not run|sampler.onnx) -->\n)?```python\n(.*?)```", text, re.S
    ):
        if not skipped:
            exec(compile(code, f"docs/{name}", "exec"), names)


@pytest.mark.parametrize("name", RUN)
def test_the_page_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.set_grad_enabled(True)
    run_page(name)


def test_the_navigation_names_every_page():
    nav = (DOCS.parent / "mkdocs.yml").read_text()
    listed = set(re.findall(r": ([\w-]+\.md)", nav))
    assert listed == {page.name for page in DOCS.glob("*.md")}


def test_the_site_asks_no_other_host():
    assert "font: false" in (DOCS.parent / "mkdocs.yml").read_text()
    assert "http" not in re.sub(r"#.*", "", (DOCS.parent / "mkdocs.yml").read_text())
