"""Arrays in safetensors files, with a kind, an origin and a digest in the metadata.

This module writes, reads and checks all shards, weights and features. It imports torch only
in `Stored.tensors`, so that figures can read shards without torch.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from zipfile import BadZipFile, ZipFile, is_zipfile

import numpy as np
from safetensors.numpy import load, save

from psld.utils.errors import UserError, reading
from psld.utils.files import atomic_path, digest_of, regular_file

if TYPE_CHECKING:
    from torch import Tensor

KEY = "psld"
"""The only key of the metadata. With several keys, the files would not be reproducible, because
safetensors writes keys in random order."""


@dataclass(frozen=True)
class Stored:
    arrays: dict[str, np.ndarray]
    origin: dict[str, Any]
    sha256: str

    def tensors(self) -> "dict[str, Tensor]":
        """Return the arrays as torch tensors that share memory with them."""
        import torch

        return {name: torch.from_numpy(array) for name, array in self.arrays.items()}


def array_of(images: Any, where: str) -> np.ndarray:
    """Convert an array or tensor to an array. Raises UserError for other objects."""
    try:  # A tensor may be on a GPU or require gradients.
        array = np.ascontiguousarray(images.detach().cpu() if hasattr(images, "detach") else images)
        if array.dtype.kind not in "buif":
            raise TypeError(array.dtype)
        return array
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{where}: not an array of images ({error})") from None


def as_arrays(tensors: "Mapping[str, np.ndarray | Tensor]") -> dict[str, np.ndarray]:
    """Convert tensors on any device to C-contiguous arrays."""
    return {
        name: np.asarray(each if isinstance(each, np.ndarray) else each.cpu().numpy(), order="C")
        for name, each in tensors.items()
    }


def digest_of_arrays(kind: str, arrays: Mapping[str, np.ndarray], origin: Mapping[str, Any]) -> str:
    """Return the SHA-256 of kind, origin, and the names, types, shapes and bytes of the arrays."""
    names = sorted(arrays)
    layout = [[name, str(arrays[name].dtype), arrays[name].shape] for name in names]
    whole = hashlib.sha256(digest_of([kind, origin, layout]).encode())
    for name in names:
        whole.update(np.ascontiguousarray(arrays[name]))
    return whole.hexdigest()


def save_tensors(
    path: str | Path,
    kind: str,
    tensors: "Mapping[str, np.ndarray | Tensor]",
    origin: Mapping[str, Any],
) -> str:
    """Write a file atomically, and return its digest.

    Args:
        kind: the kind of file, such as "weights". `load_tensors` rejects files of other kinds.
        tensors: the arrays or tensors, on any device.
        origin: the provenance of the tensors; it must be serializable as JSON.
    """
    arrays = as_arrays(tensors)
    sha256 = digest_of_arrays(kind, arrays, origin)
    header = json.dumps({"kind": kind, "sha256": sha256, "origin": origin}, allow_nan=False)
    content = save(arrays, {KEY: header})
    with atomic_path(path) as partial:
        partial.write_bytes(content)
    return sha256


def load_tensors(path: str | Path, kind: str, remedy: str, sha256: str | None = None) -> Stored:
    """Read a file that `save_tensors` has written.

    The function needs at most twice the size of the file in memory.

    Raises UserError with the remedy if the file is missing, damaged or of a different kind, or if
    its digest is not `sha256`.
    """
    with reading(path, f"damaged {kind} file, or written by another program", f"; {remedy}"):
        try:  # Read the file once, because it may be replaced at any time.
            content = regular_file(path).read_bytes()
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; {remedy}") from None
        arrays = load(content)
        size = int.from_bytes(content[:8], "little")
        header = json.loads(json.loads(content[8 : 8 + size])["__metadata__"][KEY])
        stored = Stored(arrays, header["origin"], header["sha256"])
        is_whole = digest_of_arrays(header["kind"], arrays, stored.origin) == stored.sha256
    if not is_whole:
        raise UserError(f"{path}: damaged {kind} file (its digest differs); {remedy}")
    if header["kind"] != kind:
        raise UserError(f"{path}: a {header['kind']} file, not a {kind} file; {remedy}")
    if sha256 not in (None, stored.sha256):
        raise UserError(f"{path}: differs from the recorded {kind} file; {remedy}")
    return stored


def grouped(tensors: "Mapping[str, Tensor]") -> "dict[str, dict[str, Tensor]]":
    """Group tensors with dotted names by the part before the first dot."""
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        groups.setdefault(part, {})[rest] = tensor
    return groups


def check_archive(stream: IO[bytes]) -> None:
    """Verify the checksums in a file that torch.save has written, and rewind the stream.

    torch itself ignores these checksums. Files from versions before torch 1.6 contain no checksums.
    Raises BadZipFile.
    """
    if is_zipfile(stream):
        with ZipFile(stream) as archive:
            if damaged := archive.testzip():
                raise BadZipFile(damaged)
    stream.seek(0)
