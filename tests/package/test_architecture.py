"""docs/architecture.md is true: its rooms exist, and imports go down its floors in no circle."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "latino_engine"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
CONFIGURATION = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
MOST_FLOORS = MOST_ROOT_NAMES = 14


def floors() -> list[list[str]]:
    """The rooms of the page, the highest floor first."""
    rows = re.findall(r"^\| (\d+) \| ([^|]+) \|", PAGE, re.M)
    assert [int(number) for number, _ in rows] == list(range(len(rows), 0, -1))
    return [re.findall(r"`([^`]+)`", rooms) for _, rooms in rows]


FLOORS = floors()
FLOOR = {room: level for level, rooms in enumerate(reversed(FLOORS)) for room in rooms}


def modules() -> dict[str, Path]:
    """Dotted name below the package -> file; a folder is its `__init__.py`."""
    names = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = file.relative_to(PACKAGE).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    del names[""]  # the package itself, which loads its names on first use
    return names


MODULES = modules()


def imported(file: Path) -> Iterator[str]:
    """The modules that a file imports anywhere: at its top, in a function, for types alone."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            inside = name.removeprefix("latino_engine.")
            if inside != name:
                yield inside if inside in MODULES else inside.rpartition(".")[0]


def awaited() -> set[tuple[str, str]]:
    """Arrows that pyproject.toml lets pass until they are gone."""
    arrows = re.findall(r'"latino_engine\.([\w.]+) -> latino_engine\.([\w.]+)"', CONFIGURATION)
    return set(arrows)


ARROWS = {
    (name, other)
    for name, file in MODULES.items()
    for other in imported(file)
    if other in MODULES and other != name
} - awaited()


def room(module: str) -> str:
    """The room of a module: `interop` has one below the engine and one above it."""
    two = ".".join(module.split(".")[:2])
    return two if two in FLOOR else module.split(".")[0]


def circle(arrows: set[tuple[str, str]]) -> list[str]:
    """The modules that are left once all without an arrow out of them are taken away in turn."""
    left = {name for arrow in arrows for name in arrow}
    while True:
        out = {a for a, b in arrows if a in left and b in left}
        if out == left:
            return sorted(left)
        left = out


def test_every_module_has_a_floor_and_every_room_is_there():
    found = {room(name) for name in MODULES} - {"interop", "kernels"}
    assert found == set(FLOOR), "docs/architecture.md: one row for every room"


def test_imports_go_downwards():
    pair = set(FLOORS[FLOORS.index(["compilation", "loading"])])  # the one floor in both directions
    upwards = [
        f"{name} -> {other}"
        for name, other in sorted(ARROWS)
        if room(name) != room(other)
        and FLOOR[room(name)] <= FLOOR[room(other)]
        and {room(name), room(other)} != pair
    ]
    assert not upwards


def test_no_module_imports_itself_through_others():
    assert circle(ARROWS) == []


def test_a_circle_is_seen():
    some = {("a", "b"), ("b", "c"), ("a", "d")}
    assert circle(some) == []
    assert circle(some | {("c", "a")}) == ["a", "b", "c"]


def test_there_are_few_floors_and_few_names_at_the_root():
    assert len(FLOORS) <= MOST_FLOORS
    names = sorted(file.name for file in PACKAGE.glob("*.py"))
    assert len(names) <= MOST_ROOT_NAMES, names


def test_lint_has_the_floors_of_the_page():
    (layers,) = re.findall(r"^layers = (\[.*?^\])", CONFIGURATION, re.M | re.S)
    listed = [
        [name.removeprefix("latino_engine.") for name in re.split(r" [|:] ", layer)]
        for layer in ast.literal_eval(layers)
    ]
    assert listed == FLOORS


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:\w+/)+(?:\w+\.\w+)?)`", PAGE))))
def test_the_places_of_the_page_exist(path):
    below = (ROOT, PACKAGE, PACKAGE / "priors", PACKAGE / "operators")
    assert any((folder / path).exists() for folder in below)
