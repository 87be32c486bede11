"""Settings of sampling, records of shards, and checks of sampler, model and guide. No torch."""

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
    """How sampling runs: speed and memory, never the images."""

    batch_size: Annotated[int, FREE] = Field(ge=1)
    """Most images per network evaluation; it is halved if GPU memory runs out."""
    compile: Annotated[bool, FREE]
    """Compile the network with torch.compile."""
    device: Annotated[str, FREE]
    """`auto`, or a torch device such as `cpu` or `cuda`."""


class CellSettings(Settings):
    """Everything that decides the images of a cell: shared by sampling and evaluation."""

    model: str
    """A trained model: its folder, GRID/MODEL for models/GRID/MODEL, or hf://USER/NAME@COMMIT."""
    process: ProcessSettings | None = None
    """The process to sample a denoiser as, in place of the one in its training."""
    sampler: SamplerSettings
    start: str | None = None
    """The start, for a sampler that begins at one: its file (psld start). Null: that of the model's
    dataset in starts/, which is made if it is not there."""
    guide: str | None = None
    """Folder of the noise-conditional guide, for guidance by one."""
    data: str | None = None
    """The prepared dataset, HDF5, for inpainting."""
    mnist: str | None = None
    """The prepared MNIST, HDF5, for masks of its digits."""
    shard_size: int = Field(ge=1)
    """Images per shard."""
    seed: int = Field(ge=0)
    """Seed of all shards of a cell."""
    device: Annotated[str, FREE] = "auto"
    """`auto`, or a torch device such as `cpu` or `cuda`."""

    @model_validator(mode="after")
    def _guidance_has_its_files(self) -> "CellSettings":
        guidance = self.sampler.guidance
        if self.start and not self.sampler.starts_from_data:
            raise ValueError("start: the sampler starts from the prior; set it to null")
        for key in ("guide", "data", "mnist"):
            path, needed = getattr(self, key), key in guidance.files
            if needed and path is None:
                raise ValueError(f"{key}: sampler.guidance needs it; it is null")
            if path is not None and not needed:
                raise ValueError(f"{key}: sampler.guidance has no use for {path}; set it to null")
        return self


class SampleSettings(SamplingRun, CellSettings):
    """Settings of `psld sample`."""

    trust: Annotated[bool, FREE] = False
    """Run the copy of a custom part's code that is next to the weights, in parts/, if that code is
    not among your own files. Read it before."""
    first: Annotated[int, FREE] = Field(ge=0)
    """Index of the first shard. Shard j begins with sample j · shard_size."""
    shards: Annotated[int, FREE] = Field(ge=1)
    """Number of shards to make, from `first` on; of a grid's cell, as many as it has."""
    output: Annotated[str, FREE]
    """Folder that receives the shards 00000.safetensors, … and the record of their range."""
    folder: str | None = None
    """The folder of a grid's cell: in it, and in no other, samples of another origin are made
    again."""
    png: Annotated[str | None, FREE] = None
    """A folder that receives each image as a PNG, numbered by sample; it takes the images of one
    cell alone. Or a file NAME.png for all in one; null: none."""
    npz: Annotated[str | None, FREE] = Field(None, pattern=r"\.npz$")
    """A file for the images as others' evaluators read them: `arr_0`, uint8 N×H×W×C; null: none."""


def images_digest(
    model: str,
    guide: str | None,
    sampler: SamplerSettings,
    seed: int,
    shard_size: int,
    process: ProcessSettings | None,
) -> str:
    """Return the digest of what decides a cell's images; `process` is that of a denoiser."""
    decides = [model, guide, sampler_content(sampler), seed, shard_size]
    return digest_of([*decides, *([process.model_dump(mode="json")] if process else [])])


def sampler_content(sampler: SamplerSettings) -> dict[str, Any]:
    """Return the settings of a sampler that decide its images: neither null nor neutral."""
    content = sampler.identity()
    if sampler.precision == "bf16":
        content["norms"] = "bf16"  # once norms stayed in fp32, which made other images
    if sampler.starts_from_data:
        content["start_of"] = "dataset"  # once each model had one, of other images
    return content


def gaussians(components: Collection[int]) -> str:
    """Name laws of so many Gaussians each: `one Gaussian`, `4 to 32 Gaussians`."""
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
    """Return the classes that the samples get in turn; none without guidance to a class.

    Raises UserError if the sampler cannot sample the model, or the guide cannot guide it.
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
    """Of its arrays and of what made them."""
    images: int


class ShardRecord(Settings):
    """A range of whole shards. It is written last, after the shards."""

    shards: tuple[SampledShard, ...]

    @classmethod
    def read(cls, path: str | Path) -> "ShardRecord":
        """Read a record. Raises UserError if it is damaged."""
        return read_record(cls, path, f"{path}: not the record of shards; sample again")

    def write(self, folder: str | Path) -> Path:
        """Write the record next to its shards and return its path."""
        path = record_path(folder, self.shards[0].index, self.shards[-1].index)
        write_record(path, self)
        return path


def record_path(folder: str | Path, first: int, last: int) -> Path:
    """Return the path of the record of the shards `first` to `last`, both included."""
    return Path(folder) / f"{first:05d}-{last:05d}.json"


def records_of(folder: str | Path, index: int) -> list[Path]:
    """Return the records of all ranges that hold this shard."""
    found = []
    for file in Path(folder).glob("*.json"):
        name = re.fullmatch(r"(\d{5})-(\d{5})\.json", file.name)
        if name and int(name[1]) <= index <= int(name[2]):
            found.append(file)
    return found
