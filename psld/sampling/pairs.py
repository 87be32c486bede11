"""The network and the training pairs of a student (`psld.sampling.distilled`)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from psld.config.parts import imported
from psld.config.reads import CellRead
from psld.data.units import BYTES
from psld.diffusion.gaussian import GaussianStart
from psld.diffusion.loss import Batch
from psld.diffusion.samplers import SamplerSettings
from psld.models.objectives import Facts
from psld.networks.forward import Denoiser
from psld.sampling.model import CPU, cell_sampler, load_model
from psld.sampling.named import sampler_of_words
from psld.sampling.settings import CellSettings, ShardRecord
from psld.sampling.shards import Shard, load_made_by, origin_of, shard_path
from psld.training.init import read_source
from psld.utils.errors import UserError, locating
from psld.utils.randomness import ShardNoise

Check = Callable[[SamplerSettings], None]


class Pairs:
    """The pairs (y, x) of a cell, which replace `psld.diffusion.loss.Noising`.

    The images x are read from the cell's shards. The noisy images y = x' + σ₀ n, with x' from the
    mixture of Gaussians, are drawn again with the cell's seed and the index of the shard. The
    uniform random numbers of a batch choose pairs instead of noise levels.
    """

    blocks, auxiliary = 0, 0  # The loss needs no additional noise.

    def __init__(self, read: CellRead, first: int, facts: Facts, check: Check) -> None:
        """Read the shards that are listed in the records `read.files` or, if there are none, in all
        records of the folder `read.name`.

        Args:
            first: the index of the first shard.
            check: a function that raises UserError for a sampler that cannot be distilled.

        Raises UserError if a shard is damaged, if the sampler was not deterministic, or if the
        shards were not sampled from the model that initializes the training, in its current version
        and with its dataset and initial distribution.
        """
        folder, records = read.name, read.files
        where = f"training.objective.cell: {folder}"
        if facts.init is None:
            raise UserError(
                f"{where}: a student starts from the weights of its teacher; set init.model"
            )
        paths = [*map(Path, records)] or sorted(Path(folder).glob("*-*.json"))
        listed = {s.index: s.digest for path in paths for s in ShardRecord.read(path).shards}
        digests = {index: listed[index] for index in sorted(listed) if index >= first}
        if not digests:
            raise UserError(f"training.objective.first: {folder} has no shard {first}")
        cell = cell_of(check, folder, min(digests), facts.init, where)
        model = load_model(cell.model, CPU, cell.process)
        ours, theirs = facts.dataset, model.settings.dataset
        if (ours.preparation(), ours.flip) != (theirs.preparation(), theirs.flip):
            raise UserError(
                f"{where}: its model was trained on dataset {theirs.name}, not {ours.name}"
            )
        sampler = cell_sampler(model, None, cell.sampler, batch_size=1)
        if model.settings.num_classes and not sampler.classes:
            raise UserError(
                f"{where}: the network is class-conditional; sample the cell with classifier-free "
                "guidance of scale 1"
            )
        origin = origin_of(cell, model, None, sampler.start_sha256)
        law, channels = cast(GaussianStart, sampler.gaussian), sampler.shape[0]
        self.units = model.units
        self.level, images, labels, starts = law.sigma, [], [], []
        for index, digest in digests.items():
            with locating("training.objective.cell"):
                shard = load_made_by(shard_path(folder, index), origin.at(index))
            if shard.digest() != digest:
                raise UserError(
                    f"{where}: shard {index} differs from its record; sample the cell again"
                )
            if shard.labels is not None:
                labels.append(torch.from_numpy(shard.labels))
            states = (len(shard.images), sampler.process.blocks * channels, *sampler.shape[1:])
            with ShardNoise(cell.seed, index, states, CPU) as noise:
                group = labels[-1] if labels else None
                starts.append(law.images(noise(), group, noise.uniform(), law.sigma))
            images.append(torch.from_numpy(shard.images))
        self.pairs = [torch.cat(each) for each in (starts, images, labels) if each]

    def levels(self, uniform: Tensor) -> Tensor:
        """Return indices of pairs, float64. They take the place of noise levels."""
        return (uniform * len(self.pairs[0])).floor()

    def chosen(self, numbers: Tensor, device: torch.device) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the images x, N×C×H×W, and the inputs of the network.

        The inputs are y, σ₀ and, if the network is class-conditional, the labels.
        """
        if self.pairs[0].device != device:
            self.pairs = [each.to(device) for each in self.pairs]
        numbers = numbers.to(device, torch.int64, non_blocking=True)
        y, x, *labels = (each[numbers] for each in self.pairs)
        # `psld.data.units.to_uint8` truncates, so add half a level to get the expected value.
        middle = self.units.seen(x) + (1 / 255 if self.units == BYTES else 0)
        return middle, (y, y.new_full((len(y),), self.level), *labels)

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        _, (y, sigma, *_) = self.chosen(batch.t, batch.x0.device)
        return y, sigma


def cell_of(check: Check, folder: str, first: int, model: str, where: str) -> CellSettings:
    """Return the settings of the cell in a folder, parsed from the `words` of shard `first`.

    Raises UserError if the cell cannot be distilled.
    """
    shard = Shard.load(shard_path(folder, first))
    chosen = sampler_of_words(shard.origin.words, where)
    sampler = imported(chosen.sampler, folder)
    with locating(where):
        check(sampler)
    return CellSettings(
        model=str(read_source(model)[0]),
        process=imported(chosen.process, folder),
        sampler=sampler,
        shard_size=shard.origin.size,
        seed=shard.origin.seed,
    )


class Student(Denoiser):
    """A denoiser that accepts a single noise level: the level at which it was trained."""

    level: Tensor
    """The noise level, a scalar buffer."""

    # Both levels equal `level`. Assigned values, the levels of the teacher, are ignored.
    sigma_min = property(lambda self: float(self.level), lambda self, _: None)
    sigma_max = sigma_min

    def __init__(self, *given: Any) -> None:
        """The arguments are the same as for `psld.networks.forward.Denoiser`."""
        super().__init__(*given)
        self.register_buffer("level", torch.zeros(()))

    def forward(self, y: Tensor, sigma: Any, label: Tensor | None = None) -> Tensor:
        if self.training:
            self.level.copy_(sigma.max())
        return super().forward(y, sigma, label)
