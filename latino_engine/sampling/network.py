"""The network of an engine: what it makes of noisy images, and how many of them memory allows."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor

from latino_engine.errors import invalid
from latino_engine.priors.prior import PriorSpec, check_image, on_padded
from latino_engine.runtimes.protocol import DenoiserRuntime
from latino_engine.sampling.cuda_driver import Driver
from latino_engine.sampling.cuda_graph import Worker, WorkerPool
from latino_engine.sampling.tiles import Tiles, denoise_tiles
from latino_engine.schedule import Scalar
from latino_engine.system.memory import available_bytes, bytes_per_image

_MEMORY_SHARE = 0.5  # of what is free: the rest is for the caller's own images
_TILE = 256  # side of tiles that nobody chose
_WORKING_IMAGES = 12  # copies of a chunk outside the network: state, prox, spectra, noise


class Network:
    """A prior's network in its runtime.

    Args:
        spec: of the prior.
        runtime: runs the network.
        max_batch: the most images that travel through it together.
        memory: what it takes for each image, as the engine's manifest records it.
        driver: the boundary to CUDA; None where everything runs as it is called.

    Attributes:
        pool: workers that replay the whole sampler as a CUDA graph; None without a driver.
    """

    def __init__(
        self,
        spec: PriorSpec,
        runtime: DenoiserRuntime,
        max_batch: int,
        memory: dict[str, float],
        driver: Driver | None = None,
    ) -> None:
        self.spec = spec
        self.runtime = runtime
        self.max_batch = max_batch
        self.memory = memory
        self.driver = driver
        self.pool: WorkerPool | None = None
        if driver is not None:
            self.pool = WorkerPool(lambda: Worker(driver, runtime, spec), driver)

    @property
    def device(self) -> str:
        """Where the network runs."""
        return self.runtime.device

    @property
    def execution(self) -> str:
        """How a call runs where its operator allows for it: "eager" or "CUDA graph"."""
        return "CUDA graph" if self.pool is not None and self.runtime.capturable else "eager"

    def worker(self) -> AbstractContextManager[Worker | None]:
        """A worker of the pool for the length of a call; None without a pool."""
        return nullcontext() if self.pool is None else self.pool.worker()

    def denoise(self, x_noisy: Tensor, sigma: Scalar, tiles: Tiles | None = None) -> Tensor:
        """x0_hat as `Prior.denoise` has it, of the whole image or by tiles."""
        check_image("x_noisy", x_noisy, self.spec)
        x_noisy = x_noisy.float()
        levels = torch.as_tensor(sigma, dtype=torch.float32, device=x_noisy.device)
        levels = levels.clamp(self.spec.sigma_min, self.spec.sigma_max)
        levels = levels.expand(x_noisy.shape[0]).contiguous()

        def run(padded: Tensor, levels: Tensor) -> Tensor:
            if tiles is None:
                return self.runtime(padded, levels)
            return denoise_tiles(self.runtime, padded, levels, tiles)

        return on_padded(run, x_noisy, levels, self.spec.size_multiple)

    def chunk_size(self, height: int, width: int) -> int:
        """How many images travel through the network together: at most max_batch, and what memory
        allows.

        Raises:
            ValueError: not even one image of this size fits into the free memory.
        """
        return self._fit(height, width, None)[0]

    def tiled_chunk_size(self, height: int, width: int, tiles: Tiles) -> tuple[int, Tiles]:
        """How many images are sampled together, and the tiles with the batch that memory allows.

        Raises:
            ValueError: not even one image with one tile of it fits into the free memory.
        """
        images, batch = self._fit(height, width, tiles)
        return images, replace(tiles, batch=min(tiles.batch, batch))

    def tile_for(self, height: int, width: int) -> int | None:
        """The side of the tiles that one image of this size asks for; None where it fits whole
        into half of the free memory.
        """
        multiple = self.spec.size_multiple
        side = max(2 * multiple, _TILE + -_TILE % multiple)
        if self._bytes_of(height, width) <= _MEMORY_SHARE * available_bytes(self.device):
            return None
        return None if max(height, width) <= side else side

    def _bytes_of(self, height: int, width: int) -> float:
        """What the network and the steps around it take for one whole image."""
        seen = (side + -side % self.spec.size_multiple for side in (height, width))
        working = _WORKING_IMAGES * 4 * self.spec.channels * height * width
        return bytes_per_image(self.memory, *seen) + working

    def _fit(self, height: int, width: int, tiles: Tiles | None) -> tuple[int, int]:
        """Images together, and inputs of the network together."""
        seen = tuple(side + -side % self.spec.size_multiple for side in (height, width))
        if tiles is not None:
            seen = tiles.shape(*seen)
        network = bytes_per_image(self.memory, *seen)
        working = _WORKING_IMAGES * 4 * self.spec.channels * height * width
        budget = _MEMORY_SHARE * available_bytes(self.device)
        if network + working > 2.0 * budget:
            expected = f"an image that fits into the free memory ({2e-9 * budget:.1f} GB)"
            got = f"{height} x {width}, which takes about {1e-9 * (network + working):.1f} GB"
            if tiles is None:
                remedy = "let the network see tiles, for example tile=256, or free some memory"
            else:
                remedy = "choose a smaller tile, or free some memory"
            raise invalid("y", expected, got, remedy)
        images = max(1, min(self.max_batch, int(budget // (network + working))))
        return images, max(1, min(self.max_batch, int((budget - images * working) // network)))
