"""Sources of picture files: any folder or zip archive, AFHQv2 and CelebA."""

import hashlib
from pathlib import Path, PurePosixPath

from psld.data.settings import AFHQv2Source, CelebASource, FolderSource
from psld.data.source import FileTree, Picture, Source
from psld.utils.errors import UserError

AFHQV2_CLASSES = ("dog", "cat", "wild")
"""In the order of the official PSLD code, so that labels agree with its classifiers."""


def open_folder(settings: FolderSource) -> Source:
    """Return the central squares of all pictures; the first level of subfolders are the classes.

    A single folder around all of them is left out: most tools pack one into a zip archive.
    """
    tree = FileTree(Path(settings.root))
    parts = {name: PurePosixPath(name).parts for name in tree.picture_names()}
    while len({part[0] for part in parts.values()}) == 1 and min(map(len, parts.values())) > 2:
        parts = {name: part[1:] for name, part in parts.items()}
    # Subfolders are classes if every picture lies in one.
    in_classes = all(len(part) > 1 for part in parts.values())
    class_names = sorted({part[0] for part in parts.values()}) if in_classes else []

    def pictures(names: list[str]) -> list[Picture]:
        return [
            tree.picture(name, class_names.index(parts[name][0]) if in_classes else 0)
            for name in names
        ]

    # The names with the smallest hashes are held out. The choice does not depend on the order of
    # the names, and new pictures move few old ones.
    by_hash = sorted(parts, key=lambda name: hashlib.sha256(name.encode()).digest())
    held_out = set(by_hash[: round(settings.test_fraction * len(parts))])
    train = pictures([name for name in parts if name not in held_out])
    test = pictures(sorted(held_out))
    return Source(train, test, tuple(class_names), {str(tree.path): tree.checksum()})


def open_afhqv2(settings: AFHQv2Source) -> Source:
    """Return the animal faces of StarGAN v2: PNGs of 512×512 in train/CLASS/ and test/CLASS/."""
    root = Path(settings.root)
    archive = root / "afhq_v2.zip"
    if not archive.exists() and not (root / "train").is_dir():
        raise UserError(
            f"{root}: neither {archive.name} nor a folder train in it; get the archive with "
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
        pictures += [tree.picture(name, label) for name in inside]
    return pictures


def open_celeba(settings: CelebASource) -> Source:
    """Return all 202,599 aligned pictures of CelebA, 178×218, in the order of their names."""
    root = Path(settings.root)
    # The archive comes first, because the folder may be unpacked only in part.
    archive, folder = root / "img_align_celeba.zip", root / "img_align_celeba"
    path = archive if archive.exists() else folder
    if not path.exists():
        raise UserError(
            f"{root}: neither {archive.name} nor {folder.name} in it; put {archive.name} of the "
            "CelebA project page (mmlab.ie.cuhk.edu.hk/projects/CelebA.html, Align&Cropped "
            f"Images) into {root}, or set dataset.source.root"
        )
    tree = FileTree(path)
    pictures = [tree.picture(name, frame=lambda image: image) for name in tree.picture_names()]
    return Source(pictures, [], (), {tree.path.name: tree.checksum()})
