"""Which family a combination of operators belongs to."""

from __future__ import annotations

from collections.abc import Sequence

from latino_engine.operators.protocol import Family, Operator


def family_of_chain(operators: Sequence[Operator]) -> Family:
    """That of the parts that change the image, where it is one, else "unknown"."""
    found = {op.family for op in operators} - {"denoising"}
    return _only(found)


def family_of_stack(operators: Sequence[Operator]) -> Family:
    """That of all parts where it is one, else "unknown"."""
    return _only({op.family for op in operators})


def _only(found: set[Family]) -> Family:
    if not found:
        return "denoising"
    return next(iter(found)) if len(found) == 1 else "unknown"
