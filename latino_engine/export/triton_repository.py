"""A model repository for NVIDIA's Triton Inference Server.

DIR/latino_engine/config.pbtxt       a Python model that calls the engine, any operator
DIR/latino_engine/1/model.py
DIR/latino_engine/1/engine/          a copy of the engine
DIR/latino_sampler/config.pbtxt      the whole sampler as one ONNX graph, onnxruntime's backend
DIR/latino_sampler/1/model.onnx
"""

from __future__ import annotations

import shutil
from importlib import resources
from pathlib import Path
from typing import Any

import onnx

from latino_engine.atomic import atomic_folder
from latino_engine.export.whole_sampler import export_whole_sampler
from latino_engine.manifest import read_manifest
from latino_engine.priors.loading import pixel_prior

_FILES = ("latino_engine", "latino_sampler")
_TYPES = {
    onnx.TensorProto.FLOAT: "TYPE_FP32",
    onnx.TensorProto.DOUBLE: "TYPE_FP64",
    onnx.TensorProto.FLOAT16: "TYPE_FP16",
    onnx.TensorProto.INT64: "TYPE_INT64",
    onnx.TensorProto.INT32: "TYPE_INT32",
    onnx.TensorProto.BOOL: "TYPE_BOOL",
}
#: (name, type, dims, optional)
_INPUTS = (
    ("measurement", "TYPE_FP32", (-1, -1, -1), False),
    ("operator", "TYPE_STRING", (1,), False),
    ("noise_std", "TYPE_FP32", (1,), True),
    ("num_samples", "TYPE_INT32", (1,), True),
    ("seed", "TYPE_UINT64", (1,), True),
    ("image_id", "TYPE_INT32", (1,), True),
)
_OUTPUTS = (
    ("samples", "TYPE_FP32", (-1, -1, -1, -1), False),
    ("mean", "TYPE_FP32", (-1, -1, -1), False),
    ("std", "TYPE_FP32", (-1, -1, -1), False),
    ("residual_chi2", "TYPE_FP64", (-1,), False),
)


def export_triton_repository(
    engine: str | Path,
    out: str | Path,
    size: int | tuple[int, int],
    operator: str = "blur",
    dft: str = "matmul",
    instances: int = 1,
) -> None:
    """Write a model repository with an engine and its whole sampler; all or nothing.

    Args:
        engine: folder of an engine of a pixel prior.
        out: folder to write; replaced only where it is an earlier repository.
        size: of the whole sampler's images, a side or (H, W).
        operator, dft: of the whole sampler, as in `export_whole_sampler`.
        instances: of each model, processes that the server starts.

    Raises:
        EngineInvalid, InvalidArgument: no engine, or a latent one, or a size that does not fit.
        OutputNotWritable: the folder cannot be written.
    """
    source = Path(engine)
    manifest = read_manifest(source)
    prior = pixel_prior(str(source))
    with atomic_folder(out, ours=_FILES) as folder:
        ours = folder / "latino_engine"
        shutil.copytree(source, ours / "1" / "engine")
        model = resources.files("latino_engine.export") / "triton_model.py"
        (ours / "1" / "model.py").write_bytes(model.read_bytes())
        kind = "KIND_GPU" if manifest["backend"] == "tensorrt" else "KIND_CPU"
        text = _config("latino_engine", 'backend: "python"', _INPUTS, _OUTPUTS, kind, instances)
        (ours / "config.pbtxt").write_text(text)
        whole = folder / "latino_sampler"
        (whole / "1").mkdir(parents=True)
        export_whole_sampler(prior, whole / "1" / "model.onnx", size, operator, dft)
        graph = onnx.load(str(whole / "1" / "model.onnx"), load_external_data=False).graph
        sides = (_tensors(graph.input), _tensors(graph.output))
        platform = 'platform: "onnxruntime_onnx"'
        text = _config("latino_sampler", platform, *sides, "KIND_CPU", instances)
        (whole / "config.pbtxt").write_text(text)


def _tensors(values: Any) -> tuple[tuple[str, str, tuple[int, ...], bool], ...]:
    found = []
    for value in values:
        kind = value.type.tensor_type
        dims = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim)
        found.append((value.name, _TYPES[kind.elem_type], dims, False))
    return tuple(found)


def _config(
    name: str,
    backend: str,
    inputs: tuple[tuple[str, str, tuple[int, ...], bool], ...],
    outputs: tuple[tuple[str, str, tuple[int, ...], bool], ...],
    kind: str,
    instances: int,
) -> str:
    """The text form of the server's ModelConfig; without a batch axis of the server's own."""
    lines = [f'name: "{name}"', backend, "max_batch_size: 0"]
    for side, tensors in (("input", inputs), ("output", outputs)):
        for tensor, type_name, dims, optional in tensors:
            fields = f'name: "{tensor}" data_type: {type_name}'
            if dims:
                fields += f" dims: [{', '.join(map(str, dims))}]"
            else:  # a number: the server knows no tensors without axes
                fields += " dims: [1] reshape { shape: [] }"
            lines.append(f"{side} {{ {fields}{' optional: true' if optional else ''} }}")
    lines.append(f"instance_group {{ count: {instances} kind: {kind} }}")
    return "\n".join(lines) + "\n"
