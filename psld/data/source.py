"""Images and labels in a fixed order, as every source gives them to the preparation."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from psld.data.archive import FileTree
from psld.data.picture import decode

Arrays = tuple[np.ndarray, np.ndarray]
"""Images, uint8 (n, H, W) for gray or (n, H, W, 3) for RGB, and labels (n,)."""


@dataclass(frozen=True)
class Source:
    """N images in a fixed order, training images first, each decoded on demand."""

    read: Callable[[int], Image.Image]
    """Image i, framed but not resized. Called from several threads. Raises BrokenPicture."""
    labels: np.ndarray
    """int64 (N,): indices of `class_names`; all 0 if the source has no classes."""
    splits: Mapping[str, int]
    """Number of images in `train` and `test`."""
    class_names: tuple[str, ...]
    """Empty if the source has no classes."""
    checksums: Mapping[str, str]
    """SHA-256 of each file or folder that the images come from."""

    def __len__(self) -> int:
        return len(self.labels)

    def without(self, left_out: set[int]) -> "Source":
        kept = np.array([i for i in range(len(self)) if i not in left_out], dtype=np.int64)
        train = int(np.count_nonzero(kept < self.splits["train"]))
        return replace(
            self,
            read=lambda i: self.read(int(kept[i])),
            labels=self.labels[kept],
            splits={"train": train, "test": len(kept) - train},
        )


@dataclass(frozen=True)
class Picture:
    """A picture in its own file."""

    tree: FileTree
    name: str
    label: int = 0

    def read(self) -> Image.Image:
        """Raises BrokenPicture."""
        return decode(self.tree.read(self.name), f"{self.tree.path}/{self.name}")


def source_of_arrays(
    train: Arrays, test: Arrays, class_names: tuple[str, ...], checksums: Mapping[str, str]
) -> Source:
    """A source in memory."""
    count = len(train[0])
    return Source(
        read=lambda i: Image.fromarray(train[0][i] if i < count else test[0][i - count]),
        labels=np.concatenate([train[1], test[1]]).astype(np.int64),
        splits={"train": count, "test": len(test[0])},
        class_names=class_names,
        checksums=checksums,
    )


def source_of_pictures(
    train: Sequence[Picture],
    test: Sequence[Picture],
    frame: Callable[[Image.Image], Image.Image],
    class_names: tuple[str, ...],
    checksums: Mapping[str, str],
) -> Source:
    """A source of picture files, of which only the names are held; `frame` crops or pads each."""
    pictures = [*train, *test]
    return Source(
        read=lambda i: frame(pictures[i].read()),
        labels=np.array([picture.label for picture in pictures], dtype=np.int64),
        splits={"train": len(train), "test": len(test)},
        class_names=class_names,
        checksums=checksums,
    )
