"""Named tensors in a safetensors file: written whole, and read only if the digest is right."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from psld.utils.errors import UserError
from psld.utils.files import atomic_path, patient, sha256_of_file


def save_tensors(path: str | Path, tensors: Mapping[str, Tensor]) -> str:
    """Write the tensors atomically and return the SHA-256 of the file."""
    content = save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()})
    with atomic_path(path) as partial:
        partial.write_bytes(content)
    return hashlib.sha256(content).hexdigest()  # not of the file: another process may replace it


@patient
def load_tensors(path: str | Path, sha256: str, remedy: str) -> dict[str, Tensor]:
    """Read a file that `save_tensors` wrote, by the SHA-256 that it returned.

    Raises UserError, which ends with the remedy, if the file is missing, damaged or another one.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file; {remedy}")
    if sha256_of_file(path) != sha256:
        raise UserError(f"{path}: damaged, or not the file that was recorded; {remedy}")
    try:
        return load_file(path)
    except (SafetensorError, KeyError) as error:  # KeyError: a type that torch has not
        raise UserError(f"{path}: not a safetensors file ({error}); {remedy}") from None
