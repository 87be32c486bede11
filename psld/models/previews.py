"""Preview a training: sample from a model, or measure a guide's accuracy at each noise level.

All previews of a training use the same noise.
"""

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from psld.data.pictures import pictures_of
from psld.data.settings import DatasetSettings
from psld.data.store import ImageStore
from psld.diffusion.loop import sample
from psld.diffusion.process import LinearProcess
from psld.diffusion.samplers import EMSettings
from psld.diffusion.score import Network, NetworkScore
from psld.utils.batching import Batching
from psld.utils.randomness import Stream, generator

SAMPLES = 64
SAMPLER = EMSettings(integrator="em", striding="quadratic", steps=50)

BINS = 10
"""The number of ranges of equal length that divide the forward times from 0 to 1."""
TEST_IMAGES = 1000
"""The largest number of images on which accuracy is measured, evenly spaced in the split."""
BATCH = 250


def write_samples(
    process: LinearProcess,
    eps: Network,
    dataset: DatasetSettings,
    seed: int,
    device: torch.device,
    picture: Path,
    store: ImageStore,
) -> None:
    """Sample from ε(z, t), and write a picture. A class-conditional network gets no label."""
    from psld.data.images import save_images  # Imported late: the module needs Pillow.

    stream = generator(device, seed, Stream.PREVIEW)
    channels, *size = dataset.shape
    shape = (process.blocks * channels, *size)

    def noise(z: Tensor) -> Tensor:
        return torch.randn(z.shape, generator=stream, device=device)

    start = process.prior(noise(torch.empty(SAMPLES, *shape)))
    score = NetworkScore(eps, batch_size=SAMPLES)
    z = sample(process, SAMPLER, score, start, noise, silent=True)
    images = store.units.stored(z[:, :channels]).cpu().numpy()
    as_pictures = pictures_of(dataset, store.units, device, store.path.parent)
    save_images(as_pictures(images), picture)


def split_of_accuracy(store: ImageStore) -> Literal["test", "train"]:
    return "test" if store.splits["test"] else "train"


@torch.no_grad()
def accuracy_by_time(
    process: LinearProcess,
    logits: Network,
    store: ImageStore,
    time_eps: float,
    seed: int,
    device: torch.device,
) -> list[float]:
    """Return the accuracy at random times in [i/10, (i + 1)/10] for i = 0, …, 9.

    The images come from the test split, or from the training split if there is no test split.
    """
    split = split_of_accuracy(store)
    count = store.splits[split]
    chosen = np.linspace(0, count - 1, min(TEST_IMAGES, count)).astype(int)
    x0 = store.units.seen(torch.from_numpy(store.images(split)[chosen])).to(device)
    labels = torch.from_numpy(store.labels(split)[chosen]).to(device)
    accuracies, batched = [], Batching(BATCH)
    for index in range(BINS):
        stream = generator("cpu", seed, Stream.PREVIEW, index)
        t = (index + torch.rand(len(x0), dtype=torch.float64, generator=stream)) / BINS
        t = t.clamp(min=time_eps)
        answers = []
        for x, time in zip(x0.split(BATCH), t.split(BATCH), strict=True):
            shape = (len(x), process.blocks * x.shape[1], *x.shape[2:])
            eps, auxiliary = torch.randn((2, *shape), generator=stream).to(x)
            z = process.perturb(x, time, eps, auxiliary[:, x.shape[1] :])
            answers.append(batched(logits, z, time.to(z)).argmax(dim=1))
        accuracies.append((torch.cat(answers) == labels).double().mean().item())
    return accuracies


def as_logged(accuracies: list[float]) -> dict[str, float]:
    """Return numbers to log: the mean accuracy, and the accuracy for each range of times."""
    by_range = {f"accuracy/t{i / BINS:g}-{(i + 1) / BINS:g}": a for i, a in enumerate(accuracies)}
    return {"accuracy": sum(accuracies) / BINS, **by_range}
