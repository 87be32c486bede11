"""Settings of sampling, records of shards, and checks that a sampler and a guide fit a model.

Imports no torch.
"""

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from psld.config.settings import FREE, Settings, read_record, write_record
from psld.diffusion.samplers import SamplerSettings
from psld.diffusion.settings import ProcessSettings
from psld.models.settings import GuideModelSettings, ModelSettings
from psld.utils.files import digest_of


class SamplingRun(Settings):
    """Settings that affect only the speed and memory of sampling, never the images."""

    batch_size: Annotated[int, FREE] = Field(ge=1)
    """Largest number of images per network evaluation; halved whenever the GPU runs out of memory.
    """
    compile: Annotated[bool, FREE]
    """Compile the network with torch.compile."""
    device: Annotated[str, FREE]
    """`auto`, or a torch device such as `cpu` or `cuda`."""


class CellSettings(Settings):
    """Everything that determines the images of a cell, for sampling and evaluation."""

    model: str
    """A trained model: its folder, GRID/MODEL for models/GRID/MODEL, or hf://USER/NAME@COMMIT."""
    process: ProcessSettings | None = None
    """The process with which a denoiser is sampled. Null: the process of its training."""
    sampler: SamplerSettings
    start: str | None = None
    """File of the initial distribution (psld start), for samplers that start from an initial
    distribution. Null: the file of the model's dataset in starts/; a missing file is created."""
    guide: str | None = None
    """Folder of the noise-conditional guide, for guidance by a guide."""
    data: str | None = None
    """The prepared dataset, HDF5, for inpainting."""
    mnist: str | None = None
    """The prepared MNIST dataset, HDF5, for masks in the shape of digits."""
    shard_size: int = Field(ge=1)
    """Images per shard."""
    seed: int = Field(ge=0)
    """Seed of the noise of all shards of a cell."""
    device: Annotated[str, FREE] = "auto"
    """`auto`, or a torch device such as `cpu` or `cuda`."""

    @model_validator(mode="after")
    def _check_files(self) -> "CellSettings":
        guidance = self.sampler.guidance
        if self.start and not self.sampler.starts_from_data:
            raise ValueError("start: the sampler starts from the prior; set it to null")
        for key in ("guide", "data", "mnist"):
            path, needed = getattr(self, key), key in guidance.files
            if needed and path is None:
                raise ValueError(f"{key}: sampler.guidance needs a path, but {key} is null")
            if path is not None and not needed:
                raise ValueError(f"{key}: sampler.guidance does not use {path}; set it to null")
        return self


class SampleSettings(SamplingRun, CellSettings):
    """Settings of `psld sample`."""

    trust: Annotated[bool, FREE] = False
    """If the code of a custom part is not among your own files, run the copy of the code in parts/,
    next to the weights. Read the copy first."""
    first: Annotated[int, FREE] = Field(ge=0)
    """Index of the first shard. Shard j starts with sample j · shard_size."""
    shards: Annotated[int, FREE] = Field(ge=1)
    """Number of shards to sample, from `first` on. For a grid's cell, at most the number of shards
    of the cell."""
    output: Annotated[str, FREE]
    """Output folder for the shards 00000.safetensors, … and the record of their range."""
    folder: str | None = None
    """The folder of a grid's cell. If `output` is this folder, shards of another origin are
    replaced; in any other folder, they are an error."""
    png: Annotated[str | None, FREE] = None
    """Output for pictures: a folder for one PNG per image, numbered by sample, or a file NAME.png
    for all images in one picture. A folder accepts the images of only one cell. Tensors are decoded
    (`dataset.decode`); without a decoder, their channels are shown in gray. Null: no pictures."""
    npz: Annotated[str | None, FREE] = Field(None, pattern=r"\.npz$")
    """Output file for the images in the format of other evaluators: `arr_0`, uint8 N×H×W×C;
    tensors are float32 N×C×H×W. Null: no file."""


def images_digest(
    model: str,
    guide: str | None,
    sampler: SamplerSettings,
    seed: int,
    shard_size: int,
    process: ProcessSettings | None,
) -> str:
    """Return the digest of everything that determines a cell's images.

    `process`: the process with which a denoiser is sampled; None for other models.
    """
    decides = [model, guide, sampler_content(sampler), seed, shard_size]
    return digest_of([*decides, *([process.model_dump(mode="json")] if process else [])])


def sampler_content(sampler: SamplerSettings) -> dict[str, Any]:
    """Return the sampler settings that determine the images, without null or neutral values."""
    content = sampler.identity()
    # In older versions, these settings gave different images, so the digests must differ from the
    # digests of older versions.
    if sampler.precision == "bf16":
        content["norms"] = "bf16"
    if sampler.starts_from_data:
        content["start_of"] = "dataset"
    return content


def gaussians(components: Collection[int]) -> str:
    """Describe numbers of Gaussians as text: `one Gaussian`, `4 to 32 Gaussians`."""
    ends = sorted({min(components), max(components)})
    return "one Gaussian" if ends == [1] else f"{' to '.join(map(str, ends))} Gaussians"


def shards_needed(samples: int, shard_size: int) -> int:
    return -(-samples // shard_size)


def check_fit(
    sampler: SamplerSettings,
    model: ModelSettings,
    guide: GuideModelSettings | None,
    class_names: Sequence[str] = (),
) -> list[int]:
    """Return the classes that the samples get in turn; empty without guidance to classes.

    Raises UserError if the sampler or the guide does not fit the model.
    """
    sampler.check_process(model.process)
    model.training.objective.check(sampler, model.process)
    model.check_time("sampler.final_time", sampler.final_time)
    classes = sampler.guidance.classes(model.dataset, class_names)
    sampler.guidance.check(sampler, model, guide)
    return classes


class SampledShard(Settings):
    index: int
    digest: str
    """Digest of the shard's arrays and origin."""
    images: int


class ShardRecord(Settings):
    """The record of a range of complete shards, written after the shards."""

    shards: tuple[SampledShard, ...]

    @classmethod
    def read(cls, path: str | Path) -> "ShardRecord":
        """Read a record. Raises UserError if it is damaged."""
        return read_record(cls, path, f"{path}: not a record of shards; sample again")

    def write(self, folder: str | Path) -> Path:
        """Write the record next to its shards and return its path."""
        path = record_path(folder, self.shards[0].index, self.shards[-1].index)
        write_record(path, self)
        return path


def record_path(folder: str | Path, first: int, last: int) -> Path:
    """Return the path of the record for the shards `first` to `last`, both included."""
    return Path(folder) / f"{first:05d}-{last:05d}.json"


def records_of(folder: str | Path, index: int) -> list[Path]:
    """Return the paths of all records whose range contains this shard."""
    found = []
    for file in Path(folder).glob("*.json"):
        name = re.fullmatch(r"(\d{5})-(\d{5})\.json", file.name)
        if name and int(name[1]) <= index <= int(name[2]):
            found.append(file)
    return found
