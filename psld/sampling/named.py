"""Check arguments of library calls; resolve samplers and processes by name. Imports no torch."""

import json
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import wraps
from inspect import signature
from typing import Any, ParamSpec, TypeVar, cast, get_type_hints

from pydantic import ConfigDict, ValidationError, validate_call

from psld.config.settings import Settings, parse, quoted, reading_a_file
from psld.diffusion.samplers import SamplerSettings
from psld.diffusion.settings import ProcessSettings
from psld.sampling.settings import SampleSettings
from psld.utils.errors import UserError, as_psld_errors, one_line

NOTED = ("norms", "start_of")
"""The keys of `psld.sampling.settings.sampler_content` that are not settings of a sampler."""
P = ParamSpec("P")
R = TypeVar("R")


class SamplerChoice(Settings):
    """The sampler and the process of a library call: two config groups of psld sample."""

    sampler: SamplerSettings
    process: ProcessSettings | None


def named_in(content: Mapping[str, Any], where: str) -> SamplerChoice:
    """Return the sampler and the process from the content of a psld sample config."""
    return parse(
        SamplerChoice, {key: content.get(key) for key in SamplerChoice.model_fields}, where
    )


def compose_named(overrides: Sequence[str], where: str) -> SamplerChoice:
    """Return the sampler and the process for KEY=VALUE overrides of psld sample.

    Raises UserError, prefixed by `where`, if an override is wrong.
    """
    # Imported late, because importing Hydra takes a third of a second.
    from psld.config.compose import compose_content

    words = [*overrides, "model=x", "output=x"]
    return named_in(compose_content("sample", words, where, SampleSettings.free()), where)


NamedProcess = str | Mapping[str, Mapping[str, object]]
"""The name of a process config, or the name with settings: {"psld": {"gamma": 0.25}}."""


def named_process(call: str, process: Any) -> ProcessSettings:
    """Return the settings of a process. A LinearProcess is returned unchanged.

    Raises UserError for unknown names and settings.
    """
    if hasattr(process, "build"):
        return process
    [(name, settings)] = ({process: {}} if isinstance(process, str) else process).items()
    words = [f"process={name}", *as_words("process", flat(settings))]
    return cast(ProcessSettings, compose_named(words, call).process)


def named_sampler(
    call: str,
    name: str,
    steps: int | None,
    options: Mapping[str, object],
    overrides: Sequence[str] = (),
) -> SamplerSettings:
    """Return the settings of a sampler config, changed by options and overrides.

    Raises UserError for unknown names and invalid values.
    """
    options = options if steps is None else {"steps": steps, **options}
    words = [f"sampler={name}", *overrides, *as_words("sampler", flat(options))]
    return compose_named(words, call).sampler


def by_class(
    label: Any, by_guide: bool, scale: float | None, options: Mapping[str, Any]
) -> tuple[list[str], dict[str, Any]]:
    """Return overrides and options for guidance to classes, with a guide or classifier-free.

    Without a label or a guide, the overrides are empty.

    Raises UserError for a scale without a label or a guide, and if `options` also has a guidance.
    """
    if label is None and not by_guide:
        if scale is not None:
            raise UserError("scale: there is no guidance to scale; give a label or a guide")
        return [], {**options}
    if "guidance" in options:
        raise UserError(
            "guidance: label and guide also choose a guidance; give either guidance or these"
        )
    label = quoted(label) if isinstance(label, str) else label
    given = {"guidance.label": label, "guidance.scale": scale}
    kind = "classifier" if by_guide else "classifier-free"
    words = [f"guidance@sampler.guidance={kind}"]
    return words, {key: each for key, each in given.items() if each is not None} | {**options}


def drawn_seed(seed: int | None) -> int:
    """Return the seed. For None, draw and print a random seed."""
    if seed is None:
        seed = secrets.randbits(31)
        print(f"seed={seed}", flush=True)
    return seed


def flat(settings: Mapping[str, object]) -> dict[str, object]:
    """Return settings in which nested mappings are replaced by dotted keys."""
    found: dict[str, object] = {}
    for key, value in settings.items():
        inner = flat(value) if isinstance(value, Mapping) else {"": value}
        found |= {f"{key}.{name}".rstrip("."): each for name, each in inner.items()}
    return found


def as_words(key: str, settings: Mapping[str, object]) -> list[str]:
    """Return settings as texts KEY.NAME=VALUE.

    Arrays and tensors are written as lists, and strings without quotes.
    """
    words = []
    for name, value in settings.items():
        text = json.dumps(value, default=lambda array: array.tolist(), ensure_ascii=False)
        words.append(f"{key}.{name}={value if isinstance(value, str) else text}")
    return words


def sampler_of_words(words: Sequence[str], where: str) -> SamplerChoice:
    """Return the sampler and the process from a shard's `words`, which `as_words` wrote."""
    content: dict[str, dict[str, Any]] = {"sampler": {}, "process": {}}
    for word in words:
        key, _, value = word.partition("=")
        group, _, name = key.partition(".")
        if group in content and name not in NOTED:
            with suppress(ValueError):  # Strings are not quoted.
                value = json.loads(value)
            content[group][name] = value
    with reading_a_file():
        return named_in({group: each or None for group, each in content.items()}, where)


def library_call(call: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a library function so that its arguments are checked against the type annotations.

    Errors start with `call` and name arguments, such as `steps`, instead of settings, such as
    `sampler.steps`.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        checked = validate_call(config=ConfigDict(arbitrary_types_allowed=True))(function)
        plain, form = get_type_hints(function), signature(function)
        names = [*form.parameters]

        @wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                with as_psld_errors():
                    return checked(*args, **kwargs)
            except ValidationError as error:
                if error.title != function.__qualname__:  # raised by code of a custom part
                    raise
                # In a union, report the alternative that fits best: its error has the longest path.
                found = max(error.errors(include_url=False), key=lambda each: len(each["loc"]))
                name = found["loc"][0]
                name = names[name] if isinstance(name, int) else name
                got = (
                    "" if found["type"] == "missing_argument" else f" (got {found['input']!r:.100})"
                )
                raise UserError(one_line(f"{call}: {name}: {found['msg']}{got}")) from None
            except UserError as error:
                text = str(error).removeprefix(f"{call}: ").replace("sampler.integrator", "sampler")
                text = re.sub(r"\bsampler\.(guidance\.)?(?=\w)", "", text)
                text = text.replace("the command's --help", "psld sample --help")
                raise UserError(f"{call}: {text}") from None

        given = [
            each.replace(annotation=plain.get(name, each.empty))
            for name, each in form.parameters.items()
        ]
        # With this signature, help() shows the types without their ranges.
        cast(Any, wrapper).__signature__ = form.replace(parameters=given)
        return wrapper

    return decorate
