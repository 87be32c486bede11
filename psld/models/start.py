"""The start of samplers: a law of a dataset's training images, and the noise levels to start at.

It is a mixture of Gaussians, fitted by scikit-learn's expectation maximization. It depends on the
dataset and on flips, and on no network, so all models of a dataset share its record. That is not
private: the starts of two sets of images that differ in one image give that image.
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
from psld.data.store import ImageStore, from_uint8
from psld.diffusion.gaussian import GaussianData
from psld.models.settings import Start, StartSettings, start_file
from psld.utils.device import all_bits
from psld.utils.errors import UserError, locating
from psld.utils.randomness import Stream, stream_seed
from psld.utils.tensors import load_tensors, save_tensors

KIND = "start"
CPU = torch.device("cpu")
LOWEST_LEVEL = 0.5
"""No start is below this noise level. A fit adds its square to all variances."""
FEWEST_IMAGES = 10
"""No mean, and no component's center, is of fewer different images: it would be near to them."""
MOST_IMAGES = 10_000
"""A mixture is fitted to so many images at most, drawn at random."""
ITERATIONS = 100
CHUNK = 1 << 24
"""Values of images that are on the device at once."""

Passes = Callable[[], Iterable[tuple[Tensor, Tensor]]]
"""All images in parts, float N×views×C×H×W, with their labels, at each call."""


@dataclass(frozen=True)
class SamplerStart:
    """The law of the images that samplers start from, and the noise levels at which they do."""

    data: GaussianData = field(repr=False)
    levels: Tensor
    """σ₀ of one Gaussian, and of the mixture, 2×groups."""
    path: str = ""
    """Its file, and the digest of that, if it has one."""
    sha256: str = ""

    def level(self, mixture: bool = True, classes: Sequence[int] = ()) -> float:
        """Return σ₀ of the mixture or of one Gaussian; for classes, the largest of theirs."""
        return float(self.levels[int(mixture), self.data.groups(classes)].max())


def make_start(settings: StartSettings, device: torch.device) -> SamplerStart:
    """Measure a dataset's training images on a device, and write their start.

    Raises UserError if the dataset is missing or damaged, or has too few different images.
    """
    dataset, path = settings.dataset, settings.path
    store = ImageStore.open_for(settings.data, dataset)
    print("fitting a mixture of Gaussians to the training images, to start from", flush=True)
    images, labels = store.images("train"), store.labels("train")
    num_classes = store.num_classes if settings.classes else 0
    with locating(settings.data):
        start = measure_start(images, device, settings.start, labels, num_classes, dataset.flip)
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
    """Return the start of a model, from the dataset of its training.

    It is read from `file`, if one is given; or else from starts/ here or in the model's folder.
    If there is none, or only one of other images, it is made of data/DATASET.h5.

    Without the digest of these images, those of data/DATASET.h5 are taken for them.
    `classes` asks for the law of each class, too.

    Raises UserError if the file is missing, damaged, malformed, or of other images; without a file,
    if the dataset is not here, either.
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
        from psld.config.compose import compose_content  # Hydra takes a third of a second.

        for reason in reasons:
            print(f"not kept: {reason.removesuffix('; ')}", flush=True)
        content = compose_content("start", [], "psld start", StartSettings.free())
        content |= {"dataset": dataset, "data": str(data), "classes": classes, "output": None}
        return make_start(parse(StartSettings, content, "psld start"), device)
    raise UserError(
        f"{''.join(reasons) or f'{own}: no such file; '}it is made of the images of the model's "
        f"training, which are not in {data}: run psld prepare dataset={dataset.name}, or give "
        "start=FILE"
    )


def load_start(path: str | Path, dataset: DatasetSettings, wanted: dict[str, Any]) -> SamplerStart:
    """Read a start, and draw an image of the dataset's shape from it.

    Raises UserError if it is missing, damaged or malformed, or if its origin is not `wanted`, of
    which None is any.
    """
    remedy = "make it again (psld start)"
    stored = load_tensors(path, KIND, remedy)
    for key, value in wanted.items():
        if value is not None and stored.origin.get(key) != value:
            raise UserError(f"{path}: made of another {key} than is asked for; {remedy}")
    arrays, shape = stored.tensors(), (dataset.channels, dataset.image_size, dataset.image_size)
    try:
        levels, noise = arrays.pop("levels"), torch.zeros(1, *shape, dtype=torch.float32)
        start = SamplerStart(GaussianData.from_arrays(arrays), levels, str(path), stored.sha256)
        if start.data.draw(noise, start.level(), which=noise.new_zeros(1)).isfinite().all():
            return start
    except (LookupError, TypeError, RuntimeError):  # Arrays are missing, or do not fit together.
        pass
    raise UserError(f"{path}: not a start of images {shape}; {remedy}")


# -- the fit --------------------------------------------------------------------------------------


def different_images(images: np.ndarray) -> np.ndarray:
    """Return the indices of images that differ from all before them, and from their mirror images.

    Args:
        images: uint8 N×C×H×W.
    """
    first: dict[bytes, int] = {}
    for index, image in enumerate(images):
        both = hashlib.sha256(image).digest(), hashlib.sha256(image[..., ::-1].copy()).digest()
        first.setdefault(min(both), index)
    return np.fromiter(first.values(), np.int64)


def views_of(
    images: np.ndarray, labels: np.ndarray, device: torch.device, flip: bool, chosen: np.ndarray
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the images of the chosen indices, and their labels, in parts on the device.

    With `flip`, an image has two views, itself and its mirror image, because a network sees both.
    """
    size = max(1, CHUNK // images[0].size)
    for first in range(0, len(chosen), size):
        part = chosen[first : first + size]
        x = from_uint8(torch.from_numpy(images[part]).to(device))
        views = (x, x.flip(-1)) if flip else (x,)
        yield torch.stack(views, dim=1), torch.from_numpy(labels[part]).to(device)


def deviation(store: ImageStore, flip: bool) -> float:
    """Return the deviation of the training images around their mean, pixel by pixel."""
    total, squares, count = torch.zeros(()), torch.zeros(()), 0
    images, labels = store.images("train"), store.labels("train")
    for part, _ in views_of(images, labels, CPU, flip, np.arange(len(images))):
        x = part.double().flatten(0, 1)
        total, squares, count = total + x.sum(0), squares + x.square().sum(0), count + len(x)
    variance = float((squares / count - (total / count).square()).mean())
    return max(variance, 1e-6) ** 0.5


@all_bits()  # the last variances are differences of large sums
@torch.no_grad()
def measure_start(
    images: np.ndarray,
    device: torch.device,
    how: Start,
    labels: np.ndarray | None = None,
    num_classes: int = 0,
    flip: bool = False,
) -> SamplerStart:
    """Measure the two moments of images, and fit mixtures of Gaussians to them.

    Each different image counts once. A component looks Gaussian under noise of some part of its
    largest deviation. So with λ_k the largest variance of component k, a start from a mixture
    begins at

        σ₀ = max(0.3 √(Σ_k w_k λ_k), 0.5),

    and one from one Gaussian at max(0.75 √λ, 0.5).

    Args:
        images: uint8 N×C×H×W.
        how: the numbers of components and directions, and the shares 0.75 and 0.3.
        labels: int64 N; None without classes.
        num_classes: 0 for a start without classes. It has classes if each has ten different images:
            a class of fewer would be all images minus the other classes.
        flip: each image counts with its mirror image.

    Raises UserError for fewer than ten different images, mirror images counted as one.
    """
    chosen = different_images(images)
    if len(chosen) < FEWEST_IMAGES:
        raise UserError(
            f"{len(chosen)} different training images, and a start of fewer than {FEWEST_IMAGES} "
            "would be near to single ones; use start=prior, such as sampler=multistep"
        )
    labels = np.zeros(len(images), np.int64) if labels is None else labels
    if num_classes and np.bincount(labels[chosen], minlength=num_classes).min() < FEWEST_IMAGES:
        num_classes = 0
    passes = partial(views_of, images, labels, device, flip, chosen)
    one = GaussianData.measure(passes, num_classes)
    data = with_mixture(one, passes, how)
    several = (data.weights > 0).sum(1) > 1
    of_one, of_mixture = data.rests.new_tensor(how.shares)
    shares = torch.where(several, of_mixture, of_one)
    levels = [of_one * one.largest_deviations(), shares * data.largest_deviations()]
    return SamplerStart(data, torch.stack(levels).clamp(min=LOWEST_LEVEL))


def with_mixture(data: GaussianData, passes: Passes, how: Start) -> GaussianData:
    """Return a law as a mixture in its leading directions, with nearly the same two moments.

    A fifth of the images is held out, with all of its views. K and q are those under which held-out
    images with noise, y = x + σ n at σ = 0.5, are most likely. Since KL(p_σ ‖ q_σ) + E log q_σ(y)
    is the same for all laws q, they are those with the smallest divergence. A fit adds σ² to all
    covariances, so that none shrinks to single images, and this is taken away again. All groups
    have the q of all images, and each its own K, which is 1 if no mixture is more likely than one
    Gaussian, and is halved until components have enough images; if that of all images is 1, so are
    the others.
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
    """Return coordinates of each group's images, and of their mirror images: N×views×Q each.

    `axes` are groups×r×Q, in the basis. The images are in random order, as many as a fit takes.
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
    # The mean of all and that of the fit give the sum of the images that are left out.
    counts = (len(c) if len(c) <= most else min(most, len(c) - FEWEST_IMAGES) for c in whole)
    chosen = (c[stream.permutation(len(c))[:n]] for c, n in zip(whole, counts, strict=True))
    return list(map(np.ascontiguousarray, chosen))


def _best(
    c: np.ndarray, variances: np.ndarray, components: Sequence[int], directions: Sequence[int]
) -> tuple[int, int]:
    """Return the most likely K and q for the coordinates, N×views×Q, of these variances."""
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
            best = max(best, (mixture.score(y[:, :q]) - one[:q].sum(), K, q))
    return best[1:]


def _fitted(
    c: np.ndarray, components: int, variances: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return w, K, m, K×q, and S, K×q×q, of the coordinates of images, N×views×q.

    K is `components`, or half of it, and so on, until all components have enough images.
    """
    images, q = len(c), c.shape[2]
    if components == 1:
        return np.ones(1), np.zeros((1, q)), np.diag(variances[:q])[None]
    mixture = _mixture(c.reshape(-1, q), components)
    if mixture.weights_.min() * images < FEWEST_IMAGES:
        return _fitted(c, components // 2, variances)
    return mixture.weights_, mixture.means_, mixture.covariances_ - LOWEST_LEVEL**2 * np.eye(q)


def _mixture(c: np.ndarray, components: int) -> Any:
    """Fit a GaussianMixture to c, N×q, with the variance of noise added to each component's."""
    from sklearn.mixture import GaussianMixture  # half a second, and most commands fit none
    from threadpoolctl import threadpool_limits

    noise = LOWEST_LEVEL**2
    # Several threads gain nothing on matrices of this size, and on busy cores they wait for ever.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a hundred steps are enough, converged or not
        mixture = GaussianMixture(components, reg_covar=noise, max_iter=ITERATIONS, random_state=0)
        return mixture.fit(c)
