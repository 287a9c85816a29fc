"""Schedules against the figures of the paper and of the design."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from latino_engine.errors import InvalidArgument
from latino_engine.schedule import (
    few_step_sigmas,
    few_step_times,
    latino_schedule,
    linear_beta_sigmas,
    log_spaced,
    ud2m_schedule,
)


def test_time_grid_of_the_authors():
    assert few_step_times(3) == [999, 444, 111]
    assert few_step_times(1) == [999]
    assert few_step_times(2) == [999, 250]
    assert len(set(few_step_times(63))) == 63


def test_sigmas_of_linear_betas():
    assert few_step_sigmas(3) == pytest.approx([157.4, 2.555, 0.380], rel=2e-3)
    table = linear_beta_sigmas()
    alpha_bar = 1.0 / (1.0 + table**2)
    assert alpha_bar[0] == pytest.approx(1.0 - 1e-4)
    assert alpha_bar[1] / alpha_bar[0] == pytest.approx(1.0 - (1e-4 + 0.0199 / 999))
    assert np.all(np.diff(table) > 0)


def test_a_prior_with_a_table_of_its_own():
    table = np.linspace(0.01, 10.0, 100)
    assert few_step_sigmas(2, table) == pytest.approx([table[99], table[25]])


def test_ud2m_step_sizes_follow_the_formula():
    sigma_y, sigmas = 0.2, [10.0, 0.5]
    schedule = ud2m_schedule(sigma_y, sigmas, 2, r=1.5, d=0.8, lam=1.2)
    for outer, sigma_n in zip(schedule.outer, sigmas, strict=True):
        rho2 = 1.5**2 * sigma_y**2 * sigma_n**2 / (sigma_y**2 + sigma_n**2)
        w = 1.0 / rho2 + 1.0 / sigma_n**2
        for step in outer.inner:
            assert step.gamma == pytest.approx(1.0 / (1.2 * sigma_y**2 * w))
            assert step.sigma_delta == pytest.approx(0.8 * rho2**0.5)
            assert step.x_weight == pytest.approx(1.0 / rho2 / w)
    assert [o.sigma_next for o in schedule.outer] == [0.5, None]
    assert schedule.nfe == 4 and schedule.final_gamma is None and schedule.sigma_start == 10.0


def test_step_sizes_may_differ_and_carry_gradients():
    r = [[torch.tensor(1.0, requires_grad=True), torch.tensor(2.0)], [torch.tensor(0.5)] * 2]
    schedule = ud2m_schedule(0.1, [2.0, 0.4], 2, r=r)
    level = schedule.outer[0].inner[0].sigma_delta
    level.backward()
    assert r[0][0].grad is not None and float(r[0][0].grad) > 0


def test_a_noise_level_per_image_gives_a_row_per_image():
    sigma_y = torch.tensor([0.1, 0.4], dtype=torch.float64)
    both = ud2m_schedule(sigma_y, [2.0, 0.4], 1)
    for i, level in enumerate(sigma_y.tolist()):
        one = ud2m_schedule(level, [2.0, 0.4], 1)
        for many, single in zip(both.outer, one.outer, strict=True):
            assert float(many.inner[0].gamma[i]) == pytest.approx(single.inner[0].gamma)
            assert float(many.inner[0].x_weight[i]) == pytest.approx(single.inner[0].x_weight)


def test_latino_is_the_same_data_shifted_by_a_row():
    schedule = latino_schedule(0.1, [0.6, 0.2])
    steps = schedule.outer[0].inner
    assert steps[0].gamma == 0.0 and steps[1].gamma == pytest.approx(36.0)
    assert schedule.final_gamma == pytest.approx(4.0)
    assert schedule.sigma_start is None and schedule.nfe == 2


def test_log_spacing():
    assert log_spaced(0.6, 0.04, 8)[0] == pytest.approx(0.6)
    ratios = np.diff(np.log(log_spaced(0.6, 0.04, 8)))
    assert ratios == pytest.approx(ratios[0])
    assert log_spaced(0.6, 0.04, 1) == [0.6]


@pytest.mark.parametrize(
    "call, sentence",
    [
        (
            lambda: few_step_times(0),
            "steps: expected at least 1, got 0; choose the number of outer steps",
        ),
        (lambda: few_step_times(64), "steps: expected at most 63, got 64; use fewer outer steps"),
        (
            lambda: ud2m_schedule(0.1, [1.0], 0),
            "unfold: expected at least 1, got 0; choose the inner iterations per outer step",
        ),
        (
            lambda: log_spaced(1.0, 0.1, 0),
            "steps: expected at least 1, got 0; choose the number of network evaluations",
        ),
        (
            lambda: latino_schedule(0.1, []),
            "steps: expected at least 1, got 0; choose the number of network evaluations",
        ),
    ],
)
def test_sentences(call, sentence):
    with pytest.raises(InvalidArgument) as caught:
        call()
    assert str(caught.value) == sentence


def test_a_small_table_is_refused():
    with pytest.raises(InvalidArgument, match="r, d, lam: expected a row for outer step 1"):
        ud2m_schedule(0.1, [1.0, 0.5], 1, r=[[1.0]])
