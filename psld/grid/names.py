"""Names and words of a grid: what they may be, and their placeholders."""

import re
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

from psld.utils.errors import UserError

NAME = re.compile(
    r"(?!(null|true|false|nan|inf)$)(?!.*(.)\2{18})[a-z][a-z0-9._-]*", re.ASCII | re.IGNORECASE
)
"""Names in paths and command lines, where Hydra must not read them as a number or as nothing.
Snakemake takes a file that ends with one character 20 times for an endless recursion."""

OF_HYDRA = re.compile(r"(.*@)?[+~]*(_global_\.)?hydra")
LEADS_OUT = re.compile(r"[^.=]*=['\"]?(/|([^'\"]*/)?\.\.(/|['\"]?$))")
"""A word of a place or a config that is not below this folder."""


def _check_word(word: str) -> str:
    if OF_HYDRA.match(word.partition("=")[0]):
        raise ValueError(f"{word}: sets Hydra's own part, in which code can run; leave it out")
    if LEADS_OUT.match(word):
        raise ValueError(f"{word}: leads out of this folder; put a link into it")
    return word


Words = tuple[Annotated[str, AfterValidator(_check_word)], ...]
"""Overrides, KEY=VALUE. Grids come from others, too, so none sets what a sweep calls."""
Cells = Annotated[tuple[str, ...], BeforeValidator(lambda c: (c,) if isinstance(c, str) else c)]
"""Names of cells; one needs no list."""


def check_name(kind: str, name: str) -> None:
    """Raise ValueError if a grid, or a part of a grid, cannot have this name."""
    if not NAME.fullmatch(name):
        raise ValueError(
            f"{kind} {name!r}: a name begins with a letter, and has only letters (a-z, A-Z), "
            "digits and . _ - in it, none 19 times in a row"
        )


def check_known(what: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise ValueError(f"{what} {name!r}; there are: {', '.join(known)}")


def seeded(name: str, seed: int, first: int) -> str:
    """Return the name of a model or a sampler with a seed; the first seed keeps the plain name."""
    return name if seed == first else f"{name}-seed{seed}"


PLACEHOLDER = re.compile(r"\{(\w+)\}")


def fill(content: Any, values: dict[str, str]) -> Any:
    """Return the content with the placeholders that have a value replaced, in keys and texts."""
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
    from psld.metrics.named import metric_name  # It imports Hydra.

    try:
        return metric_name(word)
    except UserError as error:
        raise ValueError(f"{error}".removeprefix("metric=")) from None


MetricName = Annotated[str, AfterValidator(_metric_name)]
"""A config of configs/metric, or MEASURE@EXTRACTOR, of which the name is taken."""
