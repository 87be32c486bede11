"""Named tensors in files: written whole, and read only if the digest is right."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO
from zipfile import BadZipFile, ZipFile, is_zipfile

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from psld.utils.errors import UserError
from psld.utils.files import atomic_path, retried_in_slurm


def save_tensors(path: str | Path, tensors: Mapping[str, Tensor]) -> str:
    """Write the tensors atomically and return the SHA-256 of the file."""
    content = save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()})
    with atomic_path(path) as partial:
        partial.write_bytes(content)
    return hashlib.sha256(content).hexdigest()  # not of the file: another process may replace it


@retried_in_slurm
def load_tensors(path: str | Path, sha256: str, remedy: str) -> dict[str, Tensor]:
    """Read a file that `save_tensors` wrote, by the SHA-256 that it returned.

    Raises UserError, which ends with the remedy, if the file is missing, damaged or another one.
    """
    try:
        content = Path(path).read_bytes()  # Once: the file may be replaced at any moment.
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {remedy}") from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UserError(f"{path}: damaged, or not the file that was recorded; {remedy}")
    try:
        return load(content)
    except (SafetensorError, KeyError) as error:  # KeyError: a type that torch has not
        raise UserError(f"{path}: not a safetensors file ({error}); {remedy}") from None


def check_archive(stream: IO[bytes]) -> None:
    """Check the checksums in a file of torch.save, which torch ignores, and rewind it.

    Files of torch before 1.6 have none. Raises BadZipFile.
    """
    if is_zipfile(stream):
        with ZipFile(stream) as archive:
            # torch compresses nothing: what is compressed may be a bomb.
            packed = [entry.filename for entry in archive.infolist() if entry.compress_type]
            if damaged := packed or archive.testzip():
                raise BadZipFile(f"{damaged}")
    stream.seek(0)
