"""The output of `psld COMMAND --help`: usage, available configs, and a description per setting."""

import ast
import inspect
import math
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, cast

import yaml
from pydantic_core import to_jsonable_python

from psld.commands.command import Command
from psld.config.locations import config_names
from psld.config.settings import Settings, group_of, over_default

MISSING = "???"
"""The placeholder for a required value in Hydra and in help texts."""


def help_of(command: Command, description: str, words: list[str]) -> str:
    """Return the help text of a command, from its config and its settings class.

    Raises UserError if the config cannot be composed with the words as overrides.
    """
    program = command.where
    if not command.has_config:
        if command.record:
            usage = f"usage: {program} {command.record}=GRID/NAME KEY=VALUE …"
            title = "The grid sets all settings; only these can be overridden:"
            texts = descriptions(command.kind)
            lines = [f"  {k}:\n{_filled(texts[k], 8, 8)}" for k in texts if k in command.run]
        else:
            usage = command.usage
            title = f"Settings and their defaults ({MISSING} marks a required value):"
            lines = _lines(command.kind, {})
        return "\n\n".join([usage, description.strip(), title, "\n".join(lines)])
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from psld.commands.composed import composed, overrides_of, split_flags

    # Hydra's own settings apply only to sweeps.
    words = [word for word in split_flags(words)[1] if not word.startswith("hydra")]
    config = composed(command, overrides_of(command, words))
    content = cast(dict[str, Any], OmegaConf.to_container(config))
    choices = []
    for group, choice in reversed(HydraConfig.get().runtime.choices.items()):
        names = config_names(group.partition("@")[0])  # `sampler`, `guidance@sampler.guidance`
        listed = ", ".join(f"{name} (chosen)" if name == choice else name for name in names)
        choices.append(_filled(f"{group}: {listed}", 2, 8))
    about = f"Choices ({program} GROUP=CHOICE --help shows the settings of a choice):"
    parts = [
        command.usage,
        description.strip(),
        *([about, "\n".join(choices)] if choices else []),
        f"Settings and values (configs/{command.name}.yaml; {MISSING} marks a required value):",
        "\n".join(_lines(command.kind, content)),
        f"{program} KEY=VALUE … --cfg job prints the settings with these overrides.",
    ]
    return "\n\n".join(parts)


def _lines(kind: type[Settings], values: dict[str, Any], indent: int = 2) -> Iterator[str]:
    texts = descriptions(kind)
    for key, field in kind.model_fields.items():
        if field.exclude_if:  # Users do not set these fields, such as the digest of code.
            continue
        default = MISSING if field.is_required() else field.get_default(call_default_factory=True)
        value = over_default(field, values[key]) if key in values else default
        value = to_jsonable_python(value, by_alias=False, fallback=str)
        content = {"kind": value} if isinstance(value, str) else value  # A string may name a part.
        group = group_of(field, content)
        yield f"{' ' * indent}{key}:{f' {_text(value)}' if group is None else ''}"
        if key in texts:
            yield _filled(texts[key], indent + 6, indent + 6)
        if group is not None:
            yield from _lines(group, content, indent + 2)


def _filled(text: str, first: int, rest: int) -> str:
    margins: dict[str, Any] = {"initial_indent": " " * first, "subsequent_indent": " " * rest}
    return textwrap.fill(text, 100, **margins, break_on_hyphens=False)


def descriptions(kind: type[Settings]) -> dict[str, str]:
    """Return the docstring of each setting of a class as one line.

    The docstrings are read from the source code. pydantic could also collect them, but would do so
    in every process that defines the class.
    """
    found = {}
    for base in reversed([c for c in kind.__mro__ if issubclass(c, Settings)]):
        definition: Any = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        for field, text in pairwise(definition.body):
            match field, text:
                case ast.AnnAssign(target=ast.Name(key)), ast.Expr(ast.Constant(str(words))) if (
                    key in kind.model_fields and not kind.model_fields[key].exclude_if
                ):
                    found[key] = " ".join(words.split())
    return found


def _text(value: Any) -> str:
    """Format a value as YAML on one line."""
    if isinstance(value, str):
        return value
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=math.inf)
    return text.splitlines()[0]
