"""The whole sampler as one ONNX graph, run by onnxruntime, against `Engine.sample`."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from tiny import tiny_prior

import latino_engine as le
from latino_engine.cli import program
from latino_engine.export.whole_sampler import export_whole_sampler, whole_sampler_inputs
from latino_engine.export.whole_sampler_graph import fourier_matrices
from latino_engine.schedule import INPAINTING_R, few_step_sigmas, latino_schedule, ud2m_schedule

POWERS, OTHERS = (32, 64), (20, 36)
#: Relative, norm-wise. Measured: 4e-7 (products, and powers of two), 3e-6 (DFT, other sides).
PRODUCTS, TRANSFORM = 1e-5, 1e-4


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "tiny.engine"
    return le.compile(tiny_prior(), path, backend="onnxruntime")


def operators(size):
    mask = (torch.rand(size, generator=torch.Generator().manual_seed(1)) > 0.5).float()
    motion = le.Blur.motion(7, 0.05, seed=2)
    return {"blur": [motion], "mask": [le.Inpainting(mask, 0.05), le.Denoising(0.1)]}


def schedule(spec, op, sampler):
    if sampler == "latino":
        levels = spec.latino_sigmas(3)
        return lambda sigma_y: latino_schedule(sigma_y, levels)
    radius = INPAINTING_R if isinstance(op, le.Inpainting) else 1.0
    return lambda sigma_y: ud2m_schedule(sigma_y, few_step_sigmas(3), 2, r=radius)


STEPS = {"latino": {"steps": 3}, "ud2m": {"steps": 3, "unfold": 2}}
CASES = [
    ("blur", "matmul", POWERS, PRODUCTS),
    ("blur", "matmul", OTHERS, PRODUCTS),
    ("blur", "dft", POWERS, PRODUCTS),
    ("blur", "dft", OTHERS, TRANSFORM),
    ("mask", "matmul", OTHERS, PRODUCTS),
]


@pytest.mark.parametrize("family, dft, size, bound", CASES)
def test_the_graph_draws_the_samples_of_the_engine(engine, tmp_path, family, dft, size, bound):
    path, spec = tmp_path / "sampler.onnx", engine.spec
    export_whole_sampler(tiny_prior(), path, size, family, dft)
    onnx.checker.check_model(str(path))
    session = onnxruntime.InferenceSession(str(path))
    for op in operators(size)[family]:
        y = op.measure(torch.rand(2, 3, *size))
        for sampler, steps in STEPS.items():
            post = engine.sample(y, op, num_samples=2, seed=5, sampler=sampler, **steps)
            build = schedule(spec, op, sampler)
            feed = whole_sampler_inputs(spec, y, op, build, seed=5, sample_id=1, dft=dft)
            found = (session.run(None, feed)[0] - spec.offset) / spec.scale
            expected = post.samples[1].numpy()
            assert np.linalg.norm(found - expected) <= bound * np.linalg.norm(expected)
            first = post.samples[0].numpy()  # another draw is far away
            assert np.linalg.norm(found - first) > 0.01 * np.linalg.norm(first)


@pytest.mark.parametrize("size", [(8, 8), (6, 10), (5, 7), (16, 9)])
def test_the_matrices_are_the_transform(size):
    matrix = fourier_matrices(*size)
    x = np.random.default_rng(0).normal(size=size).astype(np.float32)
    half = size[1] // 2 + 1
    rows = x @ matrix["rows"]
    spectrum = matrix["columns"] @ np.concatenate((rows[:, :half], rows[:, half:]))
    expected = np.fft.rfft2(x.astype(np.float64))
    found = spectrum[: size[0]] + 1j * spectrum[size[0] :]
    assert np.linalg.norm(found - expected) <= 1e-6 * np.linalg.norm(expected)
    columns = matrix["columns_inverse"] @ spectrum
    beside = np.concatenate((columns[: size[0]], columns[size[0] :]), axis=1)
    assert np.linalg.norm(beside @ matrix["rows_inverse"] - x) <= 1e-6 * np.linalg.norm(x)


def test_weights_are_stored_once_and_the_dft_is_what_was_asked(tmp_path):
    sizes = {}
    for dft in ("matmul", "dft"):
        export_whole_sampler(tiny_prior(), tmp_path / "a.onnx", POWERS, "blur", dft)
        graph = onnx.load(str(tmp_path / "a.onnx")).graph
        (loop,) = (node for node in graph.node if node.op_type == "Loop")
        inner = loop.attribute[0].g
        kinds = {node.op_type for node in (*graph.node, *inner.node)}
        assert ("DFT" in kinds) is (dft == "dft")
        assert not inner.initializer
        sizes[dft] = sum(len(tensor.raw_data) for tensor in graph.initializer)
    matrices = sum(matrix.nbytes for matrix in fourier_matrices(*POWERS).values())
    assert abs(sizes["matmul"] - sizes["dft"] - matrices) < 100


def test_the_number_of_steps_is_an_input(engine, tmp_path):
    path, op, spec = tmp_path / "a.onnx", le.Denoising(0.1), engine.spec
    export_whole_sampler(tiny_prior(), path, (16, 16), "mask")
    session = onnxruntime.InferenceSession(str(path))
    y = torch.rand(1, 3, 16, 16)
    for steps in (1, 5):
        levels = spec.latino_sigmas(steps)
        feed = whole_sampler_inputs(spec, y, op, lambda s, n=levels: latino_schedule(s, n))
        found = (session.run(None, feed)[0] - spec.offset) / spec.scale
        expected = engine.sample(y, op, num_samples=1, steps=steps).samples[0].numpy()
        assert np.linalg.norm(found - expected) <= PRODUCTS * np.linalg.norm(expected)


@pytest.mark.tensorrt
@pytest.mark.parametrize("family", ["blur", "mask"])
def test_tensorrt_for_rtx_builds_the_loop(tmp_path, family):
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is missing: pip install tensorrt-rtx")
    from latino_engine.runtimes import tensorrt_build
    from latino_engine.runtimes.tensorrt_package import load_package

    path = tmp_path / "sampler.onnx"
    export_whole_sampler(tiny_prior(), path, POWERS, family, "matmul")
    trt = load_package("tensorrt_rtx")
    log = tensorrt_build._logger(trt)
    builder = trt.Builder(log)
    network = tensorrt_build._empty_network(trt, builder)
    parser = trt.OnnxParser(network, log)
    assert parser.parse(path.read_bytes()), log.errors
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    profile = builder.create_optimization_profile()
    named = {"batch": 1, "sets": 1, "planes": 1, "steps": 8, "num_draws": 9}
    for value in onnx.load(str(path)).graph.input:
        dims = value.type.tensor_type.shape.dim
        if any(dim.dim_param for dim in dims):
            shape = [named.get(dim.dim_param, dim.dim_value) for dim in dims]
            profile.set_shape(value.name, shape, shape, shape)
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    assert plan is not None and plan.nbytes > 10_000, log.errors


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"operator": "sr"}, "operator: expected one of 'blur', 'mask', got 'sr'; choose one of "),
        ({"dft": "fft"}, "dft: expected one of 'matmul', 'dft', got 'fft'; choose one of these"),
        ({"size": (18, 16)}, "size: expected sides that are multiples of 4, got 18 x 16; pad the "),
        ({"size": 18}, "size: expected sides that are multiples of 4, got 18 x 18; pad the images"),
        ({"size": (0, 16)}, "size: expected sides that are multiples of 4, got 0 x 16; pad the im"),
        ({"size": 16.0}, "size: expected one side, or (height, width), got 16.0; give whole num"),
        ({"size": (16,)}, "size: expected one side, or (height, width), got (16,); give whole nu"),
        ({"size": "16"}, "size: expected one side, or (height, width), got 16; give whole number"),
    ],
)
def test_what_cannot_be_exported(tmp_path, options, sentence):
    with pytest.raises(ValueError) as caught:
        export_whole_sampler(tiny_prior(), tmp_path / "a.onnx", **{"size": (16, 16), **options})
    assert str(caught.value).startswith(sentence)
    assert not list(tmp_path.iterdir())


def test_one_side_is_a_square_and_a_folder_is_a_prior(engine, tmp_path):
    for name, prior, size in (("a", tiny_prior(), (16, 16)), ("b", engine.folder, 16)):
        export_whole_sampler(prior, tmp_path / name, size, "mask")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_what_the_graph_cannot_serve(engine):
    y, build = torch.rand(2, 3, 16, 16), schedule(engine.spec, None, "latino")
    with pytest.raises(TypeError) as caught:
        whole_sampler_inputs(engine.spec, y, le.JPEG(50), build)
    assert str(caught.value) == (
        "op: expected Blur, Inpainting or Denoising, got JPEG; sample with an engine instead"
    )
    with pytest.raises(ValueError, match="noise_std: expected one number, got one for each image"):
        whole_sampler_inputs(engine.spec, y, le.Denoising(torch.tensor([0.1, 0.2])), build)
    with pytest.raises(ValueError, match="dft: expected one of 'matmul', 'dft', got 'fft'; choose"):
        whole_sampler_inputs(engine.spec, y, le.Blur.gaussian(1.0, 0.1), build, dft="fft")


def test_the_command(tmp_path, capsys):
    from latino_engine.priors.folder import save_prior

    save_prior(tiny_prior(), tmp_path / "tiny")
    out = tmp_path / "a.onnx"
    whole = ["export", str(tmp_path / "tiny"), "-o", str(out), "--whole-sampler", "--size", "16x20"]
    assert program.run([*whole, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["inputs"]["x_init"] == ["batch", 3, 16, 20]
    assert facts["inputs"]["h_real"] == ["sets", "planes", 16, 11]
    assert facts["outputs"] == {"x": ["batch", 3, 16, 20]}
    assert program.run(["export", str(tmp_path / "tiny"), "-o", str(out)]) == 0
    text = capsys.readouterr().out
    assert "input sigma (batch)" in text and "output x0_hat (" in text
    assert (
        program.run(["export", str(tmp_path / "tiny"), "-o", str(out), "--precision", "int8"]) == 2
    )
    assert capsys.readouterr().err.startswith("error: precision: expected one of 'fp32', 'fp16'")
    assert program.run([*whole[:-1], "17"]) == 2
    assert "size: expected sides that are multiples of 4" in capsys.readouterr().err
