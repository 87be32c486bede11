"""Sample one shard of a cell.

    psld sample model=models/demo/cld sampler=em sampler.steps=50 shard=3 output=3.h5
    psld sample model=models/demo/psld-0.02 guidance@sampler.guidance=classifier \\
        guide=guides/demo/psld-0.02 sampler.guidance.label=3 output=threes.h5
"""

import time

import torch
from torch import Tensor

from psld.commands.entry import entry_point
from psld.data.pixels import to_uint8
from psld.utils.device import choose_device
from psld.utils.errors import RunError
from psld.training.model import Model, load_model
from psld.utils.provenance import device_name
from psld.utils.randomness import Stream, generator
from psld.sampling.guidance import guidance_of
from psld.diffusion.loop import sample
from psld.sampling.origin import origin_of
from psld.sampling.settings import SampleSettings
from psld.sampling.shards import Shard


@entry_point("sample", SampleSettings)
def main(settings: SampleSettings) -> None:
    device = choose_device(settings.device)
    model = load_model(settings.model, device)
    shard = sample_shard(model, settings, device)
    shard.save(settings.output)
    print(f"wrote {settings.output}: {len(shard.images)} images, NFE {shard.nfe}")


def sample_shard(model: Model, settings: SampleSettings, device: torch.device) -> Shard:
    """All images of one shard.

    The shard's noise comes from (seed, shard) and is drawn for the whole shard at each step, so an
    image depends neither on the batch size nor on which worker computes its shard. It is drawn on
    the device: CPUs and GPUs of different kinds give different images.
    """
    started, origin = time.monotonic(), origin_of(settings, settings.shard)
    dataset = model.settings.dataset
    channels = dataset.channels
    stream = generator(device, settings.seed, Stream.SHARD, settings.shard)
    guidance = guidance_of(settings, model, device)
    shape = (model.process.blocks * channels, dataset.image_size, dataset.image_size)

    def noise(z: Tensor) -> Tensor:
        return torch.randn(z.shape, generator=stream, device=device)

    start = model.process.prior(noise(torch.empty(guidance.size, *shape)))
    score, inpainting = guidance.score, guidance.inpainting
    z = sample(model.process, settings.sampler, score, start, noise, inpainting)
    if not torch.isfinite(z).all():
        raise RunError(f"shard {settings.shard}: the sampler produced NaN or infinity")
    return Shard(
        images=to_uint8(z[:, :channels]).cpu().numpy(),
        origin=origin,
        nfe=score.evaluations,
        seconds=time.monotonic() - started,
        device=device_name(device),
        labels=None if guidance.labels is None else guidance.labels.cpu().numpy(),
        masks=None if inpainting is None else inpainting.mask[:, 0].byte().cpu().numpy(),
    )


if __name__ == "__main__":
    main()
