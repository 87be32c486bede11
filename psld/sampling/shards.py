"""Shards: fixed ranges of sample indices, one HDF5 file each, with the origin of its images."""

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from psld.sampling.records import remove_records
from psld.sampling.settings import shards_needed
from psld.utils.errors import UserError, reraise_fault
from psld.utils.files import atomic_path, retried_in_slurm

FORMAT = "psld-shard-3"

DIGEST_BYTES = 32
"""The last bytes of a file are the SHA-256 of all others. HDF5 ignores them."""


@dataclass(frozen=True)
class ShardOrigin:
    """Everything that decides a shard's images, on one kind of device."""

    weights_sha256: str
    sampler_digest: str
    seed: int
    index: int
    """Sample i of the cell is image i − index · size of this shard."""
    size: int
    """Images of a shard; the last one of an inpainted split may hold fewer."""
    guide_sha256: str | None = None
    """Weights of the guide."""
    dataset_digest: str | None = None
    """The dataset whose images were inpainted."""
    masks_digest: str | None = None
    """The file that the masks came from."""


@dataclass(frozen=True)
class Shard:
    """One shard: its images, their origin, and the cost of making them."""

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
    """uint8, size×H×W: 1 for a known pixel of an inpainted image."""

    def arrays(self) -> dict[str, np.ndarray]:
        arrays = {"images": self.images, "labels": self.labels, "masks": self.masks}
        return {name: array for name, array in arrays.items() if array is not None}

    def first(self, count: int) -> "Shard":
        """The shard cut to its first `count` images."""
        return replace(self, **{name: array[:count] for name, array in self.arrays().items()})

    def content_digest(self) -> str:
        """SHA-256 of the arrays, their shapes, and what made them: the same in each process."""
        whole = hashlib.sha256(json.dumps(asdict(self.origin), sort_keys=True).encode())
        for name, array in self.arrays().items():
            whole.update(f"\0{name} {array.dtype} {array.shape}\0".encode())
            whole.update(np.ascontiguousarray(array))
        return whole.hexdigest()

    def save(self, path: str | Path) -> None:
        """Write the shard whole or not at all.

        HDF5 builds it in memory: on a full disk the library would crash the interpreter.
        """
        import h5py

        memory = io.BytesIO()
        with h5py.File(memory, "w") as file:
            for name, array in self.arrays().items():
                compression = "gzip" if name == "masks" else None
                file.create_dataset(name, data=array, compression=compression)
            made = {"nfe": self.nfe, "seconds": self.seconds, "device": self.device}
            origin = json.dumps(asdict(self.origin))
            file.attrs.update(format=FORMAT, origin=origin, **made)
        digest = hashlib.sha256(memory.getbuffer()).digest()
        with atomic_path(path) as partial:
            partial.write_bytes(memory.getvalue() + digest)

    @classmethod
    def load(cls, path: str | Path) -> "Shard":
        """Read a shard. Raises UserError if it is missing, damaged or not a shard.

        HDF5 reads it only if its digest is right: the library may hang on a damaged file.
        """
        import h5py

        if not Path(path).exists():
            raise UserError(f"{path}: no such shard; make it with psld sample")
        content = Path(path).read_bytes()
        whole = memoryview(content)[:-DIGEST_BYTES]
        if hashlib.sha256(whole).digest() != content[-DIGEST_BYTES:]:
            raise UserError(
                f"{path}: damaged shard (its digest differs), or not of this version ({FORMAT}); "
                "sample it again"
            )
        try:
            with h5py.File(io.BytesIO(whole)) as file:
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
        except Exception as error:  # A file that something else wrote can raise nearly any.
            reraise_fault(error)
            raise UserError(f"{path}: damaged shard ({error}); sample it again") from None


def shard_path(folder: str | Path, index: int) -> Path:
    return Path(folder) / f"{index:05d}.h5"


@retried_in_slurm
def read_shard(path: str | Path) -> Shard:
    """Read a shard that has been sampled. Raises UserError if it is missing or damaged."""
    return Shard.load(path)


def load_made_by(path: Path, origin: ShardOrigin) -> Shard:
    """Read a shard. Raises UserError if it is missing, damaged or of another origin."""
    shard = Shard.load(path)
    wanted = asdict(origin)
    differing = [key for key, value in asdict(shard.origin).items() if value != wanted[key]]
    if differing:
        raise UserError(
            f"{path}: made by another {' and '.join(differing)} than the model and the sampler "
            "have now; sample it again"
        )
    return shard


def read_shards(folder: str | Path, samples: int, expected: ShardOrigin) -> Iterator[Shard]:
    """Yield the shards that hold the first `samples` images, the last one cut to fit.

    `expected` is the origin of shard 0. Raises UserError if a shard is missing, damaged or of
    another origin, and removes the records of its range, so the workflow samples it again.
    """
    for index in range(shards_needed(samples, expected.size)):
        path = shard_path(folder, index)
        try:
            shard = retried_in_slurm(load_made_by)(path, replace(expected, index=index))
        except UserError:
            remove_records(folder, index)
            raise
        left = samples - index * expected.size
        if len(shard.images) < min(left, expected.size):
            raise UserError(
                f"{path}: ends with sample {index * expected.size + len(shard.images) - 1}, but "
                f"{samples} are asked for; an inpainted split has one for each of its images"
            )
        yield shard.first(left)
