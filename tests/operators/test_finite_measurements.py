"""A measurement with NaN or infinite entries is refused; missing entries are not looked at."""

from __future__ import annotations

import pytest
import torch
from operator_cases import LINEAR_CASES, Case

from latino_engine.operators import JPEG, MRI, Blur, Inpainting, PhaseRetrieval, PoissonNoise

NOT_LINEAR = (
    Case("jpeg", lambda h, w: JPEG(50)),
    Case("phase", lambda h, w: PhaseRetrieval.oversampled((h, w), 0.05)),
    Case("poisson", lambda h, w: PoissonNoise(Inpainting(torch.eye(h, w), 0.0), 5)),
)


@pytest.mark.parametrize("case", LINEAR_CASES + NOT_LINEAR, ids=lambda case: case.name)
def test_a_measurement_that_is_no_number(case: Case) -> None:
    """Found where the data step is made, at no cost for its steps; missing entries are ignored."""
    op = case.build(12, 12)
    x = torch.rand(3, case.channels, 12, 12)
    y = op.measure(x)
    ones = op.observed(torch.ones_like(y))
    missing = torch.where(ones == 0, torch.nan, y)
    op.data_step(missing)
    place = tuple(int(i) for i in (ones != 0).nonzero()[0])
    for value in (torch.nan, -torch.inf):
        y[place] = value
        with pytest.raises(ValueError) as caught:
            op.data_step(y)
        assert str(caught.value) == (
            "y: expected finite numbers, got 1 NaN or infinite entries; clean the "
            "measurement, or mark these entries as missing with Inpainting"
        )


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_the_prox_finds_it_too(device: str) -> None:
    """What makes no data step looks at its result; what stands at missing entries is ignored."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    mask = torch.ones(16, 16)
    mask[3] = 0
    for op, channels in ((Inpainting(mask, 0.1), 3), (MRI(mask, 0.1), 2)):
        v = torch.rand(2, channels, 16, 16, device=device)
        y = op.measure(v)
        y[:, :, 3] = torch.nan
        assert bool(torch.isfinite(op.prox(v, y, 2.0)).all())
        y[0, 0, 4, 4] = torch.nan
        for gamma in (0.0, 2.0):
            with pytest.raises(ValueError, match=r"^y: expected finite numbers, got 1 NaN or inf"):
                op.prox(v, y, gamma)


def test_large_numbers_are_numbers() -> None:
    Blur.gaussian(1.0, 0.02).data_step(torch.full((2, 3, 12, 10), 3e38))
