"""CelebA, aligned and cropped by its authors: 202,599 JPEGs of 178×218."""

from pathlib import Path, PurePosixPath

from PIL import Image

from psld.data.archive import FileTree, open_tree, picture_names, torchvision_downloads
from psld.data.picture import central_square
from psld.data.settings import CelebASource
from psld.data.source import Picture, Source, source_of_pictures
from psld.utils.errors import UserError
from psld.utils.files import sha256_of_file

_ARCHIVE = "img_align_celeba.zip"
_FOLDER = "img_align_celeba"
_PARTITION = "list_eval_partition.txt"
_SPLIT_OF_PARTITION = {"0": "train", "1": "validation", "2": "test"}


def open_celeba(settings: CelebASource) -> Source:
    """The pictures in the order of their names."""
    root = Path(settings.root)
    advice = (
        f"put {_ARCHIVE}" + (f" and {_PARTITION}" if settings.partition else "") + " of the CelebA "
        "project page (mmlab.ie.cuhk.edu.hk/projects/CelebA.html, Align&Cropped Images) into "
        f"{root}, or set dataset.source.root"
    )
    if settings.download:
        _download(root, settings.partition, advice)
    # The archive comes first, because the folder may be unpacked only in part.
    found = [path for path in (root / _ARCHIVE, root / _FOLDER) if path.exists()]
    if not found:
        raise UserError(f"{root}: neither {_ARCHIVE} nor {_FOLDER} in it; {advice}")
    tree = open_tree(found[0])
    checksums = {tree.path.name: tree.checksum()}
    if settings.partition:
        partition = root / _PARTITION
        if not partition.exists():
            raise UserError(f"{partition}: no such file; {advice}")
        checksums[_PARTITION] = sha256_of_file(partition)
        train, test = _split(tree, partition)
    else:
        train, test = [Picture(tree, name) for name in picture_names(tree)], []

    def frame(image: Image.Image) -> Image.Image:
        return image if settings.crop is None else central_square(image, settings.crop)

    return source_of_pictures(train, test, frame, class_names=(), checksums=checksums)


def _download(root: Path, partition: bool, advice: str) -> None:
    have_pictures = (root / _ARCHIVE).exists() or (root / _FOLDER).is_dir()
    wanted = [] if have_pictures else [_ARCHIVE]
    if partition and not (root / _PARTITION).exists():
        wanted.append(_PARTITION)
    if not wanted:
        return
    with torchvision_downloads(*(root / name for name in wanted), advice=advice) as datasets:
        for file_id, md5, name in datasets.CelebA.file_list:
            if name in wanted:
                datasets.utils.download_file_from_google_drive(file_id, root, name, md5)


def _split(tree: FileTree, partition: Path) -> tuple[list[Picture], list[Picture]]:
    """Train and test by a file whose lines are `000001.jpg 0`."""
    listed = {}
    for number, line in enumerate(partition.read_text(errors="replace").splitlines(), start=1):
        fields = line.split()
        if len(fields) != 2 or fields[1] not in _SPLIT_OF_PARTITION:
            raise UserError(
                f"{partition}, line {number}: not like `000001.jpg 0`, but {line[:60]!r}"
            )
        listed[fields[0]] = _SPLIT_OF_PARTITION[fields[1]]
    pictures: dict[str, list[Picture]] = {"train": [], "validation": [], "test": []}
    for name in picture_names(tree):
        base = PurePosixPath(name).name
        if base not in listed:
            raise UserError(f"{partition}: does not list {base}, which is in {tree.path}")
        pictures[listed[base]].append(Picture(tree, name))
    return pictures["train"], pictures["test"]
