"""The names in a grid, and the paths of datasets and results that are made from them."""

import re
from pathlib import PurePath

NAME = re.compile(r"(?!(null|true|false|nan|inf)$)[a-z][a-z0-9._-]*", re.ASCII | re.IGNORECASE)
"""Names in paths and command lines, where Hydra must not read them as a number or as nothing."""


def check_name(kind: str, name: str) -> None:
    """Raise ValueError if a grid, or a part of a grid, cannot have this name."""
    if not NAME.fullmatch(name):
        raise ValueError(
            f"{kind} {name!r}: a name begins with a letter, and has only letters (a-z, A-Z), "
            "digits and . _ - in it"
        )


def dataset(name: str) -> str:
    return f"data/{name}.h5"


def digest(data: str) -> str:
    """The path of the digest of a prepared dataset."""
    return str(PurePath(data).with_suffix(".digest"))


def cell_result(grid: str, cell: str) -> str:
    return f"results/cells/{grid}/{cell}.json"


def kept(result: str) -> str:
    """The path of the features, or sums of them, that a cell's results are computed from."""
    return f"{result.removesuffix('.json')}.safetensors"


def table(grid: str, name: str) -> str:
    """The path without extension."""
    return f"results/tables/{grid}/{name}"


def page(grid: str) -> str:
    return f"results/{grid}.html"


def figure(grid: str, name: str) -> str:
    """The path without extension."""
    return f"results/figures/{grid}/{name}"


def certificate(grid: str) -> str:
    return f"results/certificates/{grid}.zip"
