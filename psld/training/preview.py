"""A look at a model in training: a grid of samples, always from the same noise."""

from typing import Any

import torch
from torch import nn

from psld.data.pixels import to_uint8
from psld.diffusion.loop import sample
from psld.diffusion.process import LinearProcess
from psld.diffusion.score import NetworkScore
from psld.diffusion.settings import SDESamplerSettings
from psld.training.settings import ModelSettings
from psld.utils.randomness import Stream, generator

IMAGES = 64
SAMPLER = SDESamplerSettings(integrator="em", striding="quadratic", steps=50)


def preview_samples(
    settings: ModelSettings, process: LinearProcess, network: nn.Module
) -> dict[str, Any]:
    """64 samples of the network as one picture; a class-conditional one samples without a class."""
    # Both take a second to import, and most commands that know of previews never make one.
    import wandb
    from torchvision.utils import make_grid

    device = next(network.parameters()).device
    dataset = settings.dataset
    stream = generator(device, settings.training.seed, Stream.PREVIEW)
    shape = (process.blocks * dataset.channels, dataset.image_size, dataset.image_size)

    def noise(z: torch.Tensor) -> torch.Tensor:
        return torch.randn(z.shape, generator=stream, device=device)

    start = process.prior(noise(torch.empty(IMAGES, *shape)))
    z = sample(process, SAMPLER, NetworkScore(network, batch_size=IMAGES), start, noise)
    images = to_uint8(z[:, : dataset.channels])
    grid = make_grid(images, nrow=8, padding=1).permute(1, 2, 0).cpu().numpy()
    return {"samples": wandb.Image(grid)}
