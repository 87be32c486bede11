"""How well a noise-conditional guide recognises images at each noise level."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from psld.data.pixels import from_uint8
from psld.data.store import ImageStore
from psld.diffusion.process import LinearProcess
from psld.training.settings import GuideModelSettings
from psld.utils.randomness import Stream, generator

BINS = 10
"""Noise levels: ranges of the forward time of equal length, from 0 to 1."""
IMAGES = 1000
"""Images at most, spread evenly over the split."""
BATCH = 250


@torch.no_grad()
def accuracy_by_time(
    settings: GuideModelSettings, process: LinearProcess, store: ImageStore, network: nn.Module
) -> list[float]:
    """The share of images whose class is recognised at a time in [i/10, (i + 1)/10], for each i.

    The images are those of the test split, or of the training split where there is no other; their
    times and noise are always the same.
    """
    split = "test" if store.splits["test"] else "train"
    chosen = np.linspace(0, store.splits[split] - 1, min(IMAGES, store.splits[split])).astype(int)
    device = next(network.parameters()).device
    x0 = from_uint8(torch.from_numpy(store.images(split)[chosen])).to(device)
    labels = torch.from_numpy(store.labels(split)[chosen]).to(device)
    accuracies = []
    for index in range(BINS):
        stream = generator("cpu", settings.training.seed, Stream.PREVIEW, index)
        t = (index + torch.rand(len(x0), dtype=torch.float64, generator=stream)) / BINS
        t = t.clamp(min=settings.training.time_eps)
        answers = [network(*part).argmax(dim=1) for part in _noised(process, x0, t, stream)]
        accuracies.append((torch.cat(answers) == labels).double().mean().item())
    return accuracies


def _noised(
    process: LinearProcess, x0: Tensor, t: Tensor, stream: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of z_t and t on the device of x0."""
    for x, time in zip(x0.split(BATCH), t.split(BATCH), strict=True):
        shape = (len(x), process.blocks * x.shape[1], *x.shape[2:])
        eps, auxiliary = torch.randn((2, *shape), generator=stream).to(x)
        z = process.perturb(x, time, eps, auxiliary[:, x.shape[1] :])
        yield z, time.to(z)


def as_logged(accuracies: list[float]) -> dict[str, float]:
    """The mean over all noise levels, and each of them by its range of times."""
    by_range = {f"accuracy/t{i / BINS:g}-{(i + 1) / BINS:g}": a for i, a in enumerate(accuracies)}
    return {"accuracy": sum(accuracies) / BINS, **by_range}
