"""Training of the feature classifier, which takes a few seconds on a CPU for the digits."""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, pad
from tqdm import trange

from psld.data.pixels import from_uint8
from psld.metrics.extractor import batches_of
from psld.metrics.feature_classifier import ClassifierExtractor, FeatureClassifier, ImageShape
from psld.metrics.settings import ClassifierSettings
from psld.utils.errors import RunError
from psld.utils.randomness import Stream, generator, stream_seed


def train_classifier(
    settings: ClassifierSettings,
    shape: ImageShape,
    images: np.ndarray,
    labels: np.ndarray,
    device: torch.device | str = "cpu",
) -> ClassifierExtractor:
    """Train on uint8 `images` N×C×H×W and integer `labels` N; the seed determines the result.

    The training uses cross-entropy, AdamW, a one-cycle learning rate and random shifts. All images
    are moved to the device at once. Raises RunError if the training diverges.
    """
    all_images = torch.from_numpy(np.array(images)).to(device)
    all_labels = torch.from_numpy(np.array(labels, dtype=np.int64)).to(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(settings.seed, Stream.INITIAL_WEIGHTS))
        network = FeatureClassifier(settings, shape).to(device).train()
    optimizer = torch.optim.AdamW(network.parameters(), settings.learning_rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=settings.steps
    )
    random = generator("cpu", settings.seed, Stream.BATCH)
    tf32 = torch.backends.cudnn.allow_tf32  # `flags` would set True
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=tf32):
        for _ in trange(settings.steps, desc="classifier", unit="step", disable=None):
            index = torch.randint(len(all_images), (settings.batch_size,), generator=random)
            index = index.to(device, non_blocking=True)
            x = shifted(from_uint8(all_images[index]), settings.shift, random)
            loss = cross_entropy(network(x), all_labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    if not loss.isfinite():  # checked only once: a check at every step would make the device wait
        raise RunError("the feature classifier diverged: lower metric.extractor.learning_rate")
    return ClassifierExtractor(network, settings, shape, device)


def shifted(x: Tensor, most: int, random: torch.Generator) -> Tensor:
    """Shift each image by up to `most` pixels each way; new pixels repeat the border."""
    n, _, height, width = x.shape
    top, left = torch.randint(2 * most + 1, (2, n, 1), generator=random).to(x.device)
    padded = pad(x, (most, most, most, most), mode="replicate")
    rows = top + torch.arange(height, device=x.device)
    columns = left + torch.arange(width, device=x.device)
    image = torch.arange(n, device=x.device)[:, None, None]
    return padded[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def accuracy(
    extractor: ClassifierExtractor, images: np.ndarray, labels: np.ndarray, batch_size: int
) -> float:
    """Return the fraction of uint8 `images` that are classified as their label."""
    answers = [extractor(batch)[1].argmax(dim=1) for batch in batches_of(images, batch_size)]
    right = torch.cat(answers).cpu() == torch.from_numpy(np.array(labels, dtype=np.int64))
    return right.double().mean().item()
