"""Small sources in the formats of the published ones."""

import gzip
import io
import struct
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from psld.data.source import Source


def random_images(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def pictures_of(source: Source) -> list[Image.Image]:
    return [picture.read() for picture in (*source.train, *source.test)]


def labels_of(source: Source) -> list[int]:
    return [picture.label for picture in (*source.train, *source.test)]


def encode(pixels: np.ndarray, kind: str = "png") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **({"quality": 95} if kind == "jpeg" else {}))
    return stream.getvalue()


def write_files(root: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def write_zip(path: Path, files: Mapping[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def write_tar(path: Path, files: Mapping[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


def idx_files(
    train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]
) -> dict[str, bytes]:
    """The four gzipped files of MNIST and Fashion-MNIST."""
    return {
        f"{prefix}-{content}-ubyte.gz": gzip.compress(idx(array))
        for prefix, split in (("train", train), ("t10k", test))
        for content, array in zip(("images-idx3", "labels-idx1"), split, strict=True)
    }


def celeba_files(count: int, seed: int = 0) -> dict[str, bytes]:
    """000001.jpg and so on, 178×218."""
    images = random_images(count, 8, 8, 3, seed=seed)
    return {
        f"img_align_celeba/{i:06d}.jpg": encode(
            np.asarray(Image.fromarray(pixels).resize((178, 218), Image.Resampling.BICUBIC)), "jpeg"
        )
        for i, pixels in enumerate(images, start=1)
    }


def afhq_files(train: int, test: int, size: int = 512) -> dict[str, bytes]:
    """PNGs of one colour for each class: cats red, dogs green, wild animals blue."""
    files = {}
    for split, count in (("train", train), ("test", test)):
        for channel, name in enumerate(("cat", "dog", "wild")):
            pixels = np.zeros((size, size, 3), dtype=np.uint8)
            pixels[:, :, channel] = 200
            for i in range(count):
                files[f"{split}/{name}/{name}_{i:06d}.png"] = encode(pixels)
    return files
