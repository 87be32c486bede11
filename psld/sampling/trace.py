"""The path of one image of a cell from noise to data, for a figure."""

import torch
from torch import Tensor

from psld.diffusion.loop import path
from psld.diffusion.samplers import NoGuidance, SamplerSettings
from psld.diffusion.score import NetworkScore
from psld.networks.forward import forward_pass
from psld.sampling.sample import ShardNoise, resolve_start
from psld.sampling.settings import check_fit
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
    if sampler.integrator == "rk45":
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
    score = NetworkScore(model.eps(network), batch_size=1)
    sampler, start = resolve_start(sampler, model)
    with ShardNoise(seed, shard, shape, device) as noise:
        z = start(noise()[index:])
        steps = path(process, sampler, score, z, lambda _: noise()[index:])
        times, states = zip(*((t, z[0].cpu()) for t, z in steps), strict=True)
    blocks = torch.stack(states).unflatten(1, (process.blocks, dataset.channels))
    deviations = torch.diagonal(process.S).sqrt().to(blocks)
    return list(times), blocks / deviations[:, None, None, None]
