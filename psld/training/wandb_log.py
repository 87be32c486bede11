"""What a training reports to wandb: one run a model, however often it is resumed."""

import os
from pathlib import Path
from typing import Any

import torch
import wandb
from torch import nn
from torchvision.utils import make_grid

from psld.datasets.pixels import to_uint8
from psld.processes.linear import LinearProcess
from psld.randomness import Stream, generator
from psld.samplers.loop import sample
from psld.samplers.score import NetworkScore
from psld.samplers.settings import SDESamplerSettings
from psld.training.settings import TrainSettings

PREVIEW_IMAGES = 64
PREVIEW_SAMPLER = SDESamplerSettings(integrator="em", striding="quadratic", steps=50)


class WandbLog:
    """The log of the leading rank.

    The run's id is the run directory's name, so a resumed training continues its run; the grid is
    the group and the stage the job type.
    """

    def __init__(
        self, settings: TrainSettings, run_folder: Path, process: LinearProcess, config: Any
    ) -> None:
        self.settings, self.process = settings, process
        os.environ.setdefault("WANDB_SILENT", "true")
        self.run = wandb.init(
            project=settings.wandb.project,
            entity=settings.wandb.entity,
            mode=settings.wandb.mode,
            id=run_folder.name,
            name=settings.name,
            group=settings.grid_name,
            job_type="train",
            resume="allow",
            dir=run_folder,
            config=config,
        )

    def __enter__(self) -> "WandbLog":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.run.finish(exit_code=0 if kind is None else 1)

    def values(self, step: int, values: dict[str, float]) -> None:
        self.run.log(values, step=step)

    def preview(self, step: int, network: nn.Module) -> None:
        """Log a grid of samples, always from the same noise."""
        self.run.log({"samples": wandb.Image(self._sample_grid(network))}, step=step)

    def _sample_grid(self, network: nn.Module) -> Any:
        device = next(network.parameters()).device
        dataset = self.settings.dataset
        stream = generator(device, self.settings.training.seed, Stream.PREVIEW)
        shape = (self.process.blocks * dataset.channels, dataset.image_size, dataset.image_size)

        def noise(z: torch.Tensor) -> torch.Tensor:
            return torch.randn(z.shape, generator=stream, device=device)

        start = self.process.prior(noise(torch.empty(PREVIEW_IMAGES, *shape)))
        score = NetworkScore(network, batch_size=PREVIEW_IMAGES)
        z = sample(self.process, PREVIEW_SAMPLER, score, start, noise)
        images = to_uint8(z[:, : dataset.channels])
        return make_grid(images, nrow=8, padding=1).permute(1, 2, 0).cpu().numpy()


class NoLog:
    """The log of every other rank."""

    def values(self, step: int, values: dict[str, float]) -> None:
        """Only the leading rank reports."""

    def preview(self, step: int, network: nn.Module) -> None:
        """Only the leading rank draws."""
