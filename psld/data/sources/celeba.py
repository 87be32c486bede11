"""CelebA, aligned and cropped by its authors: 202,599 JPEGs of 178×218."""

from functools import partial
from pathlib import Path, PurePosixPath

from psld.data.archive import FileTree, torchvision_downloads
from psld.data.picture import central_square
from psld.data.settings import CelebASource
from psld.data.source import Source, picture_in
from psld.utils.errors import UserError
from psld.utils.files import sha256_of_file

_ARCHIVE = "img_align_celeba.zip"
_FOLDER = "img_align_celeba"
_PARTITION = "list_eval_partition.txt"


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
    tree = FileTree(found[0])
    train, test = tree.picture_names(), []
    checksums = {tree.path.name: tree.checksum()}
    if settings.partition:
        partition = root / _PARTITION
        if not partition.exists():
            raise UserError(f"{partition}: no such file; {advice}")
        checksums[_PARTITION] = sha256_of_file(partition)
        train, test = _split(tree, partition)
    crop = settings.crop
    frame = partial(central_square, side=crop) if crop else lambda image: image
    train, test = ([picture_in(tree, n, frame=frame) for n in names] for names in (train, test))
    return Source(train, test, class_names=(), checksums=checksums)


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


def _split(tree: FileTree, partition: Path) -> tuple[list[str], list[str]]:
    """The names of the training and test pictures, by a file whose lines are `000001.jpg 0`.

    0 is for training, 1 for validation, 2 for the test.
    """
    parts = {}
    for number, line in enumerate(partition.read_text(errors="replace").splitlines(), start=1):
        fields = line.split()
        if len(fields) != 2 or fields[1] not in ("0", "1", "2"):
            raise UserError(
                f"{partition}, line {number}: not like `000001.jpg 0`, but {line[:60]!r}"
            )
        parts[fields[0]] = fields[1]
    names: dict[str, list[str]] = {"0": [], "1": [], "2": []}
    for name in tree.picture_names():
        base = PurePosixPath(name).name
        if base not in parts:
            raise UserError(f"{partition}: does not list {base}, which is in {tree.path}")
        names[parts[base]].append(name)
    return names["0"], names["2"]
