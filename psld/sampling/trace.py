"""The path of one image from noise to data through phase space."""

import torch
from torch import Tensor

from psld.diffusion.loop import path
from psld.diffusion.score import NetworkScore
from psld.networks.forward import forward_pass
from psld.sampling.fit import check_fit
from psld.sampling.noise import ShardNoise
from psld.sampling.settings import NoGuidance, RK45Sampler, SamplerSettings
from psld.training.model import Model
from psld.utils.device import device_of
from psld.utils.errors import UserError


def trace_sample(
    model: Model, sampler: SamplerSettings, sample: int, shard_size: int, seed: int
) -> tuple[list[float], Tensor]:
    """Sample one image of a cell and keep its state after each step.

    `sample` is its index in the cell; `shard_size` and `seed` are those of the cell. It gets the
    same noise as in its shard, so the result is the same image.

    Return the forward times, descending from 1, and the blocks at these times, each in units of
    its stationary deviation: times×k×C×H×W.

    Raises UserError if the model has no momentum, or the sampler no steps that all images share.
    """
    process, dataset = model.process, model.settings.dataset
    if process.blocks == 1:
        raise UserError(
            f"the model has no momentum ({model.settings.process.kind}); its phase space is the "
            "image alone. Choose a model of psld, cld or recipe"
        )
    if isinstance(sampler, RK45Sampler):
        raise UserError(
            "sampler.integrator: rk45 has no steps that all images share; use another sampler"
        )
    if not isinstance(sampler.guidance, NoGuidance):
        raise UserError("sampler.guidance: a path is of the model alone; use none")
    check_fit(sampler, model.settings, None)
    device = device_of(model.network)
    shard, index = divmod(sample, shard_size)
    # The shard's noise begins with that of its first images.
    shape = (index + 1, process.blocks * dataset.channels, dataset.image_size, dataset.image_size)
    network = forward_pass(model.network, sampler.precision)
    score = NetworkScore(network, batch_size=1)
    with ShardNoise(seed, shard, shape, device) as noise:
        start = process.prior(noise()[index:])
        steps = path(process, sampler, score, start, lambda _: noise()[index:])
        times, states = zip(*((t, z[0].cpu()) for t, z in steps), strict=True)
    blocks = torch.stack(states).unflatten(1, (process.blocks, dataset.channels))
    deviations = torch.diagonal(process.S).sqrt().to(blocks)
    return list(times), blocks / deviations[:, None, None, None]
