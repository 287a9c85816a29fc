"""What a call costs in numbers that do not depend on the machine's mood: launches, copies,
allocations, bytes, graph nodes, waits. A larger one is a regression.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cuda_shim.fixtures import compiled_shim, shim_as_device  # noqa: F401  (fixtures)
from graph_stand_in import RecordingDriver
from tiny import tiny_prior
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import latino_engine as le
from latino_engine import ops
from latino_engine.bench import counting
from latino_engine.engine import Engine
from latino_engine.export.denoiser import export_denoiser
from latino_engine.ops import cpu_extension, cuda_extension
from latino_engine.ops.step_table import StepTable
from latino_engine.runtimes.protocol import DenoiserRuntime
from latino_engine.sampling.eager_steps import EagerSteps
from latino_engine.sampling.noise_stream import NoiseStream
from latino_engine.schedule import ud2m_schedule

SIDE = 64
IMAGE_BYTES = 4 * 3 * SIDE * SIDE
MASK = (torch.rand(SIDE, SIDE, generator=torch.Generator().manual_seed(0)) < 0.5).double()
#: The operator, the one call of the extension that is its inner step, and the bytes that this call
#: reads and writes for each pixel of the image (x, x_t and the result are 12).
STEPS = {
    "blur": (le.Blur.gaussian(1.0, 0.05), "fourier_prox_noise", 12 + 8 + 4 / 3 + 1),
    "sr": (le.SuperResolution(2, 0.05), "alias_prox_noise", 12 + 8 + 8 / 3 + 1),
    "inpainting": (le.Inpainting(MASK, 0.05), "masked_prox_noise", 12 + 4 + 4 / 3 + 1),
}
#: New tensors of an image's size in a whole call (checks of y, A(1) and residual, start, units,
#: chi2), copies among them.
PER_CALL = {"blur": (34, 2), "sr": (33, 6), "inpainting": (85, 2)}
every_step = pytest.mark.parametrize("name", STEPS)
needs_native = pytest.mark.skipif(
    cpu_extension.missing() is not None, reason=str(cpu_extension.missing())
)


class Same(DenoiserRuntime):
    """A network that gives its input back and allocates nothing."""

    device = "cpu"
    capturable = True

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        return x


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    path = tmp_path_factory.mktemp("counts") / "a.engine"
    return le.compile(tiny_prior(), path, backend="torch", max_batch=4)


@pytest.fixture(scope="module")
def hollow(compiled: Engine) -> Engine:
    return Engine(compiled.folder, compiled.manifest, compiled.backend, Same(), 1)


def measured(op: Any) -> Tensor:
    x = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    y: Tensor = op.measure(x)
    return y


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """(name, bytes of its arrays) of every call of the extension, in order."""
    made, extension = list[tuple[str, int]](), cpu_extension.extension()

    class Recorder:
        def __getattr__(self, name: str) -> Any:
            function = getattr(extension, name)
            if not callable(function) or name.startswith("has_"):
                return function

            def recorded(*arguments: Any, **options: Any) -> Any:
                arrays = [a for a in arguments if isinstance(a, np.ndarray)]
                made.append((name, sum({a.ctypes.data: a.nbytes for a in arrays}.values())))
                return function(*arguments, **options)

            return recorded

    monkeypatch.setattr(cpu_extension, "extension", Recorder)
    return made


# ---- launches and bytes ------------------------------------------------------------------------


@needs_native
@every_step
def test_an_inner_step_is_one_call(hollow: Engine, calls: list[tuple[str, int]], name: str) -> None:
    """Three outer steps of three: 9 inner steps, 2 reverse steps, the start; nothing else grows."""
    op, step, _ = STEPS[name]
    y = measured(op)
    calls.clear()
    hollow.sample(y, op, num_samples=1, sampler="ud2m", steps=3, unfold=3)
    few = Counter(call for call, _ in calls)
    assert (few[step] - _starts(few, step), few["reverse_step"], few["langevin_noise"]) == (9, 2, 1)
    calls.clear()
    hollow.sample(y, op, num_samples=1, sampler="ud2m", steps=3, unfold=5)
    many = Counter(call for call, _ in calls)
    assert many - few == {step: 6}
    assert sum(few.values()) <= 9 + 2 + 1 + 8  # and: checks, start, A(1), A^T y, chi2


def _starts(counted: Counter[str], step: str) -> int:
    """The regularised start is one more prox, by the same function without noise."""
    return 1 if step in ("fourier_prox_noise", "alias_prox_noise") and counted[step] else 0


@needs_native
@every_step
def test_bytes_moved_by_an_inner_step(
    hollow: Engine, calls: list[tuple[str, int]], name: str
) -> None:
    """Each array once: x, x_t, the constants of y and the operator; the result is in x's place."""
    op, step, bytes_per_pixel = STEPS[name]
    y = measured(op)
    calls.clear()
    hollow.sample(y, op, num_samples=1, sampler="ud2m", steps=2, unfold=2)
    moved = [bytes_ for call, bytes_ in calls if call == step][-1]
    written_in_place = IMAGE_BYTES
    per_pixel = (moved + written_in_place) / (3 * SIDE * SIDE)
    assert per_pixel <= bytes_per_pixel


def test_launches_of_inner_steps_on_a_gpu(device: str) -> None:
    """Three launches for a blur, whatever the number of steps."""
    shape = (1, 3, SIDE, SIDE)
    x, x_t = torch.randn(2, *shape).to(device).unbind(0)
    power = torch.rand(1, 1, SIDE, SIDE // 2 + 1).to(device)
    back = torch.fft.rfft2(x)
    ids = torch.zeros(1, dtype=torch.int64, device=device)
    for number in (1, 4):
        steps = StepTable.of([torch.rand(number, 1, device=device) for _ in range(3)],
                             list(range(number)))  # fmt: skip
        with cuda_extension.recorded_launches() as launches:
            for _ in range(number):
                ops.launch_fourier_prox_noise(x, x_t, power, back, steps, (1, ids, ids))
        assert len(launches) == 3 * number
        assert [launch.kernel for launch in launches[:3]] == [
            f"fourier_rows_forward<{SIDE}>",
            f"fourier_columns<{SIDE}>",
            f"fourier_rows_inverse<{SIDE}>",
        ]


# ---- copies and allocations --------------------------------------------------------------------


class _Large(TorchDispatchMode):
    """Operations of torch that give a new tensor of half an image or more."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        fresh = all(r.alias_info is None for r in func._schema.returns)
        for tensor in out if isinstance(out, tuple | list) else (out,):
            large = isinstance(tensor, Tensor) and tensor.nbytes >= IMAGE_BYTES // 2
            if large and (fresh or "copy_" in func._schema.name):
                self.names[func._schema.name.removeprefix("aten::")] += 1
        return out


@contextmanager
def large_results() -> Iterator[Counter[str]]:
    with _Large() as mode:
        yield mode.names


@needs_native
@every_step
def test_an_inner_step_allocates_and_copies_nothing(hollow: Engine, name: str) -> None:
    """After the first call, outside the network: the same few images for 2 steps and for 12."""
    op, _, _ = STEPS[name]
    y, found = measured(op), []
    hollow.sample(y, op, num_samples=1, sampler="ud2m", steps=2, unfold=1)
    before = cpu_extension.extension().workspace_allocations()
    for steps, unfold in ((2, 1), (3, 4)):
        with large_results() as names:
            hollow.sample(y, op, num_samples=1, sampler="ud2m", steps=steps, unfold=unfold)
        found.append(names)
    assert found[0] == found[1]
    assert cpu_extension.extension().workspace_allocations() == before
    copies = sum(n for kind, n in found[0].items() if kind in ("copy_", "clone", "_to_copy"))
    assert (sum(found[0].values()), copies) <= PER_CALL[name] and copies <= PER_CALL[name][1]


def test_the_counter_of_allocations_sees_them() -> None:
    x = torch.zeros(1, 3, SIDE, SIDE)
    with large_results() as names:
        y = x + 1.0
        y.copy_(x)
        x.add_(1.0)
        x[..., 0] + 1.0
    assert names == {"add": 1, "copy_": 1}


@needs_native
def test_the_states_of_a_chain_stay_where_they_are() -> None:
    """The noise writes into the state's own memory, and the states are those of new memory."""
    op = le.Blur.gaussian(1.0, 0.05)
    step, ids = op.data_step(measured(op)), torch.zeros(1, dtype=torch.int64)
    outer = ud2m_schedule(0.1, [2.0, 0.5], 1).outer[0]
    x, x_t = torch.randn(2, 1, 3, SIDE, SIDE).unbind(0)
    results = []
    for own in (False, True):
        steps, first, second = (
            EagerSteps(step, NoiseStream(3, ids, ids, own)),
            x.clone(),
            x_t.clone(),
        )
        z = steps.propose(first, second, outer.inner[0])
        reverse = steps.reverse(z, second, outer)
        assert (z.data_ptr() == first.data_ptr()) is own
        assert (reverse.data_ptr() == second.data_ptr()) is own
        results.append((z, reverse))
    assert all(torch.equal(new, same) for new, same in zip(*results, strict=True))


# ---- the network's graph -----------------------------------------------------------------------

#: What the shipped prior's graph holds; a larger number is a slower network.
MOST_NODES = {
    "Conv": 36,
    "ConvTranspose": 2,
    "InstanceNormalization": 26,
    "MatMul": 2,
    "Gemm": 14,
    "Sigmoid": 27,
    "Transpose": 6,
    "Cast": 0,
}


@pytest.fixture(scope="module")
def shipped_graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graph") / "denoiser.onnx"
    export_denoiser(le.load_prior("photo-small"), "fp32", path)
    return path


def test_the_shipped_graph_has_not_grown(shipped_graph: Path) -> None:
    found = counting.count_graph(shipped_graph, 1, 64, 64)
    assert {k: found.nodes.get(k, 0) for k in MOST_NODES} == MOST_NODES
    assert sum(found.nodes.values()) <= 366
    assert found.matrix_flops == pytest.approx(6.34e8, rel=0.01)
    assert found.weight_bytes <= 9.77e6


def test_the_runtime_fuses_what_it_fused(shipped_graph: Path) -> None:
    """onnxruntime's own fusions depend on its version: a bound, not an equality."""
    nodes = counting.optimised_nodes(shipped_graph)
    convolutions = nodes.get("Conv", 0) + nodes.get("FusedConv", 0)
    assert convolutions == 36
    assert nodes.get("Sigmoid", 0) == 0, "SiLU was one node (QuickGelu)"
    assert sum(nodes.values()) <= 440


# ---- waits between host and device -------------------------------------------------------------


@pytest.mark.parametrize("unfold", [1, 4])
def test_waits_of_a_captured_call(
    compiled: Engine, monkeypatch: pytest.MonkeyPatch, unfold: int
) -> None:
    """One replay for each chunk and a wait behind it, however many evaluations; no host read."""
    for module in (cpu_extension, cuda_extension):
        monkeypatch.setattr(module, "missing", lambda: "hidden")
    driver = RecordingDriver()
    engine = Engine(compiled.folder, compiled.manifest, "torch", Same(), None, driver)
    op = le.Inpainting(MASK, 0.05)
    y, options = measured(op), {"sampler": "ud2m", "steps": 2, "unfold": unfold}
    engine.sample(y, op, num_samples=8, **options)
    driver.log.clear()
    engine.sample(y, op, num_samples=8, seed=1, **options)
    asked = Counter(entry[0] for entry in driver.log)
    # A wait behind each replay, and one for each chunk's data step, which is timed by events.
    assert asked == {"enter": 1, "replay": 2, "wait": 2 + 2, "leave": 1}
    (graph,) = driver.graphs
    assert not {"_local_scalar_dense", "lift_fresh"} & set(graph.names())
