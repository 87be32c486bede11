"""Parts that only the grids of the paper and its baselines use: samplers, masks, and sources of
images."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, cast

from pydantic import Field

from psld.config.settings import FREE
from psld.data.settings import Images, Root, Source
from psld.diffusion.guidance import Mask
from psld.diffusion.samplers import Power, TimeGridSampler
from psld.utils.errors import UserError


class GDDIMSettings(TimeGridSampler):
    """Generalized DDIM (Zhang, Tao and Chen, ICLR 2023): a baseline."""

    integrator: str = "gddim"
    """Polynomial extrapolation of ε in t, in the coordinates of the flow root. The drift is
    integrated exactly."""
    order: int = Field(2, ge=1, le=4)
    """The number of network evaluations that a step combines. The first steps combine fewer
    evaluations."""
    power: Power = 2.0
    """The exponent p of the stridings `power` (with p = 2 as in gDDIM) and `edm`. Other stridings
    ignore p."""

    def build(self, process, device, inpainting=None):
        from psld.paper.integrators import GDDIM

        return GDDIM(process, self.time_grid(process), device, self.order)


class ConjugateSettings(TimeGridSampler):
    """A conjugate integrator (Pandey, Rudolph and Mandt, 2310.07894): a baseline of order 1."""

    integrator: str = "conjugate"
    """Euler steps in coordinates A z with Ȧ = A (B − F)."""
    conjugation: Literal["identity", "ones"] = "identity"
    """The matrix B: strength·I (λ-DDIM-I) or strength·(all ones) (λ-DDIM-II)."""
    strength: float = Field(0.0, ge=-100, le=100)
    """λ. The paper searches for the best λ at each NFE. λ = 0 is the exponential integrator."""

    def build(self, process, device, inpainting=None):
        from psld.paper.integrators import ConjugateIntegrator

        grid = self.time_grid(process)
        return ConjugateIntegrator(process, grid, device, self.conjugation, self.strength)


class DigitsMask(Mask):
    """Holes in the shape of digits, as in the paper: digit i of MNIST's training set for image i.

    All nonzero pixels of a digit belong to the hole, as in the official code. Digits are resized by
    nearest-neighbor interpolation, as in Pillow.
    """

    datasets = ("mnist",)

    kind: str = "digits"

    def draw(self, indices, image_size, mnist):
        import numpy as np

        from psld.data.store import ImageStore

        digits = ImageStore.open(cast(str, mnist)).images("train")
        sizes = (image_size, image_size) if isinstance(image_size, int) else image_size
        side = digits.shape[-1]
        rows, columns = (((np.arange(n) + 0.5) * side / n).astype(int) for n in sizes)
        chosen = digits[np.array(indices) % len(digits), 0]
        return chosen[:, rows[:, None], columns] == 0


AFHQV2_CLASSES = ("dog", "cat", "wild")
"""The classes in the order of the official PSLD code, so that labels match the official
classifiers."""


class CelebA(Source):
    """CelebA, aligned: 202,599 faces (178×218) as JPEG, all for training, squeezed to a square."""

    kind: str = "celeba"
    squeezes = True
    root: Annotated[Root, FREE] = "downloads/celeba"
    """The folder that contains img_align_celeba.zip or the unpacked folder img_align_celeba."""

    def open(self):
        from psld.data.images import FileTree

        archive, folder = "img_align_celeba.zip", "img_align_celeba"
        page = "the CelebA project page (mmlab.ie.cuhk.edu.hk/projects/CelebA.html, Align&Cropped"
        tree = FileTree(
            find_published(self.root, archive, folder, f"put {archive} of {page} Images)")
        )
        return Images([(partial(tree.picture, name), 0) for name in tree.picture_names()])


class AFHQv2(Source):
    """AFHQv2: animal faces (512×512) as PNG, in train/ and test/, in three classes."""

    kind: str = "afhqv2"
    root: Annotated[Root, FREE] = "downloads/afhqv2"
    """The folder that contains afhq_v2.zip or the unpacked folders train and test."""

    def open(self):
        from psld.data.images import FileTree

        advice = (
            "get the archive with `bash download.sh afhq-v2-dataset` of github.com/clovaai/"
            "stargan-v2 and put it, or the unpacked folders train and test,"
        )
        path = find_published(self.root, "afhq_v2.zip", "train", advice)
        tree = FileTree(path.parent if path.is_dir() else path)
        # The folders train and test may be inside a top-level folder of the archive.
        folders = {name: PurePosixPath(name).parts[-3:-1] for name in tree.picture_names()}

        def pictures(split: str) -> Iterator[tuple[partial, int]]:
            for label, kind in enumerate(AFHQV2_CLASSES):
                inside = [name for name, folder in folders.items() if folder == (split, kind)]
                if not inside:
                    wrong = f"no pictures in {split}/{kind}; unpack or download the archive again"
                    raise UserError(f"{tree.path}: {wrong}")
                yield from ((partial(tree.picture, name), label) for name in inside)

        return Images(list(pictures("train")), list(pictures("test")), AFHQV2_CLASSES)


def find_published(root: str, archive: str, folder: str, advice: str) -> Path:
    """Return the archive of a published dataset, or the folder that is unpacked from the archive.

    If both exist, the archive is returned, because the folder may be only partly unpacked. Raises
    UserError, with `advice`, if neither exists.
    """
    for path in (Path(root, archive), Path(root, folder)):
        if path.exists():
            return path
    raise UserError(
        f"{root}: neither {archive} nor a folder {folder} in it; {advice} into {root}, "
        "or set dataset.source.root"
    )
