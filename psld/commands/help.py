"""The text of `psld COMMAND --help`: usage, and each setting with its default and description."""

import ast
import inspect
import math
import textwrap
import types
from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from hydra import compose
from omegaconf import OmegaConf

from psld.config.compose import configs, without_hydra
from psld.config.settings import Settings

WIDTH = 100


def help_of(program: str, name: str, kind: type[Settings], description: str) -> str:
    """Return the help of a program such as `psld train`, from configs/NAME.yaml and `kind`."""
    with configs():
        config = without_hydra(compose(name, return_hydra_config=True))
    settings = "\n".join(_lines(kind, OmegaConf.to_container(config), indent=2))
    return f"""\
usage: {program} KEY=VALUE …

{description.strip()}

Settings and their defaults (configs/{name}.yaml); ??? has to be given:

{settings}

{program} --cfg job prints the settings for the overrides given with it."""


def _lines(kind: type[Settings], defaults: dict[str, Any], indent: int) -> Iterator[str]:
    texts = descriptions(kind)
    for key, field in kind.model_fields.items():
        default = defaults.get(key, None if field.is_required() else field.default)
        default = default.model_dump(mode="json") if isinstance(default, Settings) else default
        group = _group(field.annotation, default)
        yield f"{' ' * indent}{key}:{f' {_text(default)}' if group is None else ''}"
        if key in texts:
            margin = " " * (indent + 6)
            yield textwrap.fill(texts[key], WIDTH, initial_indent=margin, subsequent_indent=margin)
        if group is not None:
            yield from _lines(group, default, indent + 2)


def descriptions(kind: type[Settings]) -> dict[str, str]:
    """Return the docstring of each setting in the source of its class, on one line.

    pydantic can collect them too, but does so in every process that defines the class.
    """
    found = {}
    for base in reversed([c for c in kind.__mro__ if issubclass(c, Settings)]):
        [definition] = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        for field, text in pairwise(definition.body):
            match field, text:
                case ast.AnnAssign(target=ast.Name(key)), ast.Expr(ast.Constant(str(words))):
                    found[key] = " ".join(words.split())
    return found


def _group(annotation: Any, default: Any) -> type[Settings] | None:
    """Return the settings class of a nested group; of several, the first that fits the defaults."""
    if not isinstance(default, dict):
        return None
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return annotation if set(default) <= set(annotation.model_fields) else None
    if get_origin(annotation) not in (Annotated, Union, types.UnionType):
        return None
    groups = (_group(part, default) for part in get_args(annotation))
    return next((group for group in groups if group), None)


def _text(default: Any) -> str:
    """Format a default as in a config, on one line."""
    if isinstance(default, str):
        return default
    text = yaml.safe_dump(default, default_flow_style=True, sort_keys=False, width=math.inf)
    return text.splitlines()[0]
