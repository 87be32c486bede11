"""AFHQv2, the animal faces of StarGAN v2: PNGs of 512×512 in train/CLASS/ and test/CLASS/."""

from pathlib import Path, PurePosixPath

from psld.data.archive import FileTree, open_tree, picture_names
from psld.data.picture import central_square
from psld.data.settings import AFHQv2Source
from psld.data.source import Picture, Source, source_of_pictures
from psld.utils.errors import UserError

_ARCHIVE = "afhq_v2.zip"

CLASS_NAMES = ("dog", "cat", "wild")
"""In the order of the official PSLD code, so that its classifiers mean the same by a number."""


def open_afhqv2(settings: AFHQv2Source) -> Source:
    """The pictures of each split in the order of class and name."""
    root = Path(settings.root)
    archive = root / _ARCHIVE
    if not archive.exists() and not (root / "train").is_dir():
        raise UserError(
            f"{root}: neither {_ARCHIVE} nor a folder train in it; get the archive with "
            "`bash download.sh afhq-v2-dataset` of github.com/clovaai/stargan-v2 and put it, or "
            f"the folders train and test that it unpacks to, into {root}, or set "
            "dataset.source.root"
        )
    # The archive rather than the folders, which may have been unpacked half.
    tree = open_tree(archive if archive.exists() else root)
    return source_of_pictures(
        _split(tree, "train"),
        _split(tree, "test"),
        frame=central_square,
        class_names=CLASS_NAMES,
        checksums={tree.path.name: tree.checksum()},
    )


def _split(tree: FileTree, split: str) -> list[Picture]:
    """The archive may hold the two folders inside another one."""
    by_class: dict[str, list[Picture]] = {name: [] for name in CLASS_NAMES}
    for name in picture_names(tree):
        parts = PurePosixPath(name).parts
        if len(parts) >= 3 and parts[-3] == split and parts[-2] in by_class:
            by_class[parts[-2]].append(Picture(tree, name, CLASS_NAMES.index(parts[-2])))
    for name, pictures in by_class.items():
        if not pictures:
            raise UserError(f"{tree.path}: no pictures in {split}/{name}; unpack or get it anew")
    return [picture for pictures in by_class.values() for picture in pictures]
