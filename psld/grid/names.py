"""Rules for the names and overrides in a grid file, and the replacement of placeholders."""

import re
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

from psld.utils.errors import UserError

NAME = re.compile(
    r"(?!(null|true|false|nan|inf)$)(?!.*(.)\2{18})[a-z][a-z0-9._-]*", re.ASCII | re.IGNORECASE
)
"""The pattern of valid names. Names occur in paths and command lines, where Hydra must not parse
them as a number, a Boolean or null. Long runs of one character are invalid, because Snakemake
reports an endless recursion for a file name that ends with 20 equal characters."""

OF_HYDRA = re.compile(r"(.*@)?[+~]*(_global_\.)?hydra")
LEADS_OUT = re.compile(r"[^.=]*=['\"]?(/|([^'\"]*/)?\.\.(/|['\"]?$))")
"""An override with an absolute path or with `..`, which refers to a file outside this folder."""


def _check_word(word: str) -> str:
    if OF_HYDRA.match(word.partition("=")[0]):
        raise ValueError(f"{word}: sets Hydra's own config, which can run code; leave it out")
    if LEADS_OUT.match(word):
        raise ValueError(f"{word}: leads out of this folder; put a link into this folder instead")
    return word


Words = tuple[Annotated[str, AfterValidator(_check_word)], ...]
"""Overrides, KEY=VALUE. Overrides that could run code are rejected, because a grid file may come
from an untrusted source."""
Cells = Annotated[tuple[str, ...], BeforeValidator(lambda c: (c,) if isinstance(c, str) else c)]
"""Names of cells. A single name may be given without a list."""


def check_name(kind: str, name: str) -> None:
    """Raise ValueError if this name is invalid for a grid or for a member of a grid."""
    if not NAME.fullmatch(name):
        raise ValueError(
            f"{kind} {name!r}: a name begins with a letter, contains only letters (a-z, A-Z), "
            "digits and . _ -, and repeats no character 19 times in a row"
        )


def check_known(what: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise ValueError(f"{what} {name!r}; there are: {', '.join(known)}")


def seeded(name: str, seed: int, first: int) -> str:
    """Return the name of a model or sampler for a seed.

    For the first seed of the grid, this is the plain name.
    """
    return name if seed == first else f"{name}-seed{seed}"


PLACEHOLDER = re.compile(r"\{(\w+)\}")


def fill(content: Any, values: dict[str, str]) -> Any:
    """Return `content` with the placeholders in `values` replaced, also in dictionary keys."""
    match content:
        case str():
            return PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), content)
        case dict():
            return {fill(key, values): fill(value, values) for key, value in content.items()}
        case list():
            return [fill(value, values) for value in content]
    return content


def _metric_name(word: str) -> str:
    if "@" not in word or PLACEHOLDER.search(word):
        return word
    from psld.metrics.named import metric_name  # Deferred, because this module imports Hydra.

    try:
        return metric_name(word)
    except UserError as error:
        raise ValueError(f"{error}".removeprefix("metric=")) from None


MetricName = Annotated[str, AfterValidator(_metric_name)]
"""The name of a config in configs/metric, or MEASURE@EXTRACTOR, which is replaced by the name of
the metric."""
