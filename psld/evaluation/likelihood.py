"""Measure the bits per dimension of a split with the probability flow."""

import math
import time
from statistics import fmean
from typing import Any, cast

import numpy as np
import torch
from pydantic import Field

from psld.config.settings import MadeRecord, write_record
from psld.data.store import ImageStore
from psld.data.units import BYTES
from psld.diffusion.denoiser import check_levels
from psld.diffusion.likelihood import Likelihood, bits_per_dimension, dequantize, log_likelihood
from psld.diffusion.time_grid import level_range
from psld.evaluation.results import Weights
from psld.evaluation.settings import LikelihoodCommandSettings, LikelihoodSettings
from psld.metrics.estimate import spread
from psld.models.manifest import ModelManifest, read_manifest
from psld.sampling.model import LoadedModel, load_model
from psld.utils.device import device_name, provenance, use_device
from psld.utils.errors import UserError
from psld.utils.randomness import Stream, stream_seed

TOGETHER = 250
"""Images per chunk. All images of a chunk share the integrator's steps and one noise stream."""


class LikelihoodResult(MadeRecord):
    """The likelihood of a model: the mean over images, with its 95 % t-interval."""

    bits_per_dimension: float | None = None
    """On average, an upper bound on the bits per dimension of the uint8 images. The value is not
    exact because of dequantization and, with momentum, the finite number of momentum draws."""
    nats_per_dimension: float | None = Field(None, exclude_if=lambda nats: nats is None)
    """For tensors: −ln p per dimension, with the density p in the units of the data. With momentum,
    it is an upper bound on average."""
    low: float
    high: float
    measured: int
    """Number of images."""
    likelihood: LikelihoodSettings
    evaluations: float
    """Measured number of network evaluations per image and draw."""
    gradients: float
    """Number of vector-Jacobian products per image and draw."""
    seconds: float
    device: str
    dataset_digest: str
    """Digest of the dataset whose images were measured."""
    model: Weights


def measure_likelihood(settings: LikelihoodCommandSettings) -> LikelihoodResult:
    """Measure the likelihood of a split under a model, write the result, and print progress.

    Raises UserError if the flow starts outside of the network's times or noise levels, if the split
    has too few images, or if the dataset is not the dataset of the training.
    """
    manifest = read_manifest(settings.model, ModelManifest)
    dataset = manifest.settings.dataset
    manifest.settings.check_time("start_time", settings.start_time)
    store = ImageStore.open_for(settings.data or f"data/{dataset.name}.h5", dataset)
    if manifest.dataset_digest not in (None, store.digest):
        raise UserError(
            f"{store.path}: the images or the split differ from the training, so the model may "
            "have seen test images; prepare the dataset as before, or train the model again"
        )
    images = store.images(settings.split)
    if len(images) < (settings.images or 2):
        found = f"the {settings.split} split of {store.path} has {len(images)} images"
        raise UserError(f"images: {found}; {settings.images or 'two or more'} are needed")
    # The images are shuffled, because a split may be sorted by class.
    chosen = np.random.default_rng(0).permutation(len(images))[: settings.images]
    device = use_device(settings.device)
    model = load_model(settings.model, device, settings.process, trust=settings.trust)
    check_levels(level_range(model.process, settings.start_time), *model.levels)
    started, bits, evaluations = time.monotonic(), [], 0
    unit = "bits" if store.units == BYTES else "nats"
    for first in range(0, len(chosen), TOGETHER):
        part = images[chosen[first : first + TOGETHER]]
        measured = measure_part(model, part, settings, first, device)
        found = per_dimension(measured.log_likelihood, store).tolist()
        bits += found
        evaluations += measured.evaluations * len(part)
        cost = f"{fmean(found):.4f} {unit}/dim, {measured.evaluations} evaluations"
        print(f"images {first} to {len(bits) - 1}: {cost}", flush=True)
    mean, low, high = spread(bits).interval
    result = LikelihoodResult(
        **{f"{unit}_per_dimension": mean},
        low=low,
        high=high,
        measured=len(bits),
        likelihood=cast(Any, settings.model_dump(include=set(LikelihoodSettings.model_fields))),
        evaluations=evaluations / len(bits),
        gradients=evaluations / len(bits) * settings.probes,
        seconds=time.monotonic() - started,
        device=device_name(device),
        dataset_digest=store.digest,
        model=Weights(**manifest.identity()),
        **provenance(),
    )
    write_record(settings.output, result)
    return result


def measure_part(
    model: LoadedModel,
    images: np.ndarray,
    settings: LikelihoodCommandSettings,
    first: int,
    device: torch.device,
) -> Likelihood:
    """Measure the likelihood of images as the network sees them, N×C×H×W.

    Bytes are dequantized; the likelihood of tensors is a density of standardized values.

    `first`: the index of the first image. The seed and `first` determine the random numbers.
    """
    key = stream_seed(settings.seed, Stream.LIKELIHOOD, first)
    random = np.random.Generator(np.random.Philox(key=key))
    x = torch.from_numpy(np.array(images))
    if images.dtype == np.uint8:
        x = dequantize(x, torch.from_numpy(random.random(images.shape, dtype=np.float32)))
    else:
        x = model.units.seen(x)
    return log_likelihood(
        model.process,
        model.eps(),
        x.to(device),
        lambda z: torch.from_numpy(random.standard_normal(z.shape, dtype=np.float32)).to(z),
        probes=settings.probes,
        draws=settings.draws,
        start_time=settings.start_time,
        tolerance=settings.tolerance,
        batch_size=settings.batch_size,
    )


def per_dimension(log_likelihood: torch.Tensor, store: ImageStore) -> torch.Tensor:
    """Return −log p per dimension of images as the network sees them: bits for bytes, else nats.

    The density of tensors in the units of the data is the density of the standardized values
    divided by the product of the standard deviations.
    """
    dimensions = math.prod(store.shape)
    if store.units == BYTES:
        return bits_per_dimension(log_likelihood, dimensions)
    return fmean(map(math.log, store.units.std)) - log_likelihood / dimensions
