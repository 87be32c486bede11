"""The initial distribution of samplers (`start`), fitted to the training images of a dataset.

The initial distribution is a mixture of Gaussians, fitted by scikit-learn's expectation
maximization. Its file also stores the noise levels at which samplers start. The distribution
depends on the dataset and on flips, but not on a network, so all models of a dataset share the
file. The file is not private: if two datasets differ in one image, this image can be reconstructed
from the files of both datasets.
"""

import hashlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from psld.config.settings import parse
from psld.data.settings import DatasetSettings
from psld.data.store import ImageStore
from psld.data.units import BYTES, Units
from psld.diffusion.gaussian import GaussianData
from psld.models.settings import Start, StartSettings, start_file
from psld.utils.device import all_bits
from psld.utils.errors import UserError, locating
from psld.utils.randomness import Stream, stream_seed
from psld.utils.tensors import load_tensors, save_tensors

KIND = "start"
CPU = torch.device("cpu")
LOWEST_LEVEL = 0.5
"""The lowest noise level at which samplers start. A fit adds its square to all variances."""
FEWEST_IMAGES = 10
"""The smallest number of distinct images from which a mean or the center of a component is
computed. With fewer images, the center would resemble individual images."""
LEAST_GAIN = 1e-3
"""The smallest gain in held-out log-likelihood, in nats per image, for which a mixture is preferred
to one with fewer components or directions. Smaller gains depend on the processor's rounding."""
MOST_IMAGES = 10_000
"""The largest number of images to which a mixture is fitted; larger datasets are subsampled."""
ITERATIONS = 100
CHUNK = 1 << 24
"""The largest number of pixel values that are on the device at the same time."""

Passes = Callable[[], Iterable[tuple[Tensor, Tensor]]]
"""A function that returns an iterator over all images, in chunks. A chunk is a pair: images, float
N×views×C×H×W, and their labels."""


@dataclass(frozen=True)
class SamplerStart:
    """An initial distribution, and the noise levels at which samplers start from it."""

    data: GaussianData = field(repr=False)
    levels: Tensor
    """The levels σ₀ of the single Gaussian (row 0) and of the mixture (row 1), 2×groups."""
    path: str = ""
    """The file of the initial distribution; empty if there is no file."""
    sha256: str = ""
    """The digest of the file."""

    def level(self, mixture: bool = True, classes: Sequence[int] = ()) -> float:
        """Return σ₀ of the mixture or of the single Gaussian.

        For several classes, return the largest σ₀ of these classes.
        """
        return float(self.levels[int(mixture), self.data.groups(classes)].max())


def make_start(settings: StartSettings, device: torch.device) -> SamplerStart:
    """Fit an initial distribution to a dataset's training images on a device, and write its file.

    Raises UserError if the dataset is missing or damaged, or has too few distinct images.
    """
    dataset, path = settings.dataset, settings.path
    store = ImageStore.open_for(settings.data, dataset)
    print("fitting the initial distribution, a mixture of Gaussians, to the images", flush=True)
    images, labels = store.images("train"), store.labels("train")
    num_classes = store.num_classes if settings.classes else 0
    with locating(settings.data):
        given = labels, num_classes, dataset.flip, store.units
        start = measure_start(images, device, settings.start, *given)
    origin = {"dataset": store.digest, "flip": dataset.flip, "classes": settings.classes}
    origin |= {"settings": settings.start.model_dump(mode="json")}
    save_tensors(path, KIND, start.data.arrays() | {"levels": start.levels}, origin)
    return load_start(path, dataset, origin)


def find_start(
    dataset: DatasetSettings,
    digest: str | None,
    classes: bool,
    file: str | Path | None = None,
    folder: Path = Path(),
    device: torch.device = CPU,
) -> SamplerStart:
    """Return the initial distribution for the dataset of a model.

    Without `file`, this function searches starts/ in the working directory, then starts/ in the
    model's folder. If it finds no file, it fits a new distribution to data/DATASET.h5.

    Args:
        digest: the digest of the training images; None: the digest of data/DATASET.h5.
        classes: also return a distribution for each class.
        file: the file to read; None: search for a file.
        folder: the folder of the model.

    Raises UserError if `file` is missing, damaged, malformed, or fitted to other images. Without
    `file`, raises UserError if no existing file fits and the dataset was not prepared.
    """
    own, data, reasons = start_file(dataset, classes), Path(f"data/{dataset.name}.h5"), []
    here = ImageStore.open(data).digest if data.exists() else None
    wanted = {"dataset": digest or here, "flip": dataset.flip, "classes": classes or None}
    if file:
        return load_start(file, dataset, wanted)
    for path in (Path(own), folder / own):
        if path.exists():
            try:
                return load_start(path, dataset, wanted)
            except UserError as error:
                reasons.append(f"{error}; ")
    if here and digest in (None, here):
        from psld.config.compose import compose_content  # Imported late: Hydra takes 0.3 seconds.

        for reason in reasons:
            print(f"not kept: {reason.removesuffix('; ')}", flush=True)
        content = compose_content("start", [], "psld start", StartSettings.free())
        content |= {"dataset": dataset, "data": str(data), "classes": classes, "output": None}
        return make_start(parse(StartSettings, content, "psld start"), device)
    raise UserError(
        f"{''.join(reasons) or f'{own}: no such file; '}the training images to fit it to are not "
        f"in {data}: run psld prepare dataset={dataset.name}, or give start=FILE"
    )


def load_start(path: str | Path, dataset: DatasetSettings, wanted: dict[str, Any]) -> SamplerStart:
    """Read an initial distribution from a file, and test that it draws images of the right shape.

    Raises UserError if the file is missing, damaged or malformed, or if its origin differs from
    `wanted`. A value of None in `wanted` matches any origin.
    """
    remedy = "fit it again (psld start)"
    stored = load_tensors(path, KIND, remedy)
    for key, value in wanted.items():
        if value is not None and stored.origin.get(key) != value:
            raise UserError(f"{path}: fitted with a different {key} than requested; {remedy}")
    arrays, shape = stored.tensors(), dataset.shape
    try:
        levels, noise = arrays.pop("levels"), torch.zeros(1, *shape, dtype=torch.float32)
        start = SamplerStart(GaussianData.from_arrays(arrays), levels, str(path), stored.sha256)
        if start.data.draw(noise, start.level(), which=noise.new_zeros(1)).isfinite().all():
            return start
    except (LookupError, TypeError, RuntimeError):  # Arrays are missing or have wrong shapes.
        pass
    raise UserError(f"{path}: not a start of images {shape}; {remedy}")


# -- the fit --------------------------------------------------------------------------------------


def different_images(images: np.ndarray) -> np.ndarray:
    """Return the index of the first copy of each distinct image. Mirror images count as copies.

    Args:
        images: N×C×H×W.
    """
    first: dict[bytes, int] = {}
    for index, image in enumerate(images):
        both = hashlib.sha256(image).digest(), hashlib.sha256(image[..., ::-1].copy()).digest()
        first.setdefault(min(both), index)
    return np.fromiter(first.values(), np.int64)


def views_of(
    images: np.ndarray,
    labels: np.ndarray,
    device: torch.device,
    flip: bool,
    units: Units,
    chosen: np.ndarray,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the images at the chosen indices, and their labels, in chunks on the device.

    With `flip`, each image has two views, the image and its mirror image, because networks are
    trained on both. Without `flip`, each image has one view.
    """
    size = max(1, CHUNK // images[0].size)
    for first in range(0, len(chosen), size):
        part = chosen[first : first + size]
        x = units.seen(torch.from_numpy(images[part]).to(device))
        views = (x, x.flip(-1)) if flip else (x,)
        yield torch.stack(views, dim=1), torch.from_numpy(labels[part]).to(device)


def deviation(store: ImageStore, flip: bool) -> float:
    """Return the root mean square of the pixels' standard deviations over the training images."""
    total, squares, count = torch.zeros(()), torch.zeros(()), 0
    images, labels = store.images("train"), store.labels("train")
    for part, _ in views_of(images, labels, CPU, flip, store.units, np.arange(len(images))):
        x = part.double().flatten(0, 1)
        total, squares, count = total + x.sum(0), squares + x.square().sum(0), count + len(x)
    variance = float((squares / count - (total / count).square()).mean())
    return max(variance, 1e-6) ** 0.5


@all_bits()  # Use full precision: the smallest variances are differences of large sums.
@torch.no_grad()
def measure_start(
    images: np.ndarray,
    device: torch.device,
    how: Start,
    labels: np.ndarray | None = None,
    num_classes: int = 0,
    flip: bool = False,
    units: Units = BYTES,
) -> SamplerStart:
    """Compute the mean and the covariance of images, and fit mixtures of Gaussians to the images.

    Each distinct image counts once. A component with added noise is approximately Gaussian if the
    noise level is at least a certain fraction of the component's largest standard deviation. Let
    w_k be the weight and λ_k the largest variance of component k. Samplers start from a mixture at
    the noise level

        σ₀ = max(0.3 √(Σ_k w_k λ_k), 0.5),

    and from a single Gaussian with the largest variance λ at max(0.75 √λ, 0.5).

    Args:
        images: N×C×H×W, in the units `units`.
        how: the candidates for the numbers of components and directions, and the fractions 0.75 and
            0.3 (`shares`).
        labels: int64 N; None without classes.
        num_classes: the number of classes; 0 for an initial distribution without classes. If a
            class has fewer than ten distinct images, 0 is used, because the images of this class
            could be reconstructed from the distributions of all images and of the other classes.
        flip: also use the mirror image of each image.

    Raises UserError if there are fewer than ten distinct images. Mirror images count as copies.
    """
    chosen = different_images(images)
    if len(chosen) < FEWEST_IMAGES:
        raise UserError(
            f"{len(chosen)} distinct training images, but an initial distribution needs at least "
            f"{FEWEST_IMAGES}; use start=prior, such as sampler=multistep"
        )
    labels = np.zeros(len(images), np.int64) if labels is None else labels
    if num_classes and np.bincount(labels[chosen], minlength=num_classes).min() < FEWEST_IMAGES:
        num_classes = 0
    passes = partial(views_of, images, labels, device, flip, units, chosen)
    one = GaussianData.measure(passes, num_classes)
    data = with_mixture(one, passes, how)
    several = (data.weights > 0).sum(1) > 1
    of_one, of_mixture = data.rests.new_tensor(how.shares)
    shares = torch.where(several, of_mixture, of_one)
    levels = [of_one * one.largest_deviations(), shares * data.largest_deviations()]
    return SamplerStart(data, torch.stack(levels).clamp(min=LOWEST_LEVEL))


def with_mixture(data: GaussianData, passes: Passes, how: Start) -> GaussianData:
    """Replace each Gaussian by a mixture in its leading directions, with nearly the same moments.

    The mixture has K components in q directions. A fifth of the images is held out, with all of
    their views. K and q maximize the likelihood of held-out images with noise, y = x + σ n at
    σ = 0.5. This choice also minimizes the divergence KL(p_σ ‖ p̂_σ) of the noisy mixture p̂_σ from
    the distribution p_σ of y, because KL(p_σ ‖ p̂_σ) + E log p̂_σ(y) is the same for all mixtures.
    The fit adds σ² to all variances, so that no component shrinks to a single image, and then
    subtracts σ² from the fitted variances.

    The images of all classes together determine q, which is the same for all groups. Each class has
    its own K. K is 1 if no mixture is more likely than one Gaussian. K is halved until each
    component has enough images. If K is 1 for the images of all classes together, K is 1 for each
    class.
    """
    values, vectors = (each.flip(-1) for each in torch.linalg.eigh(data.covariances.double()))
    axes = vectors[..., : max(how.directions)].float()
    variances = values[..., : axes.shape[-1]].clamp(min=0).numpy()
    coordinates = _coordinates(data, axes, passes)
    K, q = _best(coordinates[0], variances[0], how.components, how.directions)
    found = []
    for c, variance in zip(coordinates, variances, strict=True):
        K = _best(c, variance, how.components, [q])[0] if found else K
        found.append(_fitted(c[..., :q], K, variance))
        if len(found[0][0]) == 1:
            return data
    groups, K = len(found), max(len(weights) for weights, _, _ in found)
    weights, centers = axes.new_zeros(groups, K), axes.new_zeros(groups, K, q)
    spreads = axes.new_zeros(groups, K, q, q)
    for g, arrays in enumerate(found):
        for whole, array in zip((weights, centers, spreads), arrays, strict=True):
            whole[g, : len(array)] = torch.from_numpy(array)
    kept = axes[..., :q].contiguous()
    return replace(data, axes=kept, weights=weights, centers=centers, spreads=spreads)


def _coordinates(data: GaussianData, axes: Tensor, passes: Passes) -> list[np.ndarray]:
    """Return the coordinates of each group's images and mirror images, N×views×Q for each group.

    `axes`, groups×r×Q, are given in the basis of `data`. The images are shuffled and limited to
    MOST_IMAGES.
    """
    rows: list[list[Tensor]] = [[] for _ in axes]
    for x, labels in passes():
        if data.means.device != x.device:
            data, axes = data.to(x.device), axes.to(x.device)
        x = x.flatten(2)
        for g, (mean, axis) in enumerate(zip(data.means, axes, strict=True)):
            part = x if g == 0 else x[labels == g - 1]
            rows[g].append(((part - mean) @ data.basis @ axis).cpu())
    stream = np.random.default_rng(stream_seed(0, Stream.START))
    whole = [torch.cat(each).double().numpy() for each in rows]
    most = MOST_IMAGES // whole[0].shape[1]
    # If images are left out, leave out at least FEWEST_IMAGES, because the sum of the omitted
    # images can be computed from the mean of all images and the mean of the fitted images.
    counts = (len(c) if len(c) <= most else min(most, len(c) - FEWEST_IMAGES) for c in whole)
    chosen = (c[stream.permutation(len(c))[:n]] for c, n in zip(whole, counts, strict=True))
    return list(map(np.ascontiguousarray, chosen))


def _best(
    c: np.ndarray, variances: np.ndarray, components: Sequence[int], directions: Sequence[int]
) -> tuple[int, int]:
    """Return K and q of the mixture with the highest held-out likelihood of c, N×views×Q.

    Of mixtures with nearly the same likelihood, the smallest is chosen.

    `variances`: the variances of the coordinates c, Q.
    """
    held, Q = len(c) // 5, c.shape[2]
    if not held:
        return 1, directions[0]
    images, seen, y = len(c) - held, c[held:].reshape(-1, Q), c[:held].reshape(-1, Q)
    noise = np.random.default_rng(stream_seed(1, Stream.START)).standard_normal(y.shape)
    y = y + LOWEST_LEVEL * noise
    total = variances + LOWEST_LEVEL**2
    one = -0.5 * np.mean(y**2 / total + np.log(2 * np.pi * total), axis=0)
    best = 0.0, 1, directions[0]
    for q in directions:
        for K in components:
            if q > Q or images < K * FEWEST_IMAGES:
                break
            mixture = _mixture(seen[:, :q], K)
            if mixture.weights_.min() * images < FEWEST_IMAGES:
                break
            gain = mixture.score(y[:, :q]) - one[:q].sum()
            if gain > best[0] + LEAST_GAIN:
                best = gain, K, q
    return best[1:]


def _fitted(
    c: np.ndarray, components: int, variances: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fit a mixture to the coordinates c, N×views×q.

    Returns the weights (K), the means (K×q) and the covariances (K×q×q) of the components. K is
    `components`, halved until each component has enough images.
    """
    images, q = len(c), c.shape[2]
    if components == 1:
        return np.ones(1), np.zeros((1, q)), np.diag(variances[:q])[None]
    mixture = _mixture(c.reshape(-1, q), components)
    if mixture.weights_.min() * images < FEWEST_IMAGES:
        return _fitted(c, components // 2, variances)
    return mixture.weights_, mixture.means_, mixture.covariances_ - LOWEST_LEVEL**2 * np.eye(q)


def _mixture(c: np.ndarray, components: int) -> Any:
    """Fit a GaussianMixture to c, N×q, with the variance of the noise added to each component."""
    from sklearn.mixture import GaussianMixture  # Imported late: the import takes half a second.
    from threadpoolctl import threadpool_limits

    noise = LOWEST_LEVEL**2
    # Use one thread: more threads do not help with small matrices and are slow on busy cores.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 100 iterations are enough, even without convergence.
        mixture = GaussianMixture(components, reg_covar=noise, max_iter=ITERATIONS, random_state=0)
        return mixture.fit(c)
