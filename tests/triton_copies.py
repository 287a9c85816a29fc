"""The Triton kernels as the tests run them: by Triton's interpreter and, with -m gpu, on a GPU.

The interpreter is chosen when a kernel is decorated: the tests load a second copy of the package
for it, and the compiled kernels of test_triton_compiled.py live beside it in one session.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from latino_engine.ops import philox

pytest.importorskip("triton", reason="needs Triton: python -m pip install triton")

KERNELS = Path(__file__).resolve().parents[1] / "kernels"
SEED, STEP = 12345678901234567890, 2**32 - 1
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# Odd sides; vectors with an odd height; more than one tile, by vectors and one by one; slivers.
SHAPES = (
    (2, 3, 5, 7),
    (2, 2, 7, 24),
    (1, 1, 45, 64),
    (1, 1, 47, 63),
    (1, 2, 3, 12),
    (1, 1, 1, 1030),
    (1, 1, 9, 1),
    (1, 1, 1, 1),
)
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
Size = tuple[int, int, int, int]


def interpreted_package() -> str:
    """The name of a copy of the package that Triton's interpreter runs."""
    name = "interpreted_kernels"
    if name not in sys.modules:
        places = [str(KERNELS)]
        found = importlib.util.spec_from_file_location(
            name, KERNELS / "__init__.py", submodule_search_locations=places
        )
        assert found is not None and found.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(found)
        found.loader.exec_module(sys.modules[name])
        _keep_the_language()
    return name


def _keep_the_language() -> None:
    """Every interpreted launch leaves triton.language as it found it.

    Triton 3.9 puts back what a kernel replaced, and not what the device functions that it calls
    replaced: whatever is compiled later in the process would meet the interpreter's functions.
    """
    import triton.language as tl
    from triton.runtime import interpreter

    launch = interpreter.GridExecutor.__call__

    def restoring(self: Any, *arguments: Any, **options: Any) -> None:
        before = [(owner, dict(vars(owner))) for owner in owners]
        try:
            launch(self, *arguments, **options)
        finally:
            for owner, attributes in before:
                for name in set(vars(owner)) - set(attributes):
                    delattr(owner, name)
                for name, value in attributes.items():
                    if vars(owner)[name] is not value:
                        setattr(owner, name, value)

    owners = (tl, tl.core, tl.math, tl.tensor, tl.core.tensor_descriptor_base)
    interpreter.GridExecutor.__call__ = restoring


@dataclass(frozen=True)
class Kernels:
    """One of the two copies, and the device of its tensors."""

    package: str
    device: str

    def module(self, op: str) -> ModuleType:
        with pytest.MonkeyPatch.context() as patch:
            if self.device == "cpu":
                patch.setenv("TRITON_INTERPRET", "1")
            return importlib.import_module(f"{self.package}.{op}")

    def launch(self, op: str, *arguments: Any, **options: Any) -> Any:
        """launch_<op>; tensors are moved to the device and back."""
        wrapper = getattr(self.module(op), f"launch_{op}")
        there = [self.there(argument) for argument in arguments]
        moved = {name: self.there(option) for name, option in options.items()}
        return self.back(wrapper(*there, **moved))

    def there(self, value: Any) -> Any:
        return value.to(self.device) if isinstance(value, Tensor) else value

    def back(self, value: Any) -> Any:
        return value.cpu() if isinstance(value, Tensor) else tuple(map(self.back, value))


GPU = [pytest.param("gpu", marks=pytest.mark.gpu)] if torch.cuda.is_available() else []


@pytest.fixture(name="kernels", params=["interpreter", *GPU])
def interpreter_or_gpu(request: pytest.FixtureRequest) -> Kernels:
    if request.param == "interpreter":
        return Kernels(interpreted_package(), "cpu")
    return Kernels("latino_engine.kernels", "cuda")


def ids(pairs: int) -> tuple[Tensor, Tensor]:
    """Paired ids that are no ranges, with the largest of both."""
    images = torch.arange(pairs) * 977 % 4096
    images[-1] = 2**22 - 1
    return images, 2**32 - 1 - 3 * torch.arange(pairs)


def normals(shape: Size, step: int = STEP) -> Tensor:
    """The noise by its float64 recipe."""
    return philox.philox_normals(SEED, *ids(shape[0]), step, shape)


def per_pair(values: Tensor) -> Tensor:
    return values.double().reshape(-1, 1, 1, 1)


def rounding(dtype: torch.dtype, kernels: Kernels) -> float:
    """Relative error of a store: half a unit in the last place, and none to speak of in float32."""
    half = {torch.float32: 0.0, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}[dtype]
    # The interpreter cuts bfloat16 off where a GPU rounds to the nearest.
    return 2 * half if kernels.device == "cpu" and dtype == torch.bfloat16 else half


def assert_close(found: Tensor, expected: Tensor, relative: float, bound: float = 1e-6) -> None:
    """|found - expected| <= bound max(1, max |expected|) + relative |expected|, everywhere."""
    assert found.shape == expected.shape
    allowed = bound * max(1.0, float(expected.abs().max())) + relative * expected.abs()
    excess = (found.double() - expected).abs() - allowed
    assert float(excess.max()) <= 0, f"{float(excess.max()):.2e} beyond the bound"
