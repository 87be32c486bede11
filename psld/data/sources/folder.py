"""Pictures in folders of classes: any folder or zip archive, and AFHQv2."""

import hashlib
from pathlib import Path, PurePosixPath

from psld.data.archive import FileTree
from psld.data.settings import AFHQv2Source, FolderSource
from psld.data.source import Picture, Source, picture_in
from psld.utils.errors import UserError

AFHQV2_ARCHIVE = "afhq_v2.zip"
AFHQV2_CLASSES = ("dog", "cat", "wild")
"""In the order of the official PSLD code, so that labels agree with its classifiers."""


def open_folder(settings: FolderSource, num_classes: int = 0) -> Source:
    """The central squares of all pictures; the first level of subfolders, if any, are classes.

    If that is one folder of folders, and several classes are wanted, the next level are classes:
    most tools pack a folder into a zip archive with its own name in front.
    """
    tree = FileTree(Path(settings.root))
    names = tree.picture_names()
    parts = [PurePosixPath(name).parts for name in names]
    # Subfolders are classes if every picture lies in one.
    in_classes = all(len(part) > 1 for part in parts)
    is_outer = len({part[0] for part in parts}) == 1 and all(len(part) > 2 for part in parts)
    level = 1 if is_outer and num_classes > 1 else 0
    class_names = tuple(sorted({part[level] for part in parts})) if in_classes else ()
    checksums = {str(tree.path): tree.checksum()}
    if settings.test_root is not None:
        test_tree = FileTree(Path(settings.test_root))
        test = _pictures(test_tree, test_tree.picture_names(), class_names, level)
        checksums[str(test_tree.path)] = test_tree.checksum()
    else:
        # The names with the smallest hashes are held out. The choice does not depend on the order
        # of the names, and new pictures move few old ones.
        by_hash = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
        held_out = set(by_hash[: round(settings.test_fraction * len(names))])
        test = _pictures(tree, sorted(held_out), class_names, level)
        names = [name for name in names if name not in held_out]
    train = _pictures(tree, names, class_names, level)
    return Source(train, test, class_names, checksums)


def _pictures(
    tree: FileTree, names: list[str], class_names: tuple[str, ...], level: int
) -> list[Picture]:
    if not class_names:
        return [picture_in(tree, name) for name in names]
    label = {name: index for index, name in enumerate(class_names)}
    pictures = []
    for name in names:
        parts = PurePosixPath(name).parts
        folder = parts[level] if len(parts) > level else ""
        if folder not in label:
            raise UserError(
                f"{tree.path}/{name}: not in the folder of a class; the classes of the training "
                f"pictures are {', '.join(class_names)}"
            )
        pictures.append(picture_in(tree, name, label[folder]))
    return pictures


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
    tree = FileTree(archive if archive.exists() else root)
    train, test = _afhqv2_split(tree, "train"), _afhqv2_split(tree, "test")
    return Source(train, test, AFHQV2_CLASSES, {tree.path.name: tree.checksum()})


def _afhqv2_split(tree: FileTree, split: str) -> list[Picture]:
    pictures = []
    names = tree.picture_names()
    for label, folder in enumerate(AFHQV2_CLASSES):
        # The archive may hold the two folders inside another one.
        inside = [name for name in names if PurePosixPath(name).parts[-3:-1] == (split, folder)]
        if not inside:
            raise UserError(f"{tree.path}: no pictures in {split}/{folder}; unpack or get it again")
        pictures += [picture_in(tree, name, label) for name in inside]
    return pictures
