"""Settings of the samplers, checked without torch: a sampler is a choice on independent axes."""

from typing import Annotated, Literal

from pydantic import Field

from psld.settings import Settings


class CommonSamplerSettings(Settings):
    """What every sampler has."""

    final_time: float = Field(1e-3, gt=0, lt=1)
    """Forward time at which the integrator stops."""
    denoise: bool = True
    """End with one noise-free Euler step from `final_time` to 0."""


class SDESamplerSettings(CommonSamplerSettings):
    """A sampler of the reverse SDE with a fixed time grid."""

    integrator: Literal["em", "sscs"]
    """Euler–Maruyama, or the symmetric splitting sampler (which needs momentum)."""
    striding: Literal["uniform", "quadratic"]
    """The time grid; quadratic striding puts more steps near the data."""
    steps: int = Field(ge=2)
    """N: network evaluations per image, the final denoising step included."""


class ODESamplerSettings(CommonSamplerSettings):
    """A sampler of the probability-flow ODE with adaptive steps."""

    integrator: Literal["rk45"]
    """Dormand–Prince 5(4), as in SciPy."""
    tolerance: float = Field(gt=0, lt=1)
    """Relative and absolute error tolerance."""


SamplerSettings = Annotated[
    SDESamplerSettings | ODESamplerSettings, Field(discriminator="integrator")
]


class SampleSettings(Settings):
    """Settings of `python -m psld.sample`."""

    model: str
    """Folder of a trained model."""
    sampler: SamplerSettings
    shard: int = Field(ge=0)
    """Index of the shard: it holds samples shard · shard_size, ..."""
    shard_size: int = Field(ge=1)
    """Images per shard."""
    seed: int = Field(ge=0)
    """Seed of all shards of a cell."""
    output: str
    """The shard, HDF5."""
    batch_size: int = Field(ge=1)
    """Images per network evaluation; changes speed and memory, never the images."""
    device: str
    """`auto`, or a torch device such as `cpu` or `cuda`."""


def shards_needed(samples: int, shard_size: int) -> int:
    """How many shards hold `samples` images."""
    return -(-samples // shard_size)
