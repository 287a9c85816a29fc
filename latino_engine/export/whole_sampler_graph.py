"""The ONNX graph of the whole sampler: the Loop, its data step and its Fourier transforms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

COLUMNS = ("x_weight", "gamma", "sigma", "scale", "keep_x", "keep_xt", "renew")
FAMILIES = ("blur", "mask")
TRANSFORMS = ("matmul", "dft")

_OPSET = 18
_IR_VERSION = 10
_FLOAT, _INT64, _BOOL = 1, 7, 9  # onnx.TensorProto


def sampler_graph(
    denoiser: onnx.ModelProto, channels: int, size: tuple[int, int], operator: str, dft: str
) -> onnx.ModelProto:
    """The model that `export_whole_sampler` writes, around a float32 denoiser of opset 18."""
    import onnx

    constants = _Constants()
    main = _Emitter("main", constants)
    step = _data_step(main, size, operator, dft)
    sigma_start, final_gamma = main.split("ends", [1, 1], axis=0)
    first = main.op("Gather", "noise", constants.of("zero", np.array(0)), axis=0)
    x_t = main.op("Mul", first, sigma_start)
    body = _body(denoiser, constants, step, (channels, *size))
    count = main.op("Gather", main.op("Shape", "coefficients"), constants.of("zero"), axis=0)
    inputs = [count, constants.of("true", np.array(True)), "x_init", x_t]
    main.nodes.append(
        onnx.helper.make_node("Loop", inputs, ["looped", "last_x_t"], name="loop", body=body)
    )
    step(main, "looped", final_gamma, "x")
    graph = onnx.helper.make_graph(
        main.nodes,
        "sampler",
        _inputs(channels, size, operator, dft),
        [onnx.helper.make_tensor_value_info("x", _FLOAT, ["batch", channels, *size])],
        [*denoiser.graph.initializer, *constants.tensors()],
    )
    opset = [onnx.helper.make_opsetid("", _OPSET)]
    return onnx.helper.make_model(graph, opset_imports=opset, ir_version=_IR_VERSION)


def fourier_matrices(height: int, width: int) -> dict[str, np.ndarray]:
    """Real matrices of the half-spectrum transform, float32, computed in float64.

    rows (W, 2 K): x -> (re | im), K = W // 2 + 1; columns (2 H, 2 H): (re; im) -> (re; im);
    rows_inverse (2 K, W) and columns_inverse (2 H, 2 H) undo them.
    """
    half = width // 2 + 1
    angle = 2.0 * np.pi * (np.outer(np.arange(width), np.arange(half)) % width) / width
    weight = np.full(half, 2.0)
    weight[0] = 1.0
    if width % 2 == 0:
        weight[-1] = 1.0
    back = np.concatenate(((np.cos(angle) * weight).T, -(np.sin(angle) * weight).T)) / width
    turn = 2.0 * np.pi * (np.outer(np.arange(height), np.arange(height)) % height) / height
    cos, sin = np.cos(turn), np.sin(turn)
    found = {
        "rows": np.concatenate((np.cos(angle), -np.sin(angle)), axis=1),
        "columns": np.block([[cos, sin], [-sin, cos]]),
        "columns_inverse": np.block([[cos, -sin], [sin, cos]]) / height,
        "rows_inverse": back,
    }
    return {name: matrix.astype(np.float32) for name, matrix in found.items()}


class _Constants:
    """Named constants of the outer graph, which the Loop's body sees too."""

    def __init__(self) -> None:
        self._arrays: dict[str, np.ndarray] = {}

    def of(self, name: str, value: np.ndarray | None = None) -> str:
        """The tensor's name; the value is kept the first time."""
        if value is not None:
            self._arrays.setdefault(f"const.{name}", value)
        assert f"const.{name}" in self._arrays, name
        return f"const.{name}"

    def tensors(self) -> list[onnx.TensorProto]:
        """The constants as initialisers of the graph."""
        import onnx

        return [onnx.numpy_helper.from_array(v, name) for name, v in self._arrays.items()]


class _Emitter:
    """Writes nodes one after the other; each call returns the name of its result."""

    def __init__(self, prefix: str, constants: _Constants) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants = constants
        self._prefix = prefix

    def op(self, kind: str, *inputs: str, to: str | None = None, **attributes: Any) -> str:
        """One node with one result, called `to` where given."""
        import onnx

        name = f"{self._prefix}.{len(self.nodes)}"
        node = onnx.helper.make_node(kind, inputs, [to or name], name=name, **attributes)
        self.nodes.append(node)
        return to or name

    def split(self, tensor: str, sizes: list[int], axis: int) -> list[str]:
        """A tensor cut along an axis."""
        import onnx

        name = f"{self._prefix}.{len(self.nodes)}"
        label = "split." + ".".join(str(size) for size in sizes)
        lengths = self.constants.of(label, np.array(sizes, dtype=np.int64))
        outputs = [f"{name}.{part}" for part in range(len(sizes))]
        node = onnx.helper.make_node("Split", [tensor, lengths], outputs, name=name, axis=axis)
        self.nodes.append(node)
        return outputs


class _MaskStep:
    """(gamma m y + v) / (gamma m + 1)."""

    def __init__(self, main: _Emitter) -> None:
        self._one = main.constants.of("one", np.array(1.0, dtype=np.float32))

    def __call__(self, emit: _Emitter, v: str, gamma: str, to: str | None = None) -> str:
        weight = emit.op("Mul", gamma, "mask")
        above = emit.op("Add", emit.op("Mul", weight, "y"), v)
        return emit.op("Div", above, emit.op("Add", weight, self._one), to=to)


class _BlurStep:
    """IFFT[(gamma conj(h) Y + V) / (gamma |h|^2 + 1)]; a spectrum is (re; im) along the rows."""

    def __init__(self, main: _Emitter, size: tuple[int, int], dft: str) -> None:
        self._height, self._dft = size[0], dft
        constants = main.constants
        self._one = constants.of("one", np.array(1.0, dtype=np.float32))
        if dft == "dft":
            self._last = constants.of("last", np.array([-1], dtype=np.int64))
        else:
            self._half = size[1] // 2 + 1
            matrices = fourier_matrices(*size)
            self._matrix = {name: constants.of(name, value) for name, value in matrices.items()}
        real, imag = self._parts(main, self._forward(main, "y"))
        squares = [main.op("Mul", name, name) for name in ("h_real", "h_imag")]
        power = main.op("Add", *squares)
        self._power = main.op("Concat", power, power, axis=-2)
        above = [main.op("Mul", "h_real", real), main.op("Mul", "h_imag", imag)]
        below = [main.op("Mul", "h_real", imag), main.op("Mul", "h_imag", real)]
        parts = (main.op("Add", *above), main.op("Sub", *below))
        self._back_projected = main.op("Concat", *parts, axis=-2)

    def __call__(self, emit: _Emitter, v: str, gamma: str, to: str | None = None) -> str:
        data = emit.op("Mul", gamma, self._back_projected)
        above = emit.op("Add", data, self._forward(emit, v))
        below = emit.op("Add", emit.op("Mul", gamma, self._power), self._one)
        return self._inverse(emit, emit.op("Div", above, below), to)

    def _parts(self, emit: _Emitter, spectrum: str) -> list[str]:
        return emit.split(spectrum, [self._height, self._height], axis=-2)

    def _forward(self, emit: _Emitter, image: str) -> str:
        if self._dft == "matmul":
            rows = emit.op("MatMul", image, self._matrix["rows"])
            parts = emit.split(rows, [self._half, self._half], axis=-1)
            stacked = emit.op("Concat", *parts, axis=-2)
            return emit.op("MatMul", self._matrix["columns"], stacked)
        rows = emit.op("DFT", emit.op("Unsqueeze", image, self._last), axis=3)
        both = emit.split(emit.op("DFT", rows, axis=2), [1, 1], axis=-1)
        flat = [emit.op("Squeeze", part, self._last) for part in both]
        return emit.op("Concat", *flat, axis=-2)

    def _inverse(self, emit: _Emitter, spectrum: str, to: str | None) -> str:
        if self._dft == "matmul":
            columns = emit.op("MatMul", self._matrix["columns_inverse"], spectrum)
            beside = emit.op("Concat", *self._parts(emit, columns), axis=-1)
            return emit.op("MatMul", beside, self._matrix["rows_inverse"], to=to)
        parts = [emit.op("Unsqueeze", p, self._last) for p in self._parts(emit, spectrum)]
        columns = emit.op("DFT", emit.op("Concat", *parts, axis=-1), axis=2, inverse=1)
        both = emit.split(emit.op("DFT", columns, axis=3, inverse=1), [1, 1], axis=-1)
        return emit.op("Squeeze", both[0], self._last, to=to)


def _data_step(
    main: _Emitter, size: tuple[int, int], operator: str, dft: str
) -> _BlurStep | _MaskStep:
    return _BlurStep(main, size, dft) if operator == "blur" else _MaskStep(main)


def _body(
    denoiser: onnx.ModelProto,
    constants: _Constants,
    step: _BlurStep | _MaskStep,
    image: tuple[int, ...],
) -> onnx.GraphProto:
    """One step: (x, x_t) -> (x, x_t)."""
    import onnx

    emit = _Emitter("body", constants)
    row = emit.op("Gather", "coefficients", "i", axis=0)
    values = emit.split(row, [1] * len(COLUMNS), axis=0)
    cell = dict(zip(COLUMNS, values, strict=True))
    draws = emit.split(emit.op("Gather", "draws", "i", axis=0), [1, 1], axis=0)
    scalar = constants.of("first_axis", np.array([0], dtype=np.int64))
    eps = [emit.op("Gather", "noise", emit.op("Squeeze", d, scalar), axis=0) for d in draws]
    one = constants.of("one", np.array(1.0, dtype=np.float32))
    other = emit.op("Sub", one, cell["x_weight"])
    parts = (emit.op("Mul", "x_in", cell["x_weight"]), emit.op("Mul", "x_t_in", other))
    z = step(emit, emit.op("Add", *parts), cell["gamma"])
    emit.op("Add", z, emit.op("Mul", eps[0], cell["scale"]), to="body.noisy")
    batch = emit.op("Shape", "x_in", start=0, end=1)
    emit.op("Expand", cell["sigma"], batch, to="body.level")
    emit.nodes.extend(_renamed(denoiser))
    moved = (
        emit.op("Mul", "x_out", cell["keep_x"]),
        emit.op("Mul", "x_t_in", cell["keep_xt"]),
        emit.op("Mul", eps[1], cell["renew"]),
    )
    emit.op("Add", emit.op("Add", moved[0], moved[1]), moved[2], to="x_t_out")
    emit.op("Identity", "go_in", to="go_out")
    value = onnx.helper.make_tensor_value_info
    shape: list[str | int | None] = ["batch", *image]
    inputs = [value("i", _INT64, []), value("go_in", _BOOL, [])]
    inputs += [value(name, _FLOAT, shape) for name in ("x_in", "x_t_in")]
    outputs = [value("go_out", _BOOL, [])]
    outputs += [value(name, _FLOAT, shape) for name in ("x_out", "x_t_out")]
    return onnx.helper.make_graph(emit.nodes, "step", inputs, outputs)


def _renamed(denoiser: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The denoiser's nodes between the body's tensors; weights keep their names."""
    weights = {tensor.name for tensor in denoiser.graph.initializer}
    fixed = {"x": "body.noisy", "sigma": "body.level", "x0_hat": "x_out", "": ""}
    nodes = []
    for node in denoiser.graph.node:
        copy = type(node)()
        copy.CopyFrom(node)
        for names in (copy.input, copy.output):
            for position, name in enumerate(names):
                known = name if name in weights else f"net.{name}"
                names[position] = fixed.get(name, known)
        nodes.append(copy)
    return nodes


def _inputs(
    channels: int, size: tuple[int, int], operator: str, dft: str
) -> list[onnx.ValueInfoProto]:
    import onnx

    image: list[str | int | None] = ["batch", channels, *size]
    half = size[1] // 2 + 1 if dft == "matmul" else size[1]
    value = onnx.helper.make_tensor_value_info
    found = [value(name, _FLOAT, image) for name in ("x_init", "y")]
    found.append(value("noise", _FLOAT, ["num_draws", *image]))
    found.append(value("coefficients", _FLOAT, ["steps", len(COLUMNS)]))
    found.append(value("draws", _INT64, ["steps", 2]))
    found.append(value("ends", _FLOAT, [2]))
    if operator == "mask":
        return [*found, value("mask", _FLOAT, ["sets", "planes", *size])]
    spectrum: list[str | int | None] = ["sets", "planes", size[0], half]
    return found + [value(name, _FLOAT, spectrum) for name in ("h_real", "h_imag")]
