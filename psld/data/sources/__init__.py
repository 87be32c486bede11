"""One module for each family of sources: where the images lie, how they are read and framed."""

from psld.data.settings import (
    AFHQv2Source,
    CelebASource,
    CIFAR10Source,
    DigitsSource,
    FashionMNISTSource,
    FolderSource,
    MNISTSource,
    SourceSettings,
)
from psld.data.source import Source
from psld.data.sources.afhqv2 import open_afhqv2
from psld.data.sources.celeba import open_celeba
from psld.data.sources.cifar10 import open_cifar10
from psld.data.sources.digits import open_digits
from psld.data.sources.folder import open_folder
from psld.data.sources.idx import open_fashion_mnist, open_mnist


def open_source(settings: SourceSettings) -> Source:
    """Find the files of a source, downloading them where that is allowed.

    Raises UserError when they are missing or damaged, and says what to get and where to put it;
    RunError when a download fails.
    """
    match settings:
        case DigitsSource():
            return open_digits()
        case FashionMNISTSource():
            return open_fashion_mnist(settings)
        case MNISTSource():
            return open_mnist(settings)
        case CIFAR10Source():
            return open_cifar10(settings)
        case CelebASource():
            return open_celeba(settings)
        case AFHQv2Source():
            return open_afhqv2(settings)
        case FolderSource():
            return open_folder(settings)
