"""What every source of images hands to the preparation."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from psld.data.archive import DamagedFile, FileTree
from psld.data.picture import BrokenPicture, decode


@dataclass(frozen=True)
class Source:
    """N images in a fixed order, training images first, each decoded when it is asked for."""

    read: Callable[[int], Image.Image]
    """Image i, framed but not resized. Called from several threads. Raises BrokenPicture."""
    labels: np.ndarray
    """int64 (N,): indices of `class_names`; all 0 where the source has no classes."""
    splits: Mapping[str, int]
    """Number of images in `train` and `test`."""
    class_names: tuple[str, ...]
    """Empty where the source has no classes."""
    checksums: Mapping[str, str]
    """SHA-256 of each file or folder that the images come from."""

    def __len__(self) -> int:
        return len(self.labels)

    def without(self, left_out: set[int]) -> "Source":
        """The same source without some of its images."""
        kept = np.array([i for i in range(len(self)) if i not in left_out], dtype=np.int64)
        train = int(np.count_nonzero(kept < self.splits["train"]))
        return Source(
            read=lambda i: self.read(int(kept[i])),
            labels=self.labels[kept],
            splits={"train": train, "test": len(kept) - train},
            class_names=self.class_names,
            checksums=self.checksums,
        )


@dataclass(frozen=True)
class Picture:
    """A picture in a file of its own."""

    tree: FileTree
    name: str
    label: int = 0

    def read(self) -> Image.Image:
        """Decode the file. Raises BrokenPicture."""
        where = f"{self.tree.path}/{self.name}"
        try:
            data = self.tree.read(self.name)
        except DamagedFile as error:
            raise BrokenPicture(where, str(error)) from None
        return decode(data, where)


def source_of_arrays(
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    class_names: tuple[str, ...],
    checksums: Mapping[str, str],
) -> Source:
    """A source that is small enough to be held: (images, labels) of each split.

    Images are uint8, (n, H, W) for grey or (n, H, W, 3) for RGB.
    """
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
    """A source of picture files, of which only the names are held; `frame` cuts or pads each."""
    pictures = [*train, *test]
    return Source(
        read=lambda i: frame(pictures[i].read()),
        labels=np.array([picture.label for picture in pictures], dtype=np.int64),
        splits={"train": len(train), "test": len(test)},
        class_names=class_names,
        checksums=checksums,
    )
