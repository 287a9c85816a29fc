"""Squares of 64 x 64 per second of processor time that a prior's training takes in.

    python -m benchmarks.end_to_end.training_steps

One thread; the gradient of a batch of 32, its median over the repetitions. The rows are the two
networks of `train-prior` at the size of photo-small, in float32, in bfloat16 and compiled.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch
from torch import nn

from latino_engine.distill.prior_step import Step
from latino_engine.priors.networks.resunet import ResUNet
from latino_engine.priors.networks.unet import UNet
from latino_engine.priors.preconditioning import EDMDenoiser

_BATCH, _SIDE = 32, 64


def squares_per_second(network: nn.Module, precision: str, compiled: bool, repeats: int) -> float:
    """Squares per second of processor time, after two steps that are not counted."""
    model = EDMDenoiser(network, 0.5).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    x = torch.randn(_BATCH, 3, _SIDE, _SIDE).contiguous(memory_format=torch.channels_last)
    sigma = torch.rand(_BATCH) + 0.1
    step, times = Step(model, precision, compiled, x), []
    for _ in range(repeats + 2):
        begin = time.process_time()
        optimizer.zero_grad(set_to_none=True)
        step(x, x, sigma)
        optimizer.step()
        times.append(time.process_time() - begin)
    return _BATCH / statistics.median(times[2:])


def main() -> None:
    """Print one JSON line a row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    rows = [
        ("unet 32,64,128", UNet(3, (32, 64, 128)), "fp32", False),
        ("unet 32,64,128", UNet(3, (32, 64, 128)), "bf16", False),
        *(
            ("resunet 64,96,128", ResUNet(3, (64, 96, 128), (1, 1, 2), (1, 1, 2)), *how)
            for how in (("fp32", False), ("bf16", False), ("bf16", True))
        ),
    ]
    for name, network, precision, compiled in rows:
        found = squares_per_second(network, precision, compiled, repeats)
        row = {"network": name, "precision": precision, "compiled": compiled}
        print(json.dumps(row | {"squares_per_processor_second": round(found, 1)}), flush=True)


if __name__ == "__main__":
    main()
