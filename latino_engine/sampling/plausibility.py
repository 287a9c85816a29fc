"""Whether measurement, noise level and model can belong together: sentences where they hardly do.

Nothing here changes a sample. What no image can explain is refused; what is only unlikely becomes a
sentence, which `Engine.sample` warns of and keeps in `about["warnings"]`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from latino_engine.errors import invalid
from latino_engine.operators.protocol import Family, Operator
from latino_engine.sampling.problem import Problem
from latino_engine.schedule import Schedule

#: chi-square of samples outside of these is hardly that of the stated model and noise.
CHI2_RANGE = (0.01, 5.0)
#: A last prox that weighs y more than this draws the residual below the noise by itself.
_GENTLE_GAMMA = 4.0
_SMALL_NOISE = 0.005  # of the range: a sampler that ends on the network cannot fit y as closely
_FEW = 64  # observed numbers, below which nothing is judged
_LEVELS = (-1.0, 2.0)  # ranges, in which the constant image lies that explains y best
#: Pixels from the nearest seen one that samplers fill where no training says otherwise: with 4 the
#: error was twice the std (of the shipped prior, with and without its adapter), with 8 seven times.
HOLE_RADIUS = 5
_RING = 2  # pixels at the border
_RING_RATIO = 4.0  # of mean squares; 0.9 to 1.1 with the right border, 13 with a wrong one

#: The two likeliest causes of a small chi-square, and of a large one.
_UNITS = "noise_std is in other units than y (grey levels of 0..255 are divided by 255)"
_SMOOTH = f"{_UNITS}, or y was denoised or resized after it was measured"
_LARGE: dict[Family, str] = {
    "deblurring": "the kernel is another one, or the border (Blur wraps around, BorderedBlur not)",
    "super-resolution": "the kernel or the grid is another one, or noise_std is too small",
    "inpainting": "the mask belongs to another image, or noise_std is too small",
    "denoising": "noise_std is too small, or y is in other units",
    "colorization": "the weights of the channels are others, or noise_std is too small",
    "jpeg": "quality, tables or subsampling are others, or y was changed after it was decoded",
    "tomography": "the convention of the angles or of the centre is another one, or the pixel size",
    "mri": "mask or k-space is shifted (DC at (H//2, W//2)), or k-space has another scale",
    "phase": "the sampler found another solution (try more num_iter or seeds), or the masks differ",
    "compressed-sensing": "seed or ordering are others, or y has another scale",
    "unknown": "A is not what measured y, or noise_std is too small",
}


def check_inputs(problem: Problem, radius: int | None) -> tuple[list[str], list[str]]:
    """Sentences about y and its operator before anything is drawn: about units, and about holes.

    Args:
        problem: what is drawn from.
        radius: pixels from the nearest seen one that the sampler fills; None: not judged.

    Raises:
        InvalidArgument: a noise level of half the range or more of which y has not even a fourth.
    """
    operator, y = problem.operator, problem.y
    if not (operator.is_linear or operator.measures_image):
        return [], []
    like = problem.x_init if operator.batch_size is not None else problem.x_init[:1]
    white = operator.observed(operator.A(torch.ones_like(like)))
    if white.shape[1:] != y.shape[1:]:
        return [], []
    holes = [] if radius is None else _holes(operator, white, like, radius)
    return _units(problem, white), holes


def _units(problem: Problem, white: Tensor) -> list[str]:
    """Sentences where y cannot be what A makes of an image in the range; `white` is A(1)."""
    operator, y, (low, high) = problem.operator, problem.y, problem.spec.data_range
    noise = torch.as_tensor(operator.noise_std, dtype=torch.float64).cpu()
    norm2 = _inner(white, white).clamp(min=1e-12)
    level = _inner(white, y) / norm2  # of the constant image that explains y best
    if operator.is_linear and bool((noise >= 0.5 * (high - low)).any()):
        count = operator.num_observed(y).double().cpu()
        rest = _inner(y, y) - level.square() * norm2
        _check_noise(noise, rest / count, count, high - low)
    told = norm2.sqrt() > 10.0 * noise  # else the noise decides
    place = (level - low) / (high - low)
    away = told & ((place < _LEVELS[0]) | (place > _LEVELS[1]))
    if bool(away.any()):
        return [
            f"y: expected the measurement of an image in [{low:g}, {high:g}], got one that "
            f"a constant image of {float(level[away][0]):.3g} explains best; bring y to the units "
            "of the image, for example y / 255, or counts / peak"
        ]
    if not operator.measures_image:
        return []
    gain = float(norm2.sum() / white.double().sum().cpu().clamp(min=1e-12))
    return _image_doubts(y, white, gain, float(noise.max()), (low, high))


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """Re <a, b> of every image, (B,) float64 on the CPU, without a copy of either."""
    a, b = ((torch.view_as_real(z) if z.is_complex() else z).flatten(1) for z in (a, b))
    return torch.bmm(a[:, None].expand(len(b), -1, -1), b[..., None]).reshape(-1).double().cpu()


def _check_noise(noise: Tensor, variance: Tensor, count: Tensor, scale: float) -> None:
    """y has at least the variance of its noise, whatever the image is."""
    beyond = (noise >= 0.5 * scale) & (variance < 0.25 * noise.square()) & (count >= _FEW)
    if bool(beyond.any()):
        level = float(noise.expand(len(beyond))[beyond][0])
        got = f"{level:g}, though y varies by {float(variance[beyond][0].clamp(min=0).sqrt()):.2g}"
        remedy = "grey levels of 0..255 are divided by 255"
        raise invalid("noise_std", "a standard deviation in the units of y", got, remedy)


def _image_doubts(
    y: Tensor, white: Tensor, gain: float, noise: float, data_range: tuple[float, float]
) -> list[str]:
    """Sentences about a measurement that is an image, `gain` times as bright as what it shows."""
    (low, high), darkest, lowest = data_range, float(white.min()), float(y.min())
    if darkest < 0.0 or gain <= 0.1:
        return []
    slack = 0.1 * (high - low) * gain + noise
    if lowest < low * (darkest if low < 0.0 else float(white.max())) - slack:
        seen = (white > 0).double()
        below = ((low * white - y).clamp(min=0).double() * seen).square().sum()
        if float((below / seen.expand(y.shape).sum()).sqrt()) > slack:
            return [
                f"y: expected an image in [{low:g}, {high:g}], got values down to {lowest:.3g}; "
                "an image in [-1, 1] becomes one in [0, 1] by (y + 1) / 2"
            ]
    if gain > 2.0 and low == 0.0 and float(y.max()) < 1.25 * high:
        return [
            f"operator: expected one that keeps the brightness of y, an image in [0, {high:g}], "
            f"got one that makes it {gain:.3g} times as bright; divide the kernel by its sum"
        ]
    return []


def _holes(operator: Operator, white: Tensor, like: Tensor, radius: int) -> list[str]:
    """A sentence where hidden pixels are further than `radius` from every seen one."""
    same = operator.measures_image and white.shape[-2:] == like.shape[-2:]
    if not same or float(white.abs().min()) > 0.0:
        return []
    seen = (white != 0).any(dim=1, keepdim=True).float()  # in any channel, as a mosaic has it
    if not _is_hidden(seen, radius):
        return []
    found = radius + 1
    while found < max(like.shape[-2:]) and _is_hidden(seen, found):
        found += 1
    return [
        f"y: expected hidden pixels at most about {radius} from a seen one, which the sampler "
        f"fills, got {found}; what it draws there is smooth, and its std far too small (on "
        "photographs the error was 6 to 14 times the std)"
    ]


def _is_hidden(seen: Tensor, radius: int) -> bool:
    """Whether a pixel is further than `radius` from every seen one, along the longer axis."""
    rows, columns = (min(radius, side - 1) for side in seen.shape[-2:])
    near = max_pool2d(seen, (2 * rows + 1, 1), 1, (rows, 0))
    near = max_pool2d(near, (1, 2 * columns + 1), 1, (0, columns))
    return bool((near == 0).any())


def check_drawn(problem: Problem, drawn: dict[str, Any], schedule: Schedule) -> list[str]:
    """Sentences about what was drawn: the residual at the border, and chi-square.

    Args:
        problem: what was drawn from.
        drawn: "kept" or "running" and "residual_chi2", as `Run.collect` returns them.
        schedule: of the images.
    """
    if problem.operator.wraps and _border_ratio(problem, drawn) > _RING_RATIO:
        return [
            "operator: expected the border of y, got a residual that is several times larger at "
            "the border than inside; use BorderedBlur (border=reflect), since Blur wraps around, "
            "as only simulated data do"
        ]
    operator, spec = problem.operator, problem.spec
    chi2 = drawn["residual_chi2"].mean(dim=0)
    noise = torch.as_tensor(operator.noise_std, dtype=torch.float64).cpu()
    final = 0.0 if schedule.final_gamma is None else schedule.final_gamma
    last, (small, large) = float(torch.as_tensor(final).max()), CHI2_RANGE
    judged = operator.num_observed(problem.y).cpu() >= _FEW
    scale = spec.data_range[1] - spec.data_range[0]
    high = judged & (chi2 > large) & ((noise >= _SMALL_NOISE * scale) | (last > 0.0))
    if bool(high.any()):
        return [_chi2_sentence(float(chi2[high].max()), _LARGE[operator.family])]
    low = judged & (chi2 < small) & operator.is_linear & (last <= _GENTLE_GAMMA)
    return [_chi2_sentence(float(chi2[low].min()), _SMOOTH)] if bool(low.any()) else []


def _border_ratio(problem: Problem, drawn: dict[str, Any]) -> float:
    """Mean square of the residual of the mean at the border over that inside; 0 where none is."""
    kept = drawn["kept"]
    mean = drawn["running"][0] if kept is None else kept.mean(dim=0)
    residual = problem.operator.residual(mean.to(problem.y), problem.y)
    if residual.ndim != 4 or min(residual.shape[-2:]) < 8 * _RING:
        return 0.0
    squares = residual.square().mean(dim=(0, 1), dtype=torch.float64)
    inside = squares[_RING:-_RING, _RING:-_RING]
    ring = (squares.sum() - inside.sum()) / (squares.numel() - inside.numel())
    return float(ring / inside.mean().clamp(min=1e-12))


def _chi2_sentence(value: float, causes: str) -> str:
    small, large = CHI2_RANGE
    return (
        f"residual_chi2: expected {small:g} to {large:g}, got {value:.3g}; the likeliest causes: "
        f"{causes}"
    )
