"""Shards: each file holds the images of a fixed range of sample indices, and their origin."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from psld.config.settings import Settings
from psld.data.store import ImageStore
from psld.sampling.named import as_words
from psld.sampling.settings import CellSettings, records_of, sampler_content, shards_needed
from psld.utils.errors import UserError
from psld.utils.files import digest_of, retried_in_slurm
from psld.utils.tensors import digest_of_arrays, load_tensors, save_tensors

if TYPE_CHECKING:
    from psld.models.manifest import GuideManifest, ModelManifest
    from psld.sampling.model import LoadedGuide, LoadedModel

KIND = "shard"
REMEDY = "sample it again (psld sample)"


class OtherOriginError(UserError):
    """A shard is undamaged, but was sampled with another model, sampler or seed."""


class ShardOrigin(Settings):
    """Everything that determines a shard's images on a given device type, except psld's code.

    A change of psld's code does not invalidate shards. To sample shards again after a code change,
    delete the shards.
    """

    weights_sha256: str
    sampler_digest: str
    process_digest: str | None = None
    """Digest of the process with which a denoiser was sampled."""
    start_sha256: str | None = None
    """Digest of the initial distribution; None for the prior."""
    seed: int
    index: int
    """Image j of this shard is sample index · size + j of the cell."""
    size: int
    """Images per shard; the last shard of an inpainted split may hold fewer."""
    guide_sha256: str | None = None
    """Digest of the guide's weights."""
    dataset_digest: str | None = None
    """Digest of the dataset whose images were inpainted, or of the tensors of the training."""
    masks_digest: str | None = None
    """Digest of the dataset from which the masks were drawn."""
    words: tuple[str, ...] = Field((), exclude=True)
    """The seed and the settings that the digests summarize, as KEY=VALUE. Error messages use them
    to say what differs."""

    def at(self, index: int) -> "ShardOrigin":
        """Return the origin of another shard of the same cell."""
        return self.model_copy(update={"index": index})


def origin_of(
    cell: CellSettings,
    model: "LoadedModel | ModelManifest",
    guide: "LoadedGuide | GuideManifest | None",
    start_sha256: str | None = None,
) -> ShardOrigin:
    """Return the origin of shard 0 of a cell. The origins of other shards differ only in `index`.

    `start_sha256`: the digest of the initial distribution; None for the prior.
    """
    sampler, denoised_as = sampler_content(cell.sampler), model.settings.sampled_as(cell.process)
    process = denoised_as and denoised_as.model_dump(mode="json")
    # A reader of `words` replaces a missing key by its default. So list null values whose default
    # is not null.
    own, fields = cell.sampler, type(cell.sampler).model_fields.items()
    nulls = {k: None for k, f in fields if getattr(own, k) is None and f.default is not None}
    tensors = model.dataset_digest if model.settings.dataset.dtype == "float32" else None
    words = as_words("sampler", sampler | nulls) + as_words("process", process or {})
    return ShardOrigin(
        weights_sha256=model.weights_sha256,
        sampler_digest=digest_of(sampler),
        process_digest=digest_of(process) if process else None,
        start_sha256=start_sha256,
        seed=cell.seed,
        index=0,
        size=cell.shard_size,
        guide_sha256=guide and guide.weights_sha256,
        dataset_digest=ImageStore.open(cell.data).digest if cell.data else tensors,
        masks_digest=cell.mnist and ImageStore.open(cell.mnist).digest,
        words=(*words, f"seed={cell.seed}"),
    )


@dataclass(frozen=True, config=ConfigDict(extra="forbid", arbitrary_types_allowed=True))
class Shard:
    """The images of a shard, their origin, and the cost of sampling."""

    images: np.ndarray
    """size×C×H×W in the units of the dataset: uint8, or float32 for tensors."""
    origin: ShardOrigin
    nfe: int
    """Measured number of network evaluations per image."""
    seconds: float
    device: str
    labels: np.ndarray | None = None
    """int64, the class of each image, for guidance to classes."""
    masks: np.ndarray | None = None
    """uint8, size×H×W: 1 at known pixels of inpainted images."""

    def arrays(self) -> dict[str, np.ndarray]:
        arrays = {"images": self.images, "labels": self.labels, "masks": self.masks}
        return {name: array for name, array in arrays.items() if array is not None}

    def first(self, count: int) -> "Shard":
        return replace(self, **{name: array[:count] for name, array in self.arrays().items()})

    def digest(self) -> str:
        """Return the SHA-256 of the arrays and the origin, without the cost of sampling."""
        return digest_of_arrays(KIND, self.arrays(), self.origin.model_dump())

    def save(self, path: str | Path) -> None:
        origin = self.origin.model_dump() | {"words": self.origin.words}
        made = {key: getattr(self, key) for key in ("nfe", "seconds", "device")}
        save_tensors(path, KIND, self.arrays(), {"origin": origin, **made})

    @classmethod
    def load(cls, path: str | Path) -> "Shard":
        """Read a shard. Raises UserError if it is missing, damaged or not a shard."""
        stored = load_tensors(path, KIND, REMEDY)
        try:
            return cls(**stored.arrays, **stored.origin)
        except (ValidationError, TypeError):
            raise UserError(f"{path}: not a shard of this version of psld; {REMEDY}") from None


def shard_path(folder: str | Path, index: int) -> Path:
    return Path(folder) / f"{index:05d}.safetensors"


read_shard = retried_in_slurm(Shard.load)
"""Like `Shard.load`, but a Slurm job waits until a file that another node wrote becomes visible."""


def load_made_by(path: Path, origin: ShardOrigin) -> Shard:
    """Read a shard.

    Raises UserError if it is missing or damaged, and OtherOriginError if its origin differs.
    """
    shard = Shard.load(path)
    made, expected = shard.origin, origin.model_dump()
    differing = [key for key, value in made.model_dump().items() if value != expected[key]]
    if differing:
        then, now = (dict(w.split("=", 1) for w in each.words) for each in (made, origin))
        words = [f"{k}={then[k]} then, {v} now" for k, v in now.items() if then.get(k, v) != v]
        # Name only the first three settings: if the sampler differs, most settings differ.
        changed = f"{'; '.join(words[:3])}: " if words else ""
        remedy = f"give shard_size={made.size}, or " if differing == ["size"] else ""
        raise OtherOriginError(
            f"{path}: {changed}sampled with a different {' and '.join(differing)} than the current "
            f"model and sampler have; {remedy}sample it again"
        )
    return shard


def read_shards(folder: str | Path, samples: int, expected: ShardOrigin) -> Iterator[Shard]:
    """Yield the shards with the first `samples` images. The last shard is cut to this number.

    `expected`: the origin of shard 0.

    Raises UserError if a shard is missing, damaged or of another origin. The records that list the
    shard are then removed, so that the workflow samples the shard again.
    """
    for index in range(shards_needed(samples, expected.size)):
        path = shard_path(folder, index)
        try:
            shard = retried_in_slurm(load_made_by)(path, expected.at(index))
        except UserError:
            for record in records_of(folder, index):
                record.unlink(missing_ok=True)
            raise
        left = samples - index * expected.size
        if len(shard.images) < min(left, expected.size):
            raise UserError(
                f"{path}: ends with sample {index * expected.size + len(shard.images) - 1}, but "
                f"{samples} samples are requested; request at most as many as the split has images"
            )
        yield shard.first(left)
