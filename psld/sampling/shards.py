"""Shards: fixed ranges of sample indices, each one HDF5 file that says what made it."""

import io
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import h5py
import numpy as np

from psld.utils.errors import UserError
from psld.utils.files import atomic_path
from psld.sampling.settings import shards_needed

FORMAT = "psld-shard-1"

ARRAYS = ("images", "labels", "masks")


@dataclass(frozen=True)
class ShardOrigin:
    """What decides a shard's images, on one kind of device."""

    weights_sha256: str
    sampler_digest: str
    seed: int
    index: int
    """Sample i of the cell is image i − index · size of this shard."""
    size: int
    """Images of a shard; the last one of an inpainted split may hold fewer."""
    guide_sha256: str | None = None
    """Weights of the guide that guided."""
    dataset_digest: str | None = None
    """The dataset whose images were inpainted."""
    masks_digest: str | None = None
    """The file that the masks came from."""


@dataclass(frozen=True)
class Shard:
    """One shard: its images, its origin and what making it took."""

    images: np.ndarray
    """uint8, size×C×H×W."""
    origin: ShardOrigin
    nfe: int
    """Network evaluations per image, counted."""
    seconds: float
    device: str
    labels: np.ndarray | None = None
    """int64, the class that each image was guided to."""
    masks: np.ndarray | None = None
    """uint8, size×H×W: 1 where a pixel of an inpainted image was known."""

    def first(self, count: int) -> "Shard":
        """The shard cut to its first `count` images."""
        parts = {name: getattr(self, name) for name in ARRAYS}
        return replace(self, **{n: part[:count] for n, part in parts.items() if part is not None})

    def save(self, path: str | Path) -> None:
        """Write the shard whole or not at all.

        HDF5 builds it in memory: on a full disk the library would crash the interpreter.
        """
        memory = io.BytesIO()
        with h5py.File(memory, "w") as file:
            file.create_dataset("images", data=self.images)
            if self.labels is not None:
                file.create_dataset("labels", data=self.labels)
            if self.masks is not None:
                file.create_dataset("masks", data=self.masks, compression="gzip")
            file.attrs["format"] = FORMAT
            file.attrs["origin"] = json.dumps(asdict(self.origin))
            file.attrs["nfe"] = self.nfe
            file.attrs["seconds"] = self.seconds
            file.attrs["device"] = self.device
        with atomic_path(path) as partial:
            partial.write_bytes(memory.getbuffer())

    @classmethod
    def load(cls, path: str | Path) -> "Shard":
        """Read a shard. Raises UserError when it is missing, damaged or not a shard."""
        if not Path(path).exists():
            raise UserError(f"{path}: no such shard; make it with psld sample")
        try:
            # A shard never changes once it has its name, and not every file system has locks.
            with h5py.File(path, locking=False) as file:
                if file.attrs.get("format") != FORMAT:
                    raise UserError(f"{path}: not a shard of this version ({FORMAT})")
                return cls(
                    images=file["images"][:],
                    origin=ShardOrigin(**json.loads(file.attrs["origin"])),
                    nfe=int(file.attrs["nfe"]),
                    seconds=float(file.attrs["seconds"]),
                    device=str(file.attrs["device"]),
                    labels=file["labels"][:] if "labels" in file else None,
                    masks=file["masks"][:] if "masks" in file else None,
                )
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}: damaged shard ({error}); delete it and sample anew") from None


def shard_path(folder: str | Path, index: int) -> Path:
    return Path(folder) / f"{index:05d}.h5"


def read_shards(
    folder: str | Path, samples: int, expected: ShardOrigin, model: str
) -> Iterator[Shard]:
    """The shards that hold the first `samples` images, the last one cut to fit.

    Args:
        expected: the origin of shard 0; UserError when a shard has another.
        model: the model's folder, for the message.
    """
    for index in range(shards_needed(samples, expected.size)):
        path = shard_path(folder, index)
        shard = Shard.load(path)
        wanted = {**asdict(expected), "index": index}
        differing = [k for k, v in asdict(shard.origin).items() if v != wanted[k]]
        if differing:
            raise UserError(
                f"{path}: made by another {' and '.join(differing)} than {model} and the sampler "
                "have now; delete the shard and sample anew"
            )
        left = samples - index * expected.size
        if len(shard.images) < min(left, expected.size):
            raise UserError(
                f"{path}: ends with sample {index * expected.size + len(shard.images) - 1}, but "
                f"{samples} are asked for; an inpainted split has one for each of its images"
            )
        yield shard.first(left)
