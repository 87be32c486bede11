"""Calls of the library: their arguments, and samplers and processes by name. Imports no torch."""

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
"""What a sampler's content says besides its settings (`psld.sampling.settings.sampler_content`)."""
P = ParamSpec("P")
R = TypeVar("R")


class SamplerChoice(Settings):
    """The groups of psld sample's config that a call names."""

    sampler: SamplerSettings
    process: ProcessSettings | None


def named_in(content: Mapping[str, Any], where: str) -> SamplerChoice:
    """Return the sampler and the process in the content of psld sample's config."""
    return parse(
        SamplerChoice, {key: content.get(key) for key in SamplerChoice.model_fields}, where
    )


def compose_named(overrides: Sequence[str], where: str) -> SamplerChoice:
    """Return the sampler and the process of words. Raises UserError, prefixed by `where`."""
    # Hydra takes a third of a second to import; the library does without it until a call.
    from psld.config.compose import compose_content

    words = [*overrides, "model=x", "output=x"]
    return named_in(compose_content("sample", words, where, SampleSettings.free()), where)


NamedProcess = str | Mapping[str, Mapping[str, object]]
"""A process by the name of its config, with settings or without: {"psld": {"gamma": 0.25}}."""


def named_process(call: str, process: Any) -> ProcessSettings:
    """Return the settings of a process that a call names; a LinearProcess is its own settings.

    Raises UserError for unknown names and settings.
    """
    if hasattr(process, "build"):
        return process
    [(name, settings)] = ({process: {}} if isinstance(process, str) else process).items()
    words = [f"process={name}", *as_words("process", settings)]
    return cast(ProcessSettings, compose_named(words, call).process)


def named_sampler(
    call: str,
    name: str,
    steps: int | None,
    options: Mapping[str, object],
    overrides: Sequence[str] = (),
) -> SamplerSettings:
    """Return the settings of a sampler that a call names, with options.

    Raises UserError for unknown names and impossible values.
    """
    options = options if steps is None else {"steps": steps, **options}
    options = {
        f"{key}.{name}" if name else key: each
        for key, value in options.items()
        for name, each in (value.items() if isinstance(value, Mapping) else [("", value)])
    }
    words = [f"sampler={name}", *overrides, *as_words("sampler", options)]
    return compose_named(words, call).sampler


def by_class(
    label: Any, by_guide: bool, scale: float | None, options: Mapping[str, Any]
) -> tuple[list[str], dict[str, Any]]:
    """Return the words and options of guidance to classes, by a guide or without; none without it.

    Raises UserError for a scale without one, and if there is a guidance already, which would win.
    """
    if label is None and not by_guide:
        if scale is not None:
            raise UserError("scale is the strength of guidance; give a label or a guide")
        return [], {**options}
    if "guidance" in options:
        raise UserError("guidance: a label or a guide chooses one; give either")
    label = quoted(label) if isinstance(label, str) else label
    given = {"guidance.label": label, "guidance.scale": scale}
    kind = "classifier" if by_guide else "classifier-free"
    words = [f"guidance@sampler.guidance={kind}"]
    return words, {key: each for key, each in given.items() if each is not None} | {**options}


def drawn_seed(seed: int | None) -> int:
    """Return the seed; None is a random one, which is printed."""
    if seed is None:
        seed = secrets.randbits(31)
        print(f"seed={seed}", flush=True)
    return seed


def as_words(key: str, settings: Mapping[str, object]) -> list[str]:
    """Return settings as KEY.NAME=VALUE; arrays and tensors are lists, and a text is as it is."""
    words = []
    for name, value in settings.items():
        text = json.dumps(value, default=lambda array: array.tolist(), ensure_ascii=False)
        words.append(f"{key}.{name}={value if isinstance(value, str) else text}")
    return words


def sampler_of_words(words: Sequence[str], where: str) -> SamplerChoice:
    """Return the sampler and the process in a shard's words, which `as_words` wrote."""
    content: dict[str, dict[str, Any]] = {"sampler": {}, "process": {}}
    for word in words:
        key, _, value = word.partition("=")
        group, _, name = key.partition(".")
        if group in content and name not in NOTED:
            with suppress(ValueError):  # A text is not quoted.
                value = json.loads(value)
            content[group][name] = value
    with reading_a_file():
        return named_in({group: each or None for group, each in content.items()}, where)


def library_call(call: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Check the arguments of a function of the library by their types.

    Errors name the call, and arguments, such as `steps`, in place of settings, such as
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
                if error.title != function.__qualname__:  # of a custom part's own
                    raise
                # Of a union, the deepest error is that of the alternative that fits best.
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
        # What help() shows: the types without their ranges.
        cast(Any, wrapper).__signature__ = form.replace(parameters=given)
        return wrapper

    return decorate
