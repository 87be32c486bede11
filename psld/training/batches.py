"""Draw training batches: the batch of step s depends only on (seed, s)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from psld.data.units import BYTES, Units
from psld.diffusion.loss import Batch, Noising
from psld.models.objectives import LoopSettings
from psld.training.ranks import Ranks
from psld.utils.device import pinned
from psld.utils.errors import UserError
from psld.utils.randomness import Prefetch, Stream, generator, standard_normal, stream_seed

RESIDENT_BYTES = 4 << 30
"""A training split of at most this many bytes is stored on the training device."""


@dataclass(frozen=True)
class Labels:
    """The classes of the training images, as inputs of a model or as targets of a guide."""

    values: np.ndarray
    """int64, one label per image."""
    num_classes: int
    dropout: float = 0.0
    """Probability that a label is replaced by `num_classes`, the label for "no class"."""


class Batches:
    """The batches of one rank, which are parts of global batches drawn from (seed, step).

    Threads draw all random numbers on the CPU, some steps ahead. The batches are therefore
    bit-identical on every device, and drawing never waits for the device.
    """

    def __init__(
        self,
        images: np.ndarray,
        flip: bool,
        noising: Noising,
        settings: LoopSettings,
        ranks: Ranks,
        labels: Labels | None = None,
        units: Units = BYTES,
    ) -> None:
        """Check that the batch size is a multiple of the number of ranks, and start the threads.

        Args:
            images: N×C×H×W in the units `units`, usually a memory map.
            flip: mirror each image with probability 1/2.
        """
        if settings.batch_size % ranks.world:
            raise UserError(
                f"training.batch_size: {settings.batch_size} images cannot be shared equally by "
                f"{ranks.world} ranks"
            )
        self.settings, self.noising, self.flip, self.units = settings, noising, flip, units
        self.images, self.labels, self.device = images, labels, ranks.device
        size = settings.batch_size // ranks.world
        self.part = slice(ranks.rank * size, (ranks.rank + 1) * size)
        self.resident: Tensor | None = None
        if images.nbytes <= RESIDENT_BYTES:
            self.resident = torch.from_numpy(np.array(images)).to(self.device)
        drawn = (noising.blocks + noising.auxiliary) * images.shape[1]
        # Without blocks, each rank draws noise from the start of the batch, including the noise of
        # all lower ranks.
        block = settings.noise_block
        self.first_block = self.part.start // block if block else 0
        self.first_drawn = self.first_block * (block or 0)
        self.noise_shape = (self.part.stop - self.first_drawn, drawn, *images.shape[2:])
        self._drawn = Prefetch(self._draw_on_host, self.device, self.noise_shape)

    def close(self) -> None:
        """Stop the threads and release the images."""
        self._drawn.close()
        self.resident = None

    def draw(self, step: int) -> Batch:
        """Return this rank's part of the batch of one step."""
        t, *drawn = self._drawn(step, self.settings.steps)
        images, flipped, noise, labels = (
            each.to(self.device, non_blocking=True) if isinstance(each, Tensor) else each
            for each in drawn
        )
        x0 = self.units.seen(images if self.resident is None else self.resident[images])
        if self.flip:
            x0 = torch.where(flipped[:, None, None, None], x0.flip(-1), x0)
        channels = self.noising.blocks * x0.shape[1]
        auxiliary = noise[:, channels:] if self.noising.auxiliary else None
        return Batch(x0=x0, t=t, eps=noise[:, :channels], auxiliary_eps=auxiliary, labels=labels)

    def _draw_on_host(self, step: int) -> tuple[Any, ...]:
        """Return times, images, flips, noise and labels of a step.

        The images are replaced by their indices if the device holds all images.
        """
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
        images = indices
        if self.resident is None:
            images = torch.from_numpy(self.images[indices.numpy()])
        key = stream_seed(settings.seed, Stream.NOISE)
        blocks = settings.noise_block, self.first_block
        noise = standard_normal(key, step, self.noise_shape, self.device, *blocks)
        noise = noise[self.part.start - self.first_drawn :]
        drawn = (self.noising.levels(uniform), images, flipped, noise, labels)
        return tuple(None if part is None else pinned(part, self.device) for part in drawn)
