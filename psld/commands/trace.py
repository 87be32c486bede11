"""Draw the path of one image through phase space, from noise to data.

    psld trace model=models/demo/psld-0.02 sampler=em sampler.steps=40 output=path

Writes OUTPUT.png and OUTPUT.svg.
"""

from pydantic import Field

from psld.commands.entry import entry_point
from psld.config.settings import Settings
from psld.diffusion.samplers import SamplerSettings


class TraceSettings(Settings):
    """Settings of `psld trace`."""

    model: str
    """Folder of a model with momentum."""
    sampler: SamplerSettings
    """An unguided sampler with a fixed time grid."""
    sample: int = Field(ge=0)
    """Index of the sample in its cell."""
    shard_size: int = Field(ge=1)
    """Images per shard of the cell."""
    seed: int = Field(ge=0)
    """Seed of the cell."""
    output: str
    """Path without extension."""
    device: str
    """`auto`, or a torch device such as `cpu` or `cuda`."""


@entry_point("trace", TraceSettings)
def main(settings: TraceSettings) -> None:
    # matplotlib takes a second to import, so the settings are checked first.
    from psld.report.phase_space import draw_path
    from psld.report.style import save

    options = {key: getattr(settings, key) for key in ("device", "shard_size", "seed", "sample")}
    save(draw_path(settings.model, settings.sampler, settings.model, **options), settings.output)
