"""Batches: what a training sees at step s is a function of (seed, s) only."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from psld.data.pixels import from_uint8
from psld.diffusion.loss import Batch
from psld.diffusion.process import LinearProcess
from psld.training.ranks import Ranks
from psld.training.settings import LoopSettings
from psld.utils.errors import UserError
from psld.utils.randomness import Stream, generator

RESIDENT_BYTES = 4 << 30
"""A training split up to this size is moved to the training device as a whole."""


@dataclass(frozen=True)
class Labels:
    """The classes of the training images, as inputs of a model or as targets of a guide."""

    values: np.ndarray
    """int64, one per image."""
    num_classes: int
    dropout: float = 0.0
    """Probability that a label is replaced by `num_classes`, which means no class."""


class Batches:
    """Draws the global batch of a step from (seed, step) and takes this rank's part.

    Indices, flips and times are drawn on the CPU, the noise on the training device, so nothing
    waits for the device.
    """

    def __init__(
        self,
        images: np.ndarray,
        flip: bool,
        process: LinearProcess,
        settings: LoopSettings,
        ranks: Ranks,
        labels: Labels | None = None,
    ) -> None:
        """`images`: uint8 N×C×H×W, usually a memory map."""
        if settings.batch_size % ranks.world:
            raise UserError(
                f"training.batch_size: {settings.batch_size} images cannot be shared equally by "
                f"{ranks.world} ranks"
            )
        self.settings, self.process, self.flip = settings, process, flip
        self.images, self.labels, self.device = images, labels, ranks.device
        size = settings.batch_size // ranks.world
        self.part = slice(ranks.rank * size, (ranks.rank + 1) * size)
        self.resident: Tensor | None = None
        if images.nbytes <= RESIDENT_BYTES:
            self.resident = torch.from_numpy(np.array(images)).to(self.device)

    def draw(self, step: int) -> Batch:
        """This rank's part of the batch of one step."""
        settings, size = self.settings, self.settings.batch_size
        host = generator("cpu", settings.seed, Stream.BATCH, step)
        indices = torch.randint(len(self.images), (size,), generator=host)[self.part]
        flipped = torch.rand(size, generator=host)[self.part] < 0.5
        uniform = torch.rand(size, dtype=torch.float64, generator=host)[self.part]
        labels = None
        if self.labels:
            dropped = torch.rand(size, generator=host)[self.part] < self.labels.dropout
            labels = torch.from_numpy(self.labels.values[indices.numpy()])
            labels[dropped] = self.labels.num_classes
            labels = labels.to(self.device, non_blocking=True)
        x0 = self._gather(indices)
        if self.flip:
            flipped = flipped.to(self.device, non_blocking=True)[:, None, None, None]
            x0 = torch.where(flipped, x0.flip(-1), x0)
        # Noise for k blocks, and for k − 1 more under DSM.
        channels, auxiliary = self.process.blocks * x0.shape[1], 0
        if self.process.needs_auxiliary_noise:
            auxiliary = channels - x0.shape[1]
        device = generator(self.device, settings.seed, Stream.NOISE, step)
        shape = (size, channels + auxiliary, *x0.shape[2:])
        noise = torch.randn(shape, generator=device, device=self.device)[self.part]
        return Batch(
            x0=x0,
            t=settings.time_eps + (LinearProcess.T - settings.time_eps) * uniform,
            eps=noise[:, :channels],
            auxiliary_eps=noise[:, channels:] if auxiliary else None,
            labels=labels,
        )

    def _gather(self, indices: Tensor) -> Tensor:
        if self.resident is not None:
            return from_uint8(self.resident[indices.to(self.device, non_blocking=True)])
        images = torch.from_numpy(self.images[indices.numpy()])
        if self.device.type == "cuda":
            images = images.pin_memory()
        return from_uint8(images.to(self.device, non_blocking=True))
