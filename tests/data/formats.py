"""Small datasets in the formats of the published datasets."""

import gzip
import io
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from hashlib import md5
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.ttLib import newTable
from fontTools.ttLib.tables.BitmapGlyphMetrics import SmallGlyphMetrics
from fontTools.ttLib.tables.C_B_D_T_ import cbdt_bitmap_format_17
from fontTools.ttLib.tables.E_B_L_C_ import SbitLineMetrics, Strike, eblc_index_sub_table_1
from PIL import Image

from psld.data.images import as_image
from psld.data.settings import Images


def random_images(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def pictures_of(images: Images) -> list[Image.Image]:
    pairs = (*images.train, *images.test)
    return [as_image(each() if callable(each) else each, "") for each, _ in pairs]


def labels_of(images: Images) -> list[int]:
    return [label for _, label in (*images.train, *images.test)]


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
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def write_shards(folder: Path) -> None:
    """Write two tar files in webdataset format, with six pictures in three classes each."""
    for shard in range(2):
        pictures = {f"{i}.png": encode(random_images(9, 9, 3, seed=i)) for i in range(6)}
        classes = {f"{i}.cls": b"%d" % (i % 3) for i in range(6)}
        write_tar(folder / f"{shard:03d}.tar", dict(sorted((pictures | classes).items())))


def idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


def idx_files(
    train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]
) -> dict[str, bytes]:
    """Return the contents of the four gzipped files of MNIST or Fashion-MNIST, by name."""
    return {
        f"{prefix}-{content}-ubyte.gz": gzip.compress(idx(array))
        for prefix, split in (("train", train), ("t10k", test))
        for content, array in zip(("images-idx3", "labels-idx1"), split, strict=True)
    }


def write_cifar10(
    root: Path,
    pixels: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    classes: Sequence[str],
    patch: pytest.MonkeyPatch,
) -> Path:
    """Write an archive of five batches and a test batch; let torchvision expect its checksums."""
    from torchvision.datasets import CIFAR10

    contents = [
        *({"data": x, "labels": y.tolist()} for x, y in zip(pixels, labels, strict=True)),
        {"label_names": list(classes)},
    ]
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"]
    files = {n: pickle.dumps(c, protocol=2) for n, c in zip(names, contents, strict=True)}
    inside = {f"cifar-10-batches-py/{name}": data for name, data in files.items()}
    archive = write_tar(root / "cifar-10-python.tar.gz", inside)
    sums = [[name, md5(data).hexdigest()] for name, data in files.items()]
    meta = {"filename": "batches.meta", "key": "label_names", "md5": sums[-1][1]}
    expected = {"train_list": sums[:5], "test_list": sums[5:6], "meta": meta}
    expected["tgz_md5"] = md5(archive.read_bytes()).hexdigest()
    for name, value in expected.items():
        patch.setattr(CIFAR10, name, value)
    patch.setattr(CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    return root


def celeba_files(count: int, seed: int = 0) -> dict[str, bytes]:
    """000001.jpg and so on, 178×218."""
    images = random_images(count, 8, 8, 3, seed=seed)
    return {
        f"img_align_celeba/{i:06d}.jpg": encode(
            np.asarray(Image.fromarray(pixels).resize((178, 218), Image.Resampling.BICUBIC)), "jpeg"
        )
        for i, pixels in enumerate(images, start=1)
    }


def afhq_files(train: int, test: int, size: int) -> dict[str, bytes]:
    """Return PNGs with one color per class: cats red, dogs green, wild animals blue."""
    files = {}
    for split, count in (("train", train), ("test", test)):
        for channel, name in enumerate(("cat", "dog", "wild")):
            pixels = np.zeros((size, size, 3), dtype=np.uint8)
            pixels[:, :, channel] = 200
            for i in range(count):
                files[f"{split}/{name}/{name}_{i:06d}.png"] = encode(pixels)
    return files


def write_emoji_font(path: Path, drawings: Mapping[str, np.ndarray]) -> None:
    """Write a font with a 128×136×3 color bitmap per character, like Noto Color Emoji."""
    glyphs = {character: f"u{ord(character):X}" for character in drawings}
    builder = FontBuilder(unitsPerEm=2048)
    builder.setupGlyphOrder([".notdef", *glyphs.values()])
    builder.setupCharacterMap({ord(character): glyph for character, glyph in glyphs.items()})
    builder.setupHorizontalMetrics(dict.fromkeys([".notdef", *glyphs.values()], (2550, 0)))
    builder.setupHorizontalHeader(ascent=1900, descent=-500)
    builder.setupPost()

    bitmaps = builder.font["CBDT"] = newTable("CBDT")
    bitmaps.version, bitmaps.strikeData = 3.0, [{}]
    for character, pixels in drawings.items():
        bitmap = cbdt_bitmap_format_17(None, builder.font)
        bitmap.imageData, bitmap.metrics = encode(pixels), SmallGlyphMetrics()
        measures = {"height": 128, "width": 136, "BearingX": 0, "BearingY": 101, "Advance": 136}
        vars(bitmap.metrics).update(measures)
        bitmaps.strikeData[0][glyphs[character]] = bitmap

    index = eblc_index_sub_table_1(None, builder.font)
    index.indexFormat, index.imageFormat, index.names = 1, 17, list(glyphs.values())
    strike, locations = Strike(), newTable("CBLC")
    strike.indexSubTables = [index]
    sizes = {"colorRef": 0, "ppemX": 109, "ppemY": 109, "bitDepth": 32, "flags": 1}
    vars(strike.bitmapSizeTable).update(sizes, hori=SbitLineMetrics(), vert=SbitLineMetrics())
    for direction in (strike.bitmapSizeTable.hori, strike.bitmapSizeTable.vert):
        names = "caretSlopeNumerator caretSlopeDenominator caretOffset minOriginSB minAdvanceSB"
        names += " maxBeforeBL minAfterBL pad1 pad2"
        vars(direction).update(dict.fromkeys(names.split(), 0))
        vars(direction).update(ascender=101, descender=-27, widthMax=136)
    locations.version, locations.strikes = 3.0, [strike]
    builder.font["CBLC"] = locations
    builder.save(path)
