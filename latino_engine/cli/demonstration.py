"""The demo restores one shipped photograph three times, each with a picture and its figures."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

from latino_engine.cli.restoration import restore
from latino_engine.compilation.compiler import compile as compile_prior
from latino_engine.sampling.options import Sampling

PHOTOGRAPH = "chelsea.png"  # source and licence: assets/SOURCES.md
NOISE_STD = 0.02
NUM_SAMPLES = 4
TASKS = {
    "deblurring": "blur:std=1.6,size=13",
    "4x super-resolution": "sr:factor=4",
    "half the pixels missing": "inpaint:random=0.5",
}


def run_demo(out: str | Path, threads: int | None = None) -> list[dict[str, Any]]:
    """Compile the shipped prior with its adapter under `out` and run the tasks.

    Returns:
        A row for each task, with the keys task, measured, start, sample and mean (PSNR in dB),
            nfe, ms_per_sample and picture.
    """
    out = Path(out)
    engine = compile_prior(
        "photo-small",
        out / "photo-small.engine",
        image_size=256,
        threads=threads,
    )
    rows = []
    with resources.as_file(resources.files("latino_engine") / "assets" / PHOTOGRAPH) as photograph:
        for task, operator in TASKS.items():
            folder = out / task.replace(" ", "-")
            report = restore(
                engine,
                photograph,
                operator,
                folder,
                Sampling(num_samples=NUM_SAMPLES),
                noise_std=NOISE_STD,
                simulate=True,
            )
            found = {name: figures["psnr"] for name, figures in report["quality"].items()}
            rows.append(
                {
                    "task": task,
                    "measured": found["measured"],
                    "start": found["start"],
                    "sample": found["one sample"],
                    "mean": found["mean"],
                    "nfe": report["nfe"],
                    "ms_per_sample": report["time_ms"] / NUM_SAMPLES,
                    "picture": str(folder / "restoration.png"),
                }
            )
    return rows
