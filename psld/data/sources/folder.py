"""Pictures in folders of classes: any folder or zip archive, and AFHQv2."""

import hashlib
from pathlib import Path, PurePosixPath

from psld.data.archive import FileTree, open_tree, picture_names
from psld.data.picture import central_square
from psld.data.settings import AFHQv2Source, FolderSource
from psld.data.source import Picture, Source, source_of_pictures
from psld.utils.errors import UserError

AFHQV2_ARCHIVE = "afhq_v2.zip"
AFHQV2_CLASSES = ("dog", "cat", "wild")
"""In the order of the official PSLD code, so that labels agree with its classifiers."""


def open_folder(settings: FolderSource) -> Source:
    """The central squares of all pictures; the first level of subfolders, if any, are classes."""
    tree = open_tree(Path(settings.root))
    parts = [PurePosixPath(name).parts for name in picture_names(tree)]
    # Subfolders are classes if every picture lies in one.
    in_classes = all(len(part) > 1 for part in parts)
    class_names = tuple(sorted({part[0] for part in parts})) if in_classes else ()
    pictures = _pictures(tree, class_names)
    checksums = {str(tree.path): tree.checksum()}
    if settings.test_root is not None:
        test_tree = open_tree(Path(settings.test_root))
        train, test = pictures, _pictures(test_tree, class_names)
        checksums[str(test_tree.path)] = test_tree.checksum()
    else:
        train, test = _hold_out(pictures, settings.test_fraction)
    return source_of_pictures(train, test, central_square, class_names, checksums)


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


def _hold_out(pictures: list[Picture], fraction: float) -> tuple[list[Picture], list[Picture]]:
    """Take the pictures whose names have the smallest hashes as the test split.

    The choice does not depend on the order of the names, and new pictures move few old ones.
    """
    by_hash = sorted(pictures, key=lambda p: hashlib.sha256(p.name.encode()).digest())
    held_out = {picture.name for picture in by_hash[: round(fraction * len(pictures))]}
    train = [picture for picture in pictures if picture.name not in held_out]
    test = [picture for picture in pictures if picture.name in held_out]
    return train, test


def open_afhqv2(settings: AFHQv2Source) -> Source:
    """The animal faces of StarGAN v2: PNGs of 512×512 in train/CLASS/ and test/CLASS/."""
    root = Path(settings.root)
    archive = root / AFHQV2_ARCHIVE
    if not archive.exists() and not (root / "train").is_dir():
        raise UserError(
            f"{root}: neither {AFHQV2_ARCHIVE} nor a folder train in it; get the archive with "
            "`bash download.sh afhq-v2-dataset` of github.com/clovaai/stargan-v2 and put it, or "
            f"the unpacked folders train and test, into {root}, or set dataset.source.root"
        )
    # The archive comes first, because the folders may be unpacked only in part.
    tree = open_tree(archive if archive.exists() else root)
    return source_of_pictures(
        _afhqv2_split(tree, "train"),
        _afhqv2_split(tree, "test"),
        frame=central_square,
        class_names=AFHQV2_CLASSES,
        checksums={tree.path.name: tree.checksum()},
    )


def _afhqv2_split(tree: FileTree, split: str) -> list[Picture]:
    pictures = []
    names = picture_names(tree)
    for label, folder in enumerate(AFHQV2_CLASSES):
        # The archive may hold the two folders inside another one.
        inside = [name for name in names if PurePosixPath(name).parts[-3:-1] == (split, folder)]
        if not inside:
            raise UserError(f"{tree.path}: no pictures in {split}/{folder}; unpack or get it again")
        pictures += [Picture(tree, name, label) for name in inside]
    return pictures
