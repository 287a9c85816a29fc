"""The counts behind docs/gpu.md, against counts by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from onnx import helper

from benchmarks.floors import gpu_budget
from latino_engine import load_prior
from latino_engine.export.denoiser import exact_graph

ROOT = Path(__file__).parents[2]

TINY = {"widths": [8], "blocks_per_level": 1, "attention_heads": 2, "embedding": 16, "groups": 4,
        "pixel_unshuffle": 2}  # fmt: skip


def test_one_level_counted_by_hand():
    """Sides 16 become 8 x 8 of 12 channels: n = 64 positions."""
    n = 64
    convolutions = 9 * (12 * 8 + 8 * 8 + 8 * 8)  # in, and the block on the way down
    convolutions += 9 * (16 * 8 + 8 * 8) + 16 * 8  # the block on the way up, with its skip
    convolutions += 8 * 24 + 8 * 8  # attention
    convolutions += 9 * 8 * 12  # out
    linear = 64 * 16 + 16 * 16 + 2 * 16 * 16
    norms = 8 + 8 + 8 + 16 + 8 + 8  # channels of the six normalisations
    expected = 2 * n * convolutions + 2 * linear + 4 * 8 * n**2 + 6 * n * norms
    found = gpu_budget.budget(TINY, 1, 16)
    assert found.flops == expected
    # Two projections of one embedding are one launch.
    assert found.embedding_flops == 2 * linear
    assert found.embedding_launches == 3 and found.merged_launches == 1
    assert found.by_kind == {"Attention": 1, "Conv2d": 9, "GroupNorm": 6, "Linear": 4}
    assert found.launches == 19
    twice = gpu_budget.budget(TINY, 2, 16)
    assert twice.flops == 2 * expected and found.bytes < twice.bytes < 2 * found.bytes


def test_nodes_by_what_they_depend_on():
    names = [("Shape", "x", "a"), ("Sin", "sigma", "b"), ("Exp", "b", "c"), ("Neg", "x", "d")]
    nodes = [helper.make_node(kind, [source], [out]) for kind, source, out in names]
    nodes.append(helper.make_node("MatMul", ["b", "c"], ["e"]))
    nodes.append(helper.make_node("Mul", ["d", "e"], ["x0_hat"]))
    model = helper.make_model(helper.make_graph(nodes, "g", [], []))
    assert gpu_budget.embedding_nodes(model) == {"nodes": 6, "sigma": 3, "shape": 1, "matrix": 1}


@pytest.mark.parametrize("row", ["photo-small", "ADM-sized"])
@pytest.mark.parametrize("batch", [1, 4])
def test_the_table_of_the_page_is_what_is_counted(row, batch):
    architecture = {"photo-small": gpu_budget.SHIPPED, "ADM-sized": gpu_budget.ADM_SIZED}[row]
    found = gpu_budget.budget(architecture, batch, 256).to_json()
    gflop = f"{found['GFLOP']:.1f}" if found["GFLOP"] < 100 else f"{found['GFLOP']:.0f}"
    cells = [
        gflop, f"{found['MB']:.0f}", str(found["launches"]),
        f"{found['compute_us']:.0f} us", f"{found['memory_us']:.0f} us",
    ]  # fmt: skip
    parameters = "2.4 M" if row == "photo-small" else "310 M"
    line = " | ".join([f"| {row}", parameters, str(batch), *cells]) + " |"
    assert line in (ROOT / "docs" / "gpu.md").read_text()


def test_the_table_of_the_time_embedding_is_what_is_counted():
    prior = load_prior("photo-small")
    exported, plan = (
        gpu_budget.embedding_nodes(model)
        for model in (gpu_budget._exported(prior), exact_graph(prior))
    )
    small, large = (
        gpu_budget.budget(architecture, 1, 256)
        for architecture in (gpu_budget.SHIPPED, gpu_budget.ADM_SIZED)
    )

    def launches(found):
        before = found.launches + found.merged_launches
        embedding = found.embedding_launches + found.merged_launches
        return f"{before} | {embedding} | {found.launches} | {found.embedding_launches} |"

    def gflop(found, digits):
        pair = f"{found.flops / 1e9:.{digits}f} | {found.embedding_flops / 1e9:.1g}"
        return f"{pair} | {pair} |"

    lines = [
        f"| nodes, photo-small ({exported['shape']} more depend on shapes alone) | "
        f"{exported['nodes']} | {exported['sigma']} | {plan['nodes']} | {plan['sigma']} |",
        f"| of these, matrix products | | {exported['matrix']} | | {plan['matrix']} |",
        f"| launches, photo-small | {launches(small)}",
        f"| launches, ADM-sized | {launches(large)}",
        f"| GFLOP, photo-small | {gflop(small, 1)}",
        f"| GFLOP, ADM-sized | {gflop(large, 0)}",
    ]
    page = (ROOT / "docs" / "gpu.md").read_text()
    assert not [line for line in lines if line not in page]
