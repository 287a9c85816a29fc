"""The text of every sentence an operator can say to its user."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sentences import is_said, name_of

from latino_engine.operators import (
    JPEG,
    MRI,
    Blur,
    Denoising,
    Inpainting,
    LinearOperator,
    SuperResolution,
)

X = torch.rand(2, 3, 12, 10)
KERNEL = torch.full((3, 3), 1 / 9)
MASK = torch.ones(12, 10)
NAN = float("nan")
BLUR = Blur(KERNEL, 0.02)
BLUR_3 = Blur(KERNEL.expand(3, 1, 3, 3), 0.02)
SR = SuperResolution(2, 0.02, KERNEL)
HALF = torch.rand(2, 3, 6, 5)
FILL = Inpainting(MASK, 0.02)
SCAN = MRI(MASK, 0.02)
COILS = MRI(MASK, 0.02, torch.ones(4, 12, 10))
K = torch.rand(2, 2, 12, 10)
USER = LinearOperator(lambda x: x, lambda y: y, 0.02)

Row = tuple[Callable[[], Any], type[Exception], str | tuple[str, str]]

CONSTRUCTION: tuple[Row, ...] = (
    (
        lambda: Blur(torch.ones(3), 0.02),
        ValueError,
        "kernel: expected (kh, kw) or (B, C, kh, kw), got (3,); index or reshape it",
    ),
    (
        lambda: Blur(torch.ones(0, 3), 0.02),
        ValueError,
        ("kernel", "(0, 3)"),
    ),
    (
        lambda: Blur(np.full((3, 3), NAN), 0.02),
        ValueError,
        "kernel: expected finite values, got NaN or Inf; replace them before this call",
    ),
    (
        lambda: Blur(torch.ones(3, 3, dtype=torch.complex64), 0.02),
        TypeError,
        "kernel: expected real numbers, got torch.complex64; give the real part",
    ),
    (
        lambda: Blur("gaussian", 0.02),  # type: ignore[arg-type]
        TypeError,
        "kernel: expected an array of numbers, got str; give a numpy array or a torch tensor",
    ),
    (
        lambda: Blur(KERNEL, -0.1),
        ValueError,
        "noise_std: expected a standard deviation >= 0, got -0.1; give its absolute value",
    ),
    (
        lambda: Blur(KERNEL, torch.ones(2, 2)),
        ValueError,
        "noise_std: expected a number or shape (B,), got shape (2, 2); give one value per image",
    ),
    (
        lambda: Denoising(float("inf")),
        ValueError,
        ("noise_std", "NaN or Inf"),
    ),
    (
        lambda: Blur(KERNEL.expand(3, 1, 3, 3), [0.1, 0.2]),
        ValueError,
        "noise_std: expected a number or 3 values, got 2 values; give one for each kernel",
    ),
    (
        lambda: Blur.gaussian(0.0, 0.02),
        ValueError,
        "std: expected a finite number > 0, got 0; give the std in pixels",
    ),
    (
        lambda: Blur.uniform(0, 0.02),
        ValueError,
        "size: expected at least 1 pixel, got 0; give a positive size",
    ),
    (
        lambda: Blur.motion(2.5, 0.02),  # type: ignore[arg-type]
        TypeError,
        "size: expected an integer, got float; give a whole number",
    ),
    (
        lambda: Blur.motion(9, 0.02, seed=-1),
        ValueError,
        "seed: expected 0 <= seed < 2^64, got -1; choose another seed",
    ),
    (
        lambda: SuperResolution(0, 0.02),
        ValueError,
        "factor: expected at least 1, got 0; give the ratio of the two resolutions",
    ),
    (
        lambda: SuperResolution(1.5, 0.02),  # type: ignore[arg-type]
        TypeError,
        ("factor", "float"),
    ),
    (
        lambda: SuperResolution(2, 0.02, kernel="lanczos"),
        ValueError,
        'kernel: expected "bicubic", "gaussian", a library\'s filter such as "pillow-bicubic", or '
        'an array, got "lanczos"; did you mean "pillow-lanczos"?',
    ),
    (
        lambda: Inpainting(0.5 * MASK, 0.02),
        ValueError,
        "mask: expected only 0 and 1, got values in [0.5, 0.5]; "
        "threshold it, for instance mask > 0.5",
    ),
    (
        lambda: Inpainting(torch.ones(3, 12, 10), 0.02),
        ValueError,
        "mask: expected (H, W) or (B, C, H, W), got (3, 12, 10); reshape it",
    ),
    (
        lambda: Inpainting(torch.tensor([[NAN, 1.0]]), 0.02),
        ValueError,
        ("mask", "NaN or Inf"),
    ),
    (
        lambda: MRI(torch.ones(1, 2, 12, 10), 0.02),
        ValueError,
        "mask: expected (H, W) or (B, 1, H, W), got (1, 2, 12, 10); "
        "give one mask for re and im, mask[:, :1]",
    ),
    (
        lambda: MRI(MASK, 0.02, torch.ones(12, 10)),
        ValueError,
        "coil_maps: expected (N, H, W) or (B, N, H, W), got (12, 10); index or reshape them",
    ),
    (
        lambda: MRI(MASK, 0.02, torch.ones(4, 10, 12)),
        ValueError,
        "coil_maps: expected 12 x 10 as the mask, got 10 x 12; "
        "crop or resize one of coil_maps and mask",
    ),
    (
        lambda: MRI(MASK, 0.02, torch.full((4, 12, 10), complex(NAN, 0.0))),
        ValueError,
        ("coil_maps", "NaN or Inf"),
    ),
    (
        lambda: MRI(MASK.expand(2, 1, 12, 10), 0.02, torch.ones(3, 4, 12, 10)),
        ValueError,
        "mask and coil_maps: expected one batch size, got 2 and 3; "
        "give one of each for every image",
    ),
    (
        lambda: JPEG(0),
        ValueError,
        "quality: expected 1 to 100, got 0; use the number given to the encoder",
    ),
    (
        lambda: JPEG(101),
        ValueError,
        ("quality", "101"),
    ),
    (
        lambda: JPEG(50.0),  # type: ignore[arg-type]
        TypeError,
        "quality: expected an integer, got float; give a whole number from 1 to 100",
    ),
    (
        lambda: LinearOperator(3, lambda y: y, 0.02),  # type: ignore[arg-type]
        TypeError,
        "A: expected a function, got int; give x -> y for A and y -> x for A_adjoint",
    ),
    (
        lambda: LinearOperator(lambda x: x, None, 0.02),  # type: ignore[arg-type]
        TypeError,
        ("A_adjoint", "NoneType"),
    ),
    (
        lambda: LinearOperator(lambda x: x, lambda y: y, 0.02, tol=0.0),
        ValueError,
        "tol: expected a number in (0, 1), got 0; 1e-6 suits most uses",
    ),
    (
        lambda: LinearOperator(lambda x: x, lambda y: y, 0.02, max_iter=0),
        ValueError,
        "max_iter: expected at least 1, got 0; 200 suits most uses",
    ),
)

PER_IMAGE = "the operator has parameters per image; give as many images, or use take(index)"

USE: tuple[Row, ...] = (
    (
        lambda: BLUR.A(X[0]),
        ValueError,
        "x: expected (B, C, H, W), got (3, 12, 10); add a batch axis",
    ),
    (
        lambda: BLUR.A(X[0, 0]),
        ValueError,
        "x: expected (B, C, H, W), got (12, 10); add two axes: image[None, None]",
    ),
    (
        lambda: BLUR.A(X.numpy()),  # type: ignore[arg-type]
        TypeError,
        "x: expected a torch tensor (B, C, H, W), got ndarray; convert it by torch.from_numpy",
    ),
    (
        lambda: BLUR.measure((255 * X).byte()),
        TypeError,
        "x: expected float32 or float64, got torch.uint8; convert it to [0, 1] first",
    ),
    (
        lambda: BLUR.A(X.half()),
        TypeError,
        "x: expected float32 or float64, got torch.float16; convert it with .float()",
    ),
    (
        lambda: Blur(KERNEL.expand(1, 2, 3, 3), 0.02).A(X),
        ValueError,
        "x: expected (B, 2, H, W), got (2, 3, 12, 10); "
        "the operator's parameters are for 2 channels",
    ),
    (lambda: BLUR_3.A(X), ValueError, f"x: expected a batch of 3, got 2; {PER_IMAGE}"),
    (lambda: BLUR_3.A_adjoint(X), ValueError, f"y: expected a batch of 3, got 2; {PER_IMAGE}"),
    (lambda: BLUR_3.prox(X, X, 1.0), ValueError, f"y: expected a batch of 3, got 2; {PER_IMAGE}"),
    (
        lambda: Denoising([0.1, 0.2, 0.3]).initial_estimate(X),
        ValueError,
        f"y: expected a batch of 3, got 2; {PER_IMAGE}",
    ),
    (
        lambda: Blur(torch.ones(13, 3), 0.02).A(X),
        ValueError,
        "kernel: expected at most the image's 12 x 10, got 13 x 3; "
        "crop the kernel or use a larger image",
    ),
    (
        lambda: BLUR.prox(X[..., :9], X, 1.0),
        ValueError,
        "v: expected (2, 3, 12, 10) for this y, got (2, 3, 12, 9); v and y belong to one image",
    ),
    (
        lambda: BLUR.prox(X[:1], X, 1.0),
        ValueError,
        ("v", "(1, 3, 12, 10)"),
    ),
    (
        lambda: BLUR.prox(X.double(), X, 1.0),
        TypeError,
        "v: expected torch.float32 as y, got torch.float64; use one dtype",
    ),
    (
        lambda: BLUR.prox(X, X, -1.0),
        ValueError,
        "gamma: expected a finite number >= 0, got -1; gamma = 0 leaves v as it is",
    ),
    (
        lambda: BLUR.prox(X, X, NAN),
        ValueError,
        ("gamma", "nan"),
    ),
    (
        lambda: FILL.prox(X, X, torch.tensor([1.0, -2.0])),
        ValueError,
        ("gamma", "-2"),
    ),
    (
        lambda: BLUR.prox(X, X, torch.ones(3)),
        ValueError,
        "gamma: expected a number or a tensor of shape (2,), got shape (3,); "
        "give one value for each image of the batch",
    ),
    (
        lambda: BLUR.measure(X, seed=0.5),  # type: ignore[arg-type]
        TypeError,
        "seed: expected an integer, got float; give a whole number",
    ),
    (
        lambda: SR.A(X[..., :11, :]),
        ValueError,
        "x: expected sides divisible by 2, got 11 x 10; crop it to 10 x 10",
    ),
    (
        lambda: SR.prox(X[..., :10, :], HALF, 1.0),
        ValueError,
        ("v", "(2, 3, 10, 10)"),
    ),
    (
        lambda: SuperResolution(4, 0.02).A(X[..., :8]),
        ValueError,
        ("kernel", "16 x 16"),
    ),
    (
        lambda: FILL.A(X[..., :9]),
        ValueError,
        "x: expected 12 x 10 as the mask, got 12 x 9; crop or resize one of x and mask",
    ),
    (
        lambda: FILL.observed(X[..., :9]),
        ValueError,
        "y: expected 12 x 10 as the mask, got 12 x 9; crop or resize one of y and mask",
    ),
    (
        lambda: SCAN.A(X),
        ValueError,
        "x: expected 2 channels (re, im) or 1 (real), got 3; "
        "a complex image is stored as two channels",
    ),
    (
        lambda: MRI(MASK, 0.02, real_image=True).A(K),
        ValueError,
        "x: expected 1 channel, got 2; a complex image is stored as two channels",
    ),
    (
        lambda: SCAN.A_adjoint(X),
        ValueError,
        "y: expected (B, 2, 12, 10), got (2, 3, 12, 10); store k-space as (re, im) on axis 1",
    ),
    (
        lambda: COILS.A_adjoint(K),
        ValueError,
        "y: expected (B, 2, 4, 12, 10), got (2, 2, 12, 10); store k-space as (re, im) on axis 1",
    ),
    (
        lambda: SCAN.prox(K[:1], K, 1.0),
        ValueError,
        ("v", "(1, 2, 12, 10)"),
    ),
    (
        lambda: JPEG(50).A(K),
        ValueError,
        "x: expected 1 or 3 channels, got 2; JPEG stores grey or colour images",
    ),
    (
        lambda: JPEG(50).prox(X, X[:, :1], 1.0),
        ValueError,
        ("v", "(2, 3, 12, 10)"),
    ),
    (
        lambda: LinearOperator(lambda x: x.sum(), lambda y: y, 0.02).A(X),
        ValueError,
        "A(x): expected a tensor (2, ...), got (); keep the batch axis in A",
    ),
    (
        lambda: LinearOperator(lambda x: x, lambda y: y[0], 0.02).A_adjoint(X),
        ValueError,
        "A_adjoint(y): expected a tensor (2, C, H, W), got (3, 12, 10); "
        "return an image for each measurement",
    ),
    (
        lambda: USER.prox(X[..., :9], X, 1.0),
        ValueError,
        "v: expected (2, 3, 12, 10) as A_adjoint(y), got (2, 3, 12, 9); "
        "v and y belong to one image",
    ),
    (
        lambda: USER.A_adjoint(X.numpy()),  # type: ignore[arg-type]
        TypeError,
        "y: expected a tensor (B, ...), got ndarray; convert it by torch.from_numpy",
    ),
    (
        lambda: BLUR_3.take(torch.tensor([3])),
        ValueError,
        "index: expected values in [0, 3), got 3..3; count the images from 0",
    ),
    (
        lambda: BLUR_3.take(torch.tensor([0.0])),
        TypeError,
        "index: expected 1-D int64, got torch.float32 of shape (1,); "
        "use torch.arange or a LongTensor",
    ),
)


@pytest.mark.parametrize(
    ("call", "kind", "sentence"),
    CONSTRUCTION + USE,
    ids=name_of,
)
def test_the_sentence(
    call: Callable[[], Any], kind: type[Exception], sentence: str | tuple[str, str]
) -> None:
    with pytest.raises(kind) as caught:
        call()
    assert is_said(str(caught.value), sentence)
