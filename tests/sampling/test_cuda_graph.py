"""The sampler as one graph, with a recording stand-in for CUDA: equal to eager, and how it runs."""

from __future__ import annotations

import threading

import pytest
import torch
from graph_machines import StandIn
from graph_stand_in import RecordingDriver
from tiny import tiny_prior
from tolerances import SAME_RUNTIME

import latino_engine as le
from latino_engine.engine import Engine
from latino_engine.ops import cpu_extension, cuda_extension
from latino_engine.runtimes.protocol import DenoiserRuntime
from latino_engine.sampling import cuda_graph
from latino_engine.sampling.cuda_graph import NUM_GRAPHS, NUM_WORKERS, bucket

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def eager(tmp_path_factory):
    path = tmp_path_factory.mktemp("graph") / "a.engine"
    return le.compile(tiny_prior(), path, backend="torch", max_batch=4)


@pytest.fixture
def driver(monkeypatch):
    # The compiled operations are no operations of torch: the stand-in could not see them.
    monkeypatch.setattr(cpu_extension, "missing", lambda: "hidden")
    monkeypatch.setattr(cuda_extension, "missing", lambda: "hidden")
    return RecordingDriver()


@pytest.fixture
def engine(eager, driver):
    return captured(eager, driver)


def captured(eager, driver, **manifest):
    fields = {**eager.manifest, **manifest}
    return Engine(eager.folder, fields, eager.backend, eager.network.runtime, None, driver)


def kernels(n):
    return torch.rand(n, 1, 5, 5, generator=torch.Generator().manual_seed(n)) / 12.5


MASK = (torch.rand(12, 16, generator=torch.Generator().manual_seed(0)) < 0.5).double()
OPERATORS = {
    "blur": lambda: (le.Blur(kernels(1), 0.05), 12),
    "blur of each": lambda: (le.Blur(kernels(2), [0.05, 0.2]), 12),
    "sr": lambda: (le.SuperResolution(2, 0.05), 12),
    "inpainting": lambda: (le.Inpainting(MASK, 0.1), 12),
    "denoising": lambda: (le.Denoising(0.1), 12),
    "jpeg": lambda: (le.JPEG(30), 12),
}
SAMPLERS = {
    "latino": {"sampler": "latino", "steps": 3},
    "ud2m": {"sampler": "ud2m", "steps": 2, "unfold": 2},
}


def measured(op, batch=2, seed=1, size=(12, 16)):
    x = torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(seed))
    return op.measure(x, seed=seed)


def same(a, b):
    """Up to the rounding of torch's convolutions, which depends on the batch."""
    return (a.samples - b.samples).norm() <= SAME_RUNTIME * b.samples.norm()


@pytest.mark.parametrize("options", SAMPLERS.values(), ids=SAMPLERS)
@pytest.mark.parametrize("make", OPERATORS.values(), ids=OPERATORS)
def test_a_replay_is_what_the_eager_call_gives(eager, engine, driver, make, options):
    op, _ = make()
    y = measured(op)
    for seed in (3, 2**63 + 7):
        found = engine.sample(y, op, num_samples=2, seed=seed, image_ids=[5, 9], **options)
        expected = eager.sample(y, op, num_samples=2, seed=seed, image_ids=[5, 9], **options)
        assert torch.equal(found.samples, expected.samples)
        assert torch.equal(found.residual_chi2, expected.residual_chi2)
    assert found.about["execution"] == "CUDA graph" and expected.about["execution"] == "eager"
    assert found.nfe == expected.nfe and len(driver.graphs) == 1


def test_one_graph_serves_other_measurements_noise_levels_kernels_and_masks(eager, engine, driver):
    calls = [
        (le.Blur(kernels(1), 0.05), 1),
        (le.Blur(kernels(1).flip(-1), 0.3), 2),
        (le.Blur.gaussian(1.0, 0.1), 3),
    ]
    for op, seed in calls:
        y = measured(op, seed=seed)
        options = {"num_samples": 2, "seed": seed, **SAMPLERS["ud2m"]}
        assert same(engine.sample(y, op, **options), eager.sample(y, op, **options))
    assert len(driver.graphs) == 1
    for mask in (MASK, 1 - MASK):
        op = le.Inpainting(mask, 0.1)
        y = measured(op)
        options = {"num_samples": 2, **SAMPLERS["latino"]}
        assert same(engine.sample(y, op, **options), eager.sample(y, op, **options))
    assert len(driver.graphs) == 2


# Two replays, each waited for when its last launch is queued; the clock's own events at the end.
AFTER_CAPTURE = ["replay", "wait", "replay", "wait", "wait", "wait", "leave"]


def test_nothing_on_the_host_between_the_first_launch_and_the_last(engine, driver):
    op = le.Denoising(0.1)
    y = measured(op)
    engine.sample(y, op, num_samples=4, **SAMPLERS["ud2m"])  # two chunks of 4
    first = [entry[0] for entry in driver.log]
    # Entering, two eager passes timed by events, one capture, then one launch of it per chunk.
    assert first[0] == "enter" and first[-1] == "leave"
    start = first.index("capture")
    assert first[start:] == ["capture", *AFTER_CAPTURE]
    driver.log.clear()
    engine.sample(y, op, num_samples=4, seed=1, **SAMPLERS["ud2m"])
    assert [entry[0] for entry in driver.log] == ["enter", *AFTER_CAPTURE]
    (graph,) = driver.graphs
    assert not {"_local_scalar_dense", "lift_fresh"} & set(graph.names())


def test_the_order_of_the_launches(engine, driver):
    """The start, then for every evaluation anchors, noise and the network."""
    op = le.Denoising(0.1)
    engine.sample(measured(op, 1), op, num_samples=1, **SAMPLERS["ud2m"])
    names = driver.graphs[0].names()
    marks = [n for n in names if n in ("lerp", "addcmul", "pixel_unshuffle", "pixel_shuffle")]
    evaluation = ["lerp", "addcmul", "pixel_unshuffle", "pixel_shuffle"]
    assert marks == ["addcmul", *4 * evaluation]
    assert names[0] == "zero_"  # the counter of the table, rewound by the graph itself


def test_buffers_are_reused(engine, driver):
    op = le.Denoising(0.1)
    y = measured(op)
    engine.sample(y, op, num_samples=2, steps=2)
    (worker,) = engine.network.pool._free
    (sampler,) = worker.graphs.values()
    before = [t.data_ptr() for t in (sampler.out, sampler.buffers.x_init, sampler.buffers.seed)]
    first = engine.sample(y, op, num_samples=2, seed=1, steps=2).samples
    kept = first.clone()
    engine.sample(y, op, num_samples=2, seed=2, steps=2)
    after = [t.data_ptr() for t in (sampler.out, sampler.buffers.x_init, sampler.buffers.seed)]
    assert before == after and len(driver.graphs) == 1
    assert torch.equal(first, kept)  # a result is no view of static memory


def test_replay_after_a_change_of_shape(eager, engine, driver):
    op = le.Denoising(0.1)
    sizes = [(12, 16), (8, 8), (12, 16), (9, 14)]
    for seed, size in enumerate(sizes):
        y = measured(op, size=size)
        options = {"num_samples": 1, "seed": seed, "steps": 2}
        assert same(engine.sample(y, op, **options), eager.sample(y, op, **options))
    assert len(driver.graphs) == 3


def test_batches_share_a_bucket(eager, engine, driver):
    assert [bucket(n, 8) for n in (1, 2, 3, 5, 8)] == [1, 2, 4, 8, 8]
    assert bucket(5, 6) == 6
    op = le.Blur(kernels(1), 0.05)
    y = measured(op, 1)
    for count in (3, 4, 7):  # 3 -> 4; 4; 4 and 3 -> 4
        found = engine.sample(y, op, num_samples=count, steps=2)
        assert same(found, eager.sample(y, op, num_samples=count, steps=2))
    assert len(driver.graphs) == 1


def test_samples_of_one_measurement_share_its_spectrum(engine):
    op = le.Blur(kernels(1), 0.05)
    engine.sample(measured(op, 1), op, num_samples=4, steps=2)
    (worker,) = engine.network.pool._free
    (sampler,) = worker.graphs.values()
    assert [c.shape[0] for c in sampler.buffers.constants] == [1, 1]


def test_a_worker_keeps_a_bounded_number_of_graphs(engine, driver):
    op = le.Denoising(0.1)
    for width in range(8, 8 + NUM_GRAPHS + 2):
        engine.sample(measured(op, 1, size=(8, width)), op, num_samples=1, steps=1)
    (worker,) = engine.network.pool._free
    assert len(worker.graphs) == NUM_GRAPHS and len(driver.graphs) == NUM_GRAPHS + 2


def test_threads_get_their_own_samples_from_a_pool(eager, engine, driver):
    op = le.Denoising(0.1)
    ys = [measured(op, 1, seed=n) for n in range(6)]
    expected = [eager.sample(y, op, 1, seed=n, steps=2) for n, y in enumerate(ys)]
    found = [None] * 6

    def call(n):
        found[n] = engine.sample(ys[n], op, 1, seed=n, steps=2)

    threads = [threading.Thread(target=call, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(same(a, b) for a, b in zip(found, expected, strict=True))
    assert 1 <= len(driver.graphs) <= NUM_WORKERS
    assert len(engine.network.pool._free) == engine.network.pool._made <= NUM_WORKERS


def test_the_pool_serves_in_the_order_of_coming(driver):
    class Worker:
        stream = 1

    pool = cuda_graph.WorkerPool(Worker, driver, size=1)
    served, threads = [], []

    def call(n):
        with pool.worker():
            served.append(n)

    with pool.worker():
        for n in range(5):
            threads.append(threading.Thread(target=call, args=(n,)))
            threads[-1].start()
            while len(pool._waiting) <= n:
                pass
    for thread in threads:
        thread.join()
    assert served == [0, 1, 2, 3, 4] and pool._made == 1


def test_a_call_that_fails_gives_its_worker_back(engine):
    op = le.Denoising(0.1)
    with pytest.raises(ValueError, match=r"^y: expected"):
        engine.sample(torch.zeros(1, 1, 12, 16), op)
    assert len(engine.network.pool._free) == 1


def test_out_of_memory_takes_a_smaller_bucket(eager, engine, driver):
    op = le.Denoising(0.1)
    y = measured(op, 1)
    engine.sample(y, op, num_samples=2, steps=2)
    driver.memory_bytes = 1.2 * captured_bytes(driver.graphs[0])
    driver.log.clear()
    found = engine.sample(y, op, num_samples=8, steps=2)
    assert same(found, eager.sample(y, op, num_samples=8, steps=2))
    assert found.about["execution"] == "CUDA graph"
    assert engine.network.pool.limit((12, 16), 4) == 2
    tried = [entry[0] for entry in driver.log if entry[0] in ("capture", "release")]
    assert tried == ["capture", "release", "capture"]  # 4 fails, 2 does
    driver.log.clear()
    engine.sample(y, op, num_samples=8, seed=1, steps=2)
    assert "capture" not in [entry[0] for entry in driver.log]  # and is not tried again
    driver.memory_bytes = float("inf")
    driver.free *= 2  # until twice as much memory is free
    engine.sample(y, op, num_samples=8, seed=1, steps=2)
    assert max(shape[0] for shape in driver.graphs[-1].shapes()) == 4


def test_out_of_memory_ends_with_an_eager_call(eager, engine, driver):
    op = le.Denoising(0.1)
    y = measured(op, 1)
    driver.memory_bytes = 10
    told = []
    found = engine.sample(
        y, op, num_samples=3, steps=2, progress=lambda done, total: told.append((done, total))
    )
    assert same(found, eager.sample(y, op, num_samples=3, steps=2))
    assert found.about["execution"] == (
        "eager: the graph does not fit into the free memory of the GPU"
    )
    assert told[-1] == (6, 6)
    driver.memory_bytes, driver.free = float("inf"), 2 * driver.free
    again = engine.sample(y, op, num_samples=3, steps=2)
    assert again.about["execution"] == "CUDA graph" and same(again, found)


def captured_bytes(graph):
    return sum(t.numel() * t.element_size() for *_, outs in graph.operations for t in outs)


def test_other_errors_are_not_swallowed(engine, monkeypatch):
    def broken(self, x, sigma):
        raise RuntimeError("a driver of another kind")

    monkeypatch.setattr(type(engine.network.runtime), "__call__", broken)
    with pytest.raises(RuntimeError, match="a driver of another kind"):
        engine.sample(measured(le.Denoising(0.1)), le.Denoising(0.1), steps=1)


def test_a_data_step_decided_on_the_host_runs_eagerly_and_says_so(eager, engine, driver):
    op = le.LinearOperator(lambda x: 0.5 * x, lambda y: 0.5 * y, 0.1)
    y = measured(op)
    found = engine.sample(y, op, num_samples=3, steps=2)
    assert same(found, eager.sample(y, op, num_samples=3, steps=2))
    assert found.about["execution"] == (
        "eager: the operator's data step is decided on the host (conjugate gradients with a "
        "stopping rule, or a user's own)"
    )
    assert not driver.graphs


def test_a_runtime_that_cannot_be_captured_runs_eagerly_and_says_so(eager, driver):
    class Opaque(DenoiserRuntime):
        device = "cpu"

        def __call__(self, x, sigma):
            return eager.network.runtime(x, sigma)

    engine = Engine(eager.folder, eager.manifest, "torch", Opaque(), None, driver)
    op = le.Denoising(0.1)
    found = engine.sample(measured(op), op, num_samples=1, steps=2)
    assert found.about["execution"] == (
        "eager: the runtime of the network queues its work on a stream of its own"
    )
    assert engine.execution == "eager" and "execution='eager'" in repr(engine)
    assert not driver.graphs
    assert found.stages_ms["denoise"] > 0.0  # by events


def test_stages_are_those_of_the_graph(engine):
    op = le.Denoising(0.1)
    post = engine.sample(measured(op), op, num_samples=2, steps=2)
    assert "execution='CUDA graph'" in repr(engine)
    assert sum(post.stages_ms.values()) == pytest.approx(post.time_ms)
    # The stand-in's clock ticks once for each event; a replay takes one tick.
    graph = {name: post.stages_ms[name] for name in ("prox", "noise", "denoise")}
    assert graph["denoise"] > 0.0 and graph["noise"] == 0.0


def test_warm_up_captures_before_the_first_call(eager, driver):
    engine = captured(eager, driver, image_size=[12, 16])
    engine.warm_up()
    # One image, and a full batch, on each worker.
    streams = [entry[1] for entry in driver.log if entry[0] == "capture"]
    assert streams == [1, 1, 2, 2] and NUM_WORKERS == 2
    op = le.Inpainting(MASK, 0.1)
    y = measured(op, 1)
    with engine.network.pool.worker():
        engine.sample(y, op, num_samples=5)
    engine.sample(y, op, num_samples=5)
    assert len(driver.graphs) == 4
    eager.warm_up()  # nothing to do, and no pool


def test_the_stand_in_forbids_what_cuda_forbids(driver):
    x = torch.ones(3)
    with driver.on(1):
        for body in (lambda: x.sum().item(), lambda: x * torch.tensor([1.0, 2.0, 3.0])):
            with pytest.raises(RuntimeError, match="captur"):
                driver.capture(1, None, body)


def test_a_runtime_that_refuses_a_capture_runs_eagerly_and_is_not_asked_again(driver, monkeypatch):
    machine = StandIn()
    engine, eager = machine.engines("tensorrt")
    asked = []
    monkeypatch.setattr(
        type(engine.network.runtime),
        "allows_capture",
        lambda self: asked.append(self._contexts) or False,
    )
    op = le.Denoising(0.1)
    for seed in range(2):
        y = measured(op, 1, seed=seed)
        found = engine.sample(y, op, num_samples=3, seed=seed, steps=2)
        assert same(found, eager.sample(y, op, num_samples=3, seed=seed, steps=2))
        assert found.about["execution"] == (
            "eager: the runtime of the network cannot be captured at this size"
        )
    assert len(asked) == 1 and len(asked[0]) == 1  # after a pass, which made a context
    assert not engine.network.driver.graphs
