"""Trace: the way of one image from noise to data through phase space, as a picture.

    psld trace model=models/demo/psld-0.02 sampler=em sampler.steps=40 output=way

Sample i of a cell starts from the same noise here as in the cell's shards and meets the same, so
what comes out is that very image.
"""

from dataclasses import dataclass

import torch
from pydantic import Field, model_validator
from torch import Tensor

from psld.commands.entry import entry_point
from psld.utils.device import choose_device
from psld.utils.errors import UserError
from psld.report.phase_space import draw_trace
from psld.report.style import save
from psld.training.model import Model, load_model
from psld.utils.randomness import Stream, generator
from psld.sampling.fit import check_fit
from psld.diffusion.loop import path
from psld.diffusion.score import NetworkScore
from psld.sampling.settings import NoGuidance, ODESamplerSettings, SamplerSettings
from psld.config.settings import Settings


class TraceSettings(Settings):
    """Settings of `psld trace`."""

    model: str
    """Folder of a trained model whose process has momentum."""
    sampler: SamplerSettings
    """An unguided sampler with a fixed time grid."""
    sample: int = Field(ge=0)
    """Index of the sample in its cell."""
    shard_size: int = Field(ge=1)
    """Images per shard of the cell."""
    seed: int = Field(ge=0)
    """Seed of the cell."""
    times: int = Field(ge=2)
    """Columns of the picture: states from noise to data."""
    pixels: int = Field(ge=1)
    """Pixels that are followed through phase space."""
    title: str
    output: str
    """Path of the pictures without their ending: a PNG and an SVG."""
    device: str
    """`auto`, or a torch device such as `cpu` or `cuda`."""

    @model_validator(mode="after")
    def _has_steps_to_show(self) -> "TraceSettings":
        if isinstance(self.sampler, ODESamplerSettings):
            raise ValueError(
                "sampler.integrator: rk45 has no steps that all images share; use em or sscs"
            )
        if not isinstance(self.sampler.guidance, NoGuidance):
            raise ValueError("sampler.guidance: a trace is of the model alone; use none")
        return self


@dataclass(frozen=True)
class Trace:
    """The way of one image from noise to data."""

    times: list[float]
    """Forward times, descending from 1."""
    states: Tensor
    """The blocks at these times, each in units of its stationary deviation: times×k×C×H×W."""


@entry_point("trace", TraceSettings)
def main(settings: TraceSettings) -> None:
    device = choose_device(settings.device)
    trace = trace_sample(load_model(settings.model, device), settings, device)
    figure = draw_trace(trace.times, trace.states, settings.times, settings.pixels, settings.title)
    save(figure, settings.output, "png", "svg")


def trace_sample(model: Model, settings: TraceSettings, device: torch.device) -> Trace:
    """Sample one image and keep its state after each step.

    Raises UserError for a model without momentum.
    """
    process, dataset = model.process, model.settings.dataset
    if process.blocks == 1:
        raise UserError(
            f"model: {settings.model} has no momentum ({model.settings.process.kind}); its phase "
            "space is the image alone. Choose a model of psld, cld or recipe"
        )
    check_fit(settings.sampler, model.settings, None)
    shard, index = divmod(settings.sample, settings.shard_size)
    stream = generator(device, settings.seed, Stream.SHARD, shard)
    shape = (process.blocks * dataset.channels, dataset.image_size, dataset.image_size)

    def noise(_: Tensor) -> Tensor:
        """The whole shard's noise, of which this is one image's part."""
        whole = torch.randn((settings.shard_size, *shape), generator=stream, device=device)
        return whole[index : index + 1]

    start = process.prior(noise(torch.empty(0)))
    score = NetworkScore(model.network, batch_size=1)
    way = [(t, z[0].cpu()) for t, z in path(process, settings.sampler, score, start, noise)]
    times, states = zip(*way, strict=True)
    blocks = torch.stack(states).unflatten(1, (process.blocks, dataset.channels))
    deviations = torch.diagonal(process.S).sqrt().to(blocks)
    return Trace(list(times), blocks / deviations[:, None, None, None])


if __name__ == "__main__":
    main()
