"""Ways to tamper with a certificate; each returns it, and the entry that has to be named."""

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from psld.grid import paths
from psld.report.certificate import INDEX
from psld.utils.tensors import load_tensors, save_tensors
from tests.report.certified import CELLS
from tests.results import sealed

Entries = dict[str, bytes]


def entries_of(certificate: bytes) -> Entries:
    with zipfile.ZipFile(io.BytesIO(certificate)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def written(entries: Entries, with_digests: bool) -> bytes:
    """A zip of these entries as the format asks for it, perhaps with the digests corrected."""
    if with_digests:
        index = json.loads(entries[INDEX])
        own = {n: hashlib.sha256(entry).hexdigest() for n, entry in entries.items() if n != INDEX}
        entries = entries | {INDEX: json.dumps(index | {"sha256": own}, indent=2).encode() + b"\n"}
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        for name in [INDEX, *sorted(entries.keys() - {INDEX})]:
            archive.writestr(zipfile.ZipInfo(name), entries[name])
    return memory.getvalue()


def rewritten(entry: bytes, change: Callable[[dict[str, np.ndarray]], None]) -> tuple[bytes, str]:
    """A file of arrays with a change to them, the digest corrected; and that digest."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "x"
        path.write_bytes(entry)
        kind = "evaluation" if b"evaluation" in entry else "features"
        stored = load_tensors(path, kind, "")
        change(stored.arrays)
        sha256 = save_tensors(path, kind, stored.arrays, stored.origin)
        return path.read_bytes(), sha256


def flip_a_byte(certificate: bytes, random: np.random.Generator) -> tuple[bytes, str]:
    """Any byte of the file, also one that no reader of zip files looks at."""
    with zipfile.ZipFile(io.BytesIO(certificate)) as archive:
        starts = {entry.header_offset: entry.filename for entry in archive.infolist()}
        position = int(random.integers(archive.start_dir))
    changed = bytearray(certificate)
    changed[position] ^= 1 << int(random.integers(8))
    return bytes(changed), starts[max(start for start in starts if start <= position)]


def remove(certificate: bytes, random: np.random.Generator) -> tuple[bytes, str]:
    entries = entries_of(certificate)
    name = random.choice(sorted(entries))
    del entries[name]
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        for entry in entries:
            archive.writestr(zipfile.ZipInfo(entry), entries[entry])
    return memory.getvalue(), name


def add(certificate: bytes, random: np.random.Generator) -> tuple[bytes, str]:
    name = f"results/cells/mine/vp-sde/em-{random.integers(100, 200)}.json"
    return written(entries_of(certificate) | {name: b"{}"}, with_digests=False), name


def swap(certificate: bytes, random: np.random.Generator) -> tuple[bytes, str]:
    """The kept features of two cells."""
    entries = entries_of(certificate)
    a, b = (paths.kept(paths.cell_result("mine", f"vp-sde/em-{n}")) for n in (10, 20))
    entries[a], entries[b] = entries[b], entries[a]
    return written(entries, with_digests=True), str(Path(a).with_suffix(".json"))


def change_a_number(certificate: bytes, random: np.random.Generator) -> tuple[bytes, str]:
    """Of a result, and correct the digest."""
    entries = entries_of(certificate)
    name = paths.cell_result("mine", str(random.choice(CELLS)))
    content = json.loads(entries[name])
    result = content["results"][random.integers(len(content["results"]))]
    estimate = result["estimate"]
    match random.integers(4):
        case 0:
            estimate["value"] *= 1.001
        case 1:
            estimate["without_block"][random.integers(20)] += 0.01
        case 2:
            result["nfe"] -= 1
        case 3:
            result["noise"] += 0.5
    entries[name] = sealed(content).encode()
    return written(entries, with_digests=True), name


def change_a_table(certificate: bytes, random: np.random.Generator) -> tuple[bytes, str]:
    """The first digit of a number in a table, and correct the digest."""
    entries = entries_of(certificate)
    name = f"results/tables/mine/{random.choice(['mine', 'guided'])}.{random.choice(['csv', 'md'])}"
    text = entries[name].decode()
    numbers = list(re.finditer(r"\d+(\.\d+)?", text))
    place = numbers[random.integers(len(numbers))].start()
    digit = "7" if text[place] == "1" else "1"
    entries[name] = f"{text[:place]}{digit}{text[place + 1 :]}".encode()
    return written(entries, with_digests=True), name


def change_the_band(certificate: bytes, random: np.random.Generator) -> tuple[bytes, str]:
    """Of the grid, and correct the digest."""
    entries = entries_of(certificate)
    grid = json.loads(entries["grid.json"])
    grid["file"]["tables"]["mine"]["band"]["absolute"] = float(random.uniform(1, 9))
    entries["grid.json"] = json.dumps(grid).encode()
    return written(entries, with_digests=True), "results/tables/mine/mine.csv"


def change_a_feature(certificate: bytes, random: np.random.Generator) -> tuple[bytes, str]:
    """Of the samples or of the reference, and correct the digest of the entry."""
    entries = entries_of(certificate)
    name = random.choice(sorted(n for n in entries if n.endswith(".safetensors")))

    def change(arrays: dict[str, np.ndarray]) -> None:
        key = random.choice(sorted(key for key in arrays if arrays[key].dtype.kind == "f"))
        arrays[key].flat[random.integers(arrays[key].size)] += 0.25

    entries[name], _ = rewritten(entries[name], change)
    said = name if "reference" in name else str(Path(name).with_suffix(".json"))
    return written(entries, with_digests=True), said


def change_a_digest(certificate: bytes, random: np.random.Generator) -> tuple[bytes, str]:
    """Of the weights or the data, in a manifest."""
    entries = entries_of(certificate)
    name = random.choice(["models/mine/vp-sde/manifest.json", "data/digits.json"])
    wrong = "".join(random.choice(list("0123456789abcdef"), 64))
    entries[name] = entries[name].replace(b"0" * 64, wrong.encode())
    entries[name] = entries[name].replace(b"d" * 64, wrong.encode())
    entries[name] = sealed(json.loads(entries[name])).encode()
    said = paths.cell_result("mine", "vp-sde/em-10") if "models" in name else name
    return written(entries, with_digests=True), said


TAMPERINGS = (
    flip_a_byte,
    change_a_number,
    change_a_table,
    change_a_feature,
    change_a_digest,
    change_the_band,
    remove,
    add,
    swap,
    flip_a_byte,
)
