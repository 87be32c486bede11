"""One module for each family of sources: find the images, read and frame them."""

from psld.data.settings import SourceSettings
from psld.data.source import Source
from psld.data.sources.celeba import open_celeba
from psld.data.sources.cifar10 import open_cifar10
from psld.data.sources.digits import open_digits
from psld.data.sources.folder import open_afhqv2, open_folder
from psld.data.sources.idx import open_idx

_OPENERS = {
    "digits": open_digits,
    "fashion-mnist": open_idx,
    "mnist": open_idx,
    "cifar10": open_cifar10,
    "celeba": open_celeba,
    "afhqv2": open_afhqv2,
}


def open_source(settings: SourceSettings, num_classes: int = 0) -> Source:
    """Find the files of a source; download them if that is allowed.

    `num_classes` is the wanted number of classes; 0 takes all images without.

    Raises UserError that says what to get and its place if files are missing or damaged, RunError
    if a download fails.
    """
    if settings.kind == "folder":
        return open_folder(settings, num_classes)
    return _OPENERS[settings.kind](settings)
