"""Downloads, by torchvision's loaders and held to their checksums."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from psld.utils.errors import RunError


@contextmanager
def torchvision_downloads(*files: Path, advice: str) -> Iterator[ModuleType]:
    """Lend torchvision.datasets; a failed download becomes a RunError that ends with `advice`.

    The `files` that the download makes are removed when it fails: torchvision leaves those that did
    not match their checksums, and the next run would take them for the user's own.
    """
    # torchvision imports torch, which nothing else in the preparation needs.
    import torchvision.datasets

    try:
        yield torchvision.datasets
    except BaseException as error:
        for file in files:
            file.unlink(missing_ok=True)
        if isinstance(error, OSError | RuntimeError):
            reason = " ".join(str(error).split())
            raise RunError(f"the download failed ({reason}); {advice}") from None
        raise
