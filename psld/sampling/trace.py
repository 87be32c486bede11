"""The path of one image from noise to data through phase space."""

from dataclasses import dataclass

import torch
from torch import Tensor

from psld.diffusion.loop import path
from psld.diffusion.score import NetworkScore
from psld.networks.forward import forward_pass
from psld.sampling.fit import check_fit
from psld.sampling.noise import ShardNoise
from psld.sampling.settings import AdaptiveSampler, NoGuidance, SamplerSettings
from psld.training.model import Model
from psld.utils.errors import UserError


@dataclass(frozen=True)
class Trace:
    """The path of one image from noise to data."""

    times: list[float]
    """Forward times, descending from 1."""
    states: Tensor
    """The blocks at these times, each in units of its stationary deviation: times×k×C×H×W."""


def trace_sample(
    model: Model, sampler: SamplerSettings, sample: int, shard_size: int, seed: int
) -> Trace:
    """Sample one image of a cell and keep its state after each step.

    Sample i starts from the same noise as in the cell's shards and meets the same noise at each
    step, so the result is that very image.

    Args:
        sample: index of the image in its cell.
        shard_size: images per shard of the cell.
        seed: seed of the cell.

    Raises:
        UserError: the model has no momentum, or the sampler has no steps that all images share.
    """
    process, dataset = model.process, model.settings.dataset
    if process.blocks == 1:
        raise UserError(
            f"the model has no momentum ({model.settings.process.kind}); its phase space is the "
            "image alone. Choose a model of psld, cld or recipe"
        )
    if isinstance(sampler, AdaptiveSampler):
        raise UserError(
            "sampler.integrator: rk45 has no steps that all images share; use em or sscs"
        )
    if not isinstance(sampler.guidance, NoGuidance):
        raise UserError("sampler.guidance: a path is of the model alone; use none")
    check_fit(sampler, model.settings, None)
    device = next(model.network.parameters()).device
    shard, index = divmod(sample, shard_size)
    # The shard's noise begins with that of its first images.
    shape = (index + 1, process.blocks * dataset.channels, dataset.image_size, dataset.image_size)
    score = NetworkScore(forward_pass(model.network, sampler.precision), batch_size=1)
    with ShardNoise(seed, shard, shape, device) as noise:
        start = process.prior(noise()[index:])
        steps = path(process, sampler, score, start, lambda _: noise()[index:])
        states = [(t, z[0].cpu()) for t, z in steps]
    times, zs = zip(*states, strict=True)
    blocks = torch.stack(zs).unflatten(1, (process.blocks, dataset.channels))
    deviations = torch.diagonal(process.S).sqrt().to(blocks)
    return Trace(list(times), blocks / deviations[:, None, None, None])
