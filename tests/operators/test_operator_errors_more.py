"""The sentences of the operators for borders, colour filters, combinations and lost phases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from sentences import is_said, name_of

from latino_engine.operators import (
    JPEG,
    MRI,
    Blur,
    BorderedBlur,
    Colorization,
    Compose,
    CompressedSensing,
    Demosaicing,
    Denoising,
    Inpainting,
    PhaseRetrieval,
    PoissonNoise,
    SpatiallyVaryingBlur,
    Stack,
    SuperResolution,
    Tomography,
)

X = torch.rand(2, 3, 12, 10)
KERNEL = torch.full((3, 3), 1 / 9)
MASK = torch.ones(12, 10)
BORDERED = BorderedBlur(KERNEL, 0.02)
VALID = BorderedBlur(KERNEL, 0.02, "valid")
VARYING = SpatiallyVaryingBlur(KERNEL.expand(2, 2, 3, 3), 0.02)
COLOUR, MOSAIC = Colorization(0.02), Demosaicing(0.02)
STACK = Stack([Denoising(0.1), Blur(KERNEL, 0.2)], (3, 12, 10))
COMPOSED = Compose([Blur(KERNEL, 0.0), Inpainting(MASK, 0.1)])
CODED = CompressedSensing(0.5, 8, 0.1)
PHASE = PhaseRetrieval(torch.ones(8, 8), 0.1)

ROWS: tuple[tuple[Callable[[], Any], type[Exception], str], ...] = (
    (
        lambda: BorderedBlur(KERNEL, 0.02, "wrap"),
        ValueError,
        "border: expected 'reflect' or 'replicate' or 'valid', got 'wrap'; use Blur where the "
        "image wraps around",
    ),
    (
        lambda: BorderedBlur(torch.ones(3), 0.02),
        ValueError,
        ("kernel", "(3,)"),
    ),
    (
        lambda: BORDERED.A(torch.rand(2, 3, 2, 10)),
        ValueError,
        ("kernel", "3 x 3"),
    ),
    (
        lambda: VALID.A(torch.rand(2, 3, 2, 10)),
        ValueError,
        ("kernel", "3 x 3"),
    ),
    (
        lambda: BORDERED.prox(X[..., :9], X, 1.0),
        ValueError,
        ("v", "(2, 3, 12, 9)"),
    ),
    (
        lambda: VALID.prox(X, X, 1.0),
        ValueError,
        ("v", "(2, 3, 12, 10)"),
    ),
    (
        lambda: BorderedBlur(KERNEL.expand(3, 1, 3, 3), 0.02).A(X),
        ValueError,
        "x: expected a batch of 3, got 2; the operator has parameters per image; give as many "
        "images, or use take(index)",
    ),
    (
        lambda: SpatiallyVaryingBlur(KERNEL, 0.02),
        ValueError,
        "kernels: expected (R, S, kh, kw), a grid of kernels, got (3, 3); use Blur for a "
        "single kernel",
    ),
    (
        lambda: VARYING.A(torch.rand(2, 3, 2, 10)),
        ValueError,
        ("kernel", "3 x 3"),
    ),
    (
        lambda: VARYING.prox(X[:1], X, 1.0),
        ValueError,
        ("v", "(1, 3, 12, 10)"),
    ),
    (
        lambda: SpatiallyVaryingBlur(KERNEL.expand(2, 2, 3, 3), [0.1, 0.2, 0.3]).A(X),
        ValueError,
        ("x", "2; the operator has parameters per image"),
    ),
    (
        lambda: SpatiallyVaryingBlur(torch.full((2, 2, 3, 3), float("nan")), 0.1),
        ValueError,
        ("kernels", "NaN or Inf"),
    ),
    (
        lambda: Colorization(0.02, [0, 0, 0]),
        ValueError,
        "weights: expected a list of numbers, one of them not 0, got none; give one number "
        "for each channel",
    ),
    (
        lambda: Colorization(0.02, 0.5),
        ValueError,
        ("weights", "shape ()"),
    ),
    (
        lambda: Colorization(0.02, [[1.0, 2.0]]),
        ValueError,
        ("weights", "shape (1, 2)"),
    ),
    (
        lambda: COLOUR.A(X[:, :2]),
        ValueError,
        "x: expected 3 channels, got 2; the operator has one weight for each channel",
    ),
    (
        lambda: COLOUR.A_adjoint(X),
        ValueError,
        "y: expected (B, 1, H, W), got (2, 3, 12, 10); a grey image has one channel; use "
        "Denoising where the colours were measured",
    ),
    (
        lambda: COLOUR.prox(X[:1], X[:, :1], 1.0),
        ValueError,
        ("v", "(1, 3, 12, 10)"),
    ),
    (
        lambda: MOSAIC.A(X[:, :2]),
        ValueError,
        "x: expected 3 channels, got 2; a Bayer pattern samples red, green, blue",
    ),
    (
        lambda: MOSAIC.A_adjoint(X),
        ValueError,
        "y: expected (B, 1, H, W), got (2, 3, 12, 10); give the raw mosaic; the sum over the "
        "channels of a sparse colour image is it",
    ),
    (
        lambda: Demosaicing(0.02, 3),
        ValueError,
        "pattern: expected one of RGGB, BGGR, GRBG, GBRG, got 3; read it from the camera's "
        "metadata",
    ),
    (
        lambda: Stack([], (3, 12, 10)),
        TypeError,
        "operators: expected a list of operators, got none; give one or more",
    ),
    (
        lambda: Stack(Denoising(0.1), (3, 12, 10)),
        TypeError,
        ("operators", "Denoising"),
    ),
    (
        lambda: Stack([Denoising(0.1), JPEG(50)], (3, 12, 10)),
        TypeError,
        "operators[1]: expected a linear operator, got JPEG; sample JPEG, phase retrieval and "
        "photon counts by themselves",
    ),
    (
        lambda: Stack([Denoising(0.1), "blur"], (3, 12, 10)),
        TypeError,
        ("operators[1]", "str"),
    ),
    (
        lambda: Stack([Denoising(0.1)], (12, 10)),
        ValueError,
        "image_shape: expected (C, H, W), got (12, 10); give the shape of one image",
    ),
    (
        lambda: Stack([Denoising(0.1)], 12),
        ValueError,
        ("image_shape", "(12,)"),
    ),
    (
        lambda: Stack([Denoising([0.1, 0.2]), Denoising([0.1, 0.2, 0.3])], (3, 12, 10)),
        ValueError,
        "operators: expected one batch size, got 2 and 3; give parameters for every image",
    ),
    (
        lambda: Stack([Inpainting(torch.ones(8, 8), 0.1)], (3, 12, 10)),
        ValueError,
        ("x", "12 x 10"),
    ),
    (
        lambda: STACK.A(X[..., :9]),
        ValueError,
        "x: expected (B, 3, 12, 10), got (2, 3, 12, 9); the stack was made for images of this "
        "shape",
    ),
    (
        lambda: STACK.join([X]),
        ValueError,
        "measurements: expected 2, one for each operator, got 1; give all of them in order",
    ),
    (
        lambda: STACK.join([X, X[..., :9]]),
        ValueError,
        "measurements[1]: expected (B, 3, 12, 10) as its operator measures, got (2, 3, 12, "
        "9); keep their order",
    ),
    (
        lambda: STACK.split(X),
        ValueError,
        "y: expected (B, 720), got (2, 3, 12, 10); make it by join([y_1, y_2, ...])",
    ),
    (
        lambda: STACK.prox(X, X, 1.0),
        ValueError,
        ("y", "(2, 3, 12, 10)"),
    ),
    (
        lambda: STACK.prox(X[..., :9], STACK.A(X), 1.0),
        ValueError,
        ("v", "(2, 3, 12, 9)"),
    ),
    (
        lambda: Compose([]),
        TypeError,
        ("operators", "none"),
    ),
    (
        lambda: Compose([Denoising(0.1), Denoising(0.1)]),
        ValueError,
        "operators[0].noise_std: expected 0, got 0.1; only the last operator adds noise",
    ),
    (
        lambda: Compose([Denoising(0.0), PhaseRetrieval(torch.ones(8, 8), 0.1)]),
        TypeError,
        "operators[1]: expected a linear operator, got PhaseRetrieval; photon noise stands around "
        "a chain: PoissonNoise(Compose([...]), peak)",
    ),
    (
        lambda: Compose([Blur(KERNEL.expand(2, 1, 3, 3), 0.0), Denoising([0.1, 0.2, 0.3])]),
        ValueError,
        ("operators", "2 and 3"),
    ),
    (
        lambda: COMPOSED.A(X[..., :9]),
        ValueError,
        ("x", "12 x 9"),
    ),
    (
        lambda: COMPOSED.prox(X[..., :9], X, 1.0),
        ValueError,
        ("v", "(2, 3, 12, 9)"),
    ),
    (
        lambda: COMPOSED.observed(X[..., :9]),
        ValueError,
        ("y", "12 x 9"),
    ),
    (
        lambda: Compose([SuperResolution(2, 0.0), Inpainting(MASK, 0.1)]).A(X),
        ValueError,
        ("x", "6 x 5"),
    ),
    (
        lambda: Compose([MRI(MASK, 0.0), Denoising(0.1)]).A(X),
        ValueError,
        ("x", "3"),
    ),
    (
        lambda: Tomography([], 8, 0.1),
        ValueError,
        "angles: expected a number of angles or a list of degrees, got shape (0,); flatten it",
    ),
    (
        lambda: Tomography([float("nan")], 8, 0.1),
        ValueError,
        ("angles", "NaN or Inf"),
    ),
    (
        lambda: Tomography(4, 0, 0.1),
        ValueError,
        "image_size: expected sides of at least 1, got (0, 0); give the image's (H, W)",
    ),
    (
        lambda: Tomography(4, (8,), 0.1),
        TypeError,
        "image_size: expected a side or (H, W), integers, got (8,); give whole pixels",
    ),
    (
        lambda: Tomography(4, 8, 0.1, num_detectors=0),
        ValueError,
        "num_detectors: expected at least 1, got 0; leave it out",
    ),
    (
        lambda: CompressedSensing(0.5, 8, 0.1, ordering="walsh"),
        ValueError,
        "ordering: expected 'sequency' or 'random', got 'walsh'; choose one of them",
    ),
    (
        lambda: CompressedSensing(0.5, 8, 0.1, seed=-1),
        ValueError,
        ("seed", "-1"),
    ),
    (
        lambda: CODED.A(torch.ones(1, 1, 8, 9)),
        ValueError,
        "x: expected 8 x 8 pixels, got 8 x 9; crop or resize it, or make the operator for "
        "this size",
    ),
    (
        lambda: CompressedSensing("a", 8, 0.1),
        TypeError,
        "ratio: expected a number in (0, 1], got str; give one number",
    ),
    (
        lambda: PHASE.A(torch.ones(1, 1, 8, 9)),
        ValueError,
        ("x", "8 x 9"),
    ),
    (
        lambda: PHASE.prox(torch.ones(1, 1, 8, 9), torch.ones(1, 1, 1, 8, 8), 1.0),
        ValueError,
        ("v", "(1, 1, 8, 9)"),
    ),
    (
        lambda: PHASE.observed(torch.ones(1, 1, 8, 8)),
        ValueError,
        "y: expected magnitudes (B, C, 1, 8, 8), got (1, 1, 8, 8); masks stand on axis 2",
    ),
    (
        lambda: PHASE.A_adjoint(torch.ones(1, 1, 1, 8, 8)),
        ValueError,
        "A_adjoint: expected a linear operator, got PhaseRetrieval; use prox instead",
    ),
    (
        lambda: PhaseRetrieval(torch.zeros(3, 3), 0.1),
        ValueError,
        "masks: expected (H, W) or (L, H, W), not all 0, got zeros alone; give one mask or more",
    ),
    (
        lambda: PhaseRetrieval(torch.ones(3, 3), 0.1, oversampling=0),
        ValueError,
        ("oversampling", "0"),
    ),
    (
        lambda: PhaseRetrieval(torch.ones(3, 3), 0.1, oversampling=1.5),
        TypeError,
        ("oversampling", "float"),
    ),
    (
        lambda: PhaseRetrieval.coded_diffraction(8, 0.1, num_masks=0),
        ValueError,
        "num_masks: expected at least 1, got 0; 4 suit most uses",
    ),
    (
        lambda: PoissonNoise("x", 1.0),
        TypeError,
        "operator: expected a linear operator, got str; Denoising(0.0) for A = 1",
    ),
    (
        lambda: PoissonNoise(Denoising(0.0), "many"),
        TypeError,
        ("peak", "str"),
    ),
    (
        lambda: PoissonNoise(Denoising(0.0), 9.0).A_adjoint(X),
        ValueError,
        "A_adjoint: expected a linear operator, got PoissonNoise; use prox, or operator.A_adjoint",
    ),
)


@pytest.mark.parametrize(("call", "kind", "sentence"), ROWS, ids=name_of)
def test_the_sentence(
    call: Callable[[], Any], kind: type[Exception], sentence: str | tuple[str, str]
) -> None:
    with pytest.raises(kind) as caught:
        call()
    assert is_said(str(caught.value), sentence)


def test_another_sentence_is_not_taken() -> None:
    sentence = "x: expected 3 channels, got 4 channels; use another image"
    assert is_said(sentence, sentence) and is_said(sentence, ("x", "4 channels"))
    assert not is_said(sentence, ("y", "4 channels")) and not is_said(sentence, ("x", "3 channels"))
    assert not is_said(sentence + "\nmore", ("x", "4 channels"))
    assert not is_said("x: expected 3, got 4 channels", ("x", "4 channels"))
