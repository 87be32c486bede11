"""The bits per dimension of a split by the probability flow, made in shards by one process."""

import statistics
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from psld.config.settings import MadeRecord, Settings, load_record, write_record
from psld.data.store import ImageStore
from psld.diffusion.likelihood import bits_per_dimension, dequantize, log_likelihood
from psld.diffusion.score import Batching
from psld.metrics.estimate import Interval, t_quantile
from psld.metrics.results import Weights
from psld.metrics.settings import LikelihoodCommandSettings, LikelihoodSettings
from psld.training.manifest import ModelManifest, read_manifest
from psld.training.model import Model, load_model
from psld.utils.device import use_device
from psld.utils.errors import UserError
from psld.utils.provenance import device_name, provenance
from psld.utils.randomness import Stream, stream_seed


class LikelihoodOrigin(Settings):
    """Everything that decides the numbers of a shard, on one kind of device."""

    weights_sha256: str
    dataset_digest: str
    split: str
    first: int
    """Index of its first image in the split."""
    images: int
    probes: int
    draws: int
    start_time: float
    tolerance: float
    seed: int


class LikelihoodShard(Settings):
    """The bits per dimension of a range of images, and the cost of measuring them."""

    origin: LikelihoodOrigin
    bits: tuple[float, ...]
    """Bits per dimension of each image."""
    evaluations: int
    """Network evaluations per image and draw, counted."""
    gradients: int
    """Vector-Jacobian products per image and draw."""
    seconds: float
    device: str

    @classmethod
    def load(cls, path: Path) -> "LikelihoodShard":
        """Read a shard. Raises UserError if it is missing or damaged."""
        return load_record(cls, path, f"{path}: not a whole shard; measure it again")


class LikelihoodResult(MadeRecord):
    """The bits per dimension of a model: the mean over images, with its 95 % t-interval."""

    bits_per_dimension: float
    """Without momentum an estimate of the likelihood, with momentum an upper bound on it."""
    low: float
    high: float
    measured: int
    """Number of images."""
    likelihood: LikelihoodSettings
    evaluations: float
    """Network evaluations per image and draw, counted."""
    gradients: float
    """Vector-Jacobian products per image and draw."""
    seconds: float
    device: str
    dataset_digest: str
    """The dataset whose images were measured."""
    model: Weights

    @property
    def interval(self) -> Interval:
        return Interval(self.bits_per_dimension, self.low, self.high)


def measure_likelihood(settings: LikelihoodCommandSettings) -> LikelihoodResult:
    """Measure a split under a model and write the result. Print a line for each shard.

    Raises as `measure_shards` does.
    """
    shards = []
    for shard, made in measure_shards(settings):
        shards.append(shard)
        first, last = shard.origin.first, shard.origin.first + len(shard.bits) - 1
        cost = f"{shard.evaluations} evaluations" if made else "kept"
        bits = f"{statistics.fmean(shard.bits):.4f} bits/dim"
        print(f"images {first} to {last}: {bits}, {cost}", flush=True)
    bits = [value for shard in shards for value in shard.bits]
    mean = statistics.fmean(bits)
    margin = t_quantile(len(bits) - 1) * statistics.stdev(bits) / len(bits) ** 0.5
    weight = [len(shard.bits) for shard in shards]
    result = LikelihoodResult(
        bits_per_dimension=mean,
        low=mean - margin,
        high=mean + margin,
        measured=len(bits),
        likelihood=settings.model_dump(include=set(LikelihoodSettings.model_fields)),
        evaluations=statistics.fmean((shard.evaluations for shard in shards), weight),
        gradients=statistics.fmean((shard.gradients for shard in shards), weight),
        seconds=sum(shard.seconds for shard in shards),
        device=shards[0].device,
        dataset_digest=shards[0].origin.dataset_digest,
        model=Weights(**read_manifest(settings.model, ModelManifest).identity()),
        **provenance(),
    )
    write_record(settings.output, result)
    return result


def measure_shards(
    settings: LikelihoodCommandSettings,
) -> Iterator[tuple[LikelihoodShard, bool]]:
    """Yield the shards of a split in order, and True for one that was measured now, not found.

    Each shard is written when it is done, so a killed process loses at most one.

    Raises UserError if the flow starts before the network's first time, or images are missing.
    """
    manifest = read_manifest(settings.model, ModelManifest)
    dataset, first_time = manifest.settings.dataset, manifest.settings.training.time_eps
    if settings.start_time < first_time:
        raise UserError(
            f"start_time: {settings.start_time:g} is before the first time that the network was "
            f"trained for (training.time_eps); use {first_time:g} or more"
        )
    store = ImageStore.open_for(settings.data or f"data/{dataset.name}.h5", dataset)
    images = store.images(settings.split)
    if len(images) < (settings.images or 2):
        raise UserError(
            f"images: the {settings.split} split of {store.path} has {len(images)}, not "
            f"{settings.images or 'two or more'}"
        )
    images = images[: settings.images]
    device = use_device(settings.device)
    model = load_model(settings.model, device)
    batching = Batching(settings.batch_size)
    options = settings.model_dump(include=set(LikelihoodOrigin.model_fields) - {"images"})
    for first in range(0, len(images), settings.shard_size):
        part = images[first : first + settings.shard_size]
        origin = LikelihoodOrigin(
            weights_sha256=manifest.weights_sha256,
            dataset_digest=store.digest,
            first=first,
            images=len(part),
            **options,
        )
        index = first // settings.shard_size
        path = Path(settings.output).with_suffix("") / f"{index:05d}.json"
        with suppress(UserError):
            shard = LikelihoodShard.load(path)
            if shard.origin == origin:
                yield shard, False
                continue
        shard = measure_shard(model, part, origin, device, batching)
        write_record(path, shard)
        yield shard, True


def measure_shard(
    model: Model,
    images: np.ndarray,
    origin: LikelihoodOrigin,
    device: torch.device,
    batching: Batching,
) -> LikelihoodShard:
    """Measure the images of one shard, uint8 N×C×H×W.

    All random numbers are drawn on the CPU, for the whole shard, from its seed and first image.
    """
    started = time.monotonic()
    key = stream_seed(origin.seed, Stream.LIKELIHOOD, origin.first)
    random = np.random.Generator(np.random.Philox(key=key))
    uniform = torch.from_numpy(random.random(images.shape, dtype=np.float32))
    measured = log_likelihood(
        model.process,
        model.network,
        dequantize(torch.from_numpy(images.copy()), uniform).to(device),
        lambda z: torch.from_numpy(random.standard_normal(z.shape, dtype=np.float32)).to(z),
        probes=origin.probes,
        draws=origin.draws,
        start_time=origin.start_time,
        tolerance=origin.tolerance,
        batch_size=batching,
    )
    bits = bits_per_dimension(measured.log_likelihood, images[0].size)
    return LikelihoodShard(
        origin=origin,
        bits=tuple(bits.tolist()),
        evaluations=measured.evaluations,
        gradients=measured.gradients,
        seconds=time.monotonic() - started,
        device=device_name(device),
    )
