"""Any folder or zip archive of pictures; its first level of subfolders, if any, are classes."""

import hashlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from psld.data.archive import FileTree, open_tree, picture_names
from psld.data.picture import central_square
from psld.data.settings import FolderSource
from psld.data.source import Picture, Source, source_of_pictures
from psld.utils.errors import UserError


def open_folder(settings: FolderSource) -> Source:
    """The central squares of all pictures, in the order of class and name."""
    tree = open_tree(Path(settings.root))
    class_names = _class_names(tree)
    pictures = _pictures(tree, class_names)
    checksums = {str(tree.path): tree.checksum()}
    if settings.test_root is not None:
        test_tree = open_tree(Path(settings.test_root))
        train, test = pictures, _pictures(test_tree, class_names)
        checksums[str(test_tree.path)] = test_tree.checksum()
    else:
        train, test = _hold_out(pictures, settings.test_fraction)
    return source_of_pictures(train, test, central_square, class_names, checksums)


def _class_names(tree: FileTree) -> tuple[str, ...]:
    """The subfolders, if every picture lies in one."""
    parts = [PurePosixPath(name).parts for name in picture_names(tree)]
    if any(len(part) == 1 for part in parts):
        return ()
    return tuple(sorted({part[0] for part in parts}))


def _pictures(tree: FileTree, class_names: tuple[str, ...]) -> list[Picture]:
    names = picture_names(tree)
    if not class_names:
        return [Picture(tree, name) for name in names]
    label = {name: index for index, name in enumerate(class_names)}
    pictures = []
    for name in names:
        folder = PurePosixPath(name).parts[0]
        if folder not in label:
            raise UserError(
                f"{tree.path}/{name}: not in the folder of a class; the classes of the training "
                f"pictures are {', '.join(class_names)}"
            )
        pictures.append(Picture(tree, name, label[folder]))
    return pictures


def _hold_out(pictures: Sequence[Picture], fraction: float) -> tuple[list[Picture], list[Picture]]:
    """The pictures whose names have the smallest hashes are the test split.

    So the choice has nothing to do with the order of the names, and new pictures move few old ones.
    """
    by_hash = sorted(pictures, key=lambda p: hashlib.sha256(p.name.encode()).digest())
    held_out = {picture.name for picture in by_hash[: round(fraction * len(pictures))]}
    train = [picture for picture in pictures if picture.name not in held_out]
    test = [picture for picture in pictures if picture.name in held_out]
    return train, test
