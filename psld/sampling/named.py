"""Samplers and processes by the names of their configs. Imports no torch."""

from collections.abc import Mapping, Sequence
from typing import Any

from psld.config.settings import Settings, parse
from psld.diffusion.samplers import SamplerSettings
from psld.diffusion.settings import ProcessSettings
from psld.utils.arguments import as_words
from psld.utils.errors import UserError


class _Sampler(Settings):
    sampler: SamplerSettings


class _Process(Settings):
    process: ProcessSettings


def _compose(overrides: Sequence[str], where: str) -> dict[str, Any]:
    """Return the content of psld sample's config."""
    # Hydra takes a third of a second to import; the library does without it until a call.
    from psld.config.compose import compose_content

    return compose_content("sample", [*overrides, "model=x", "output=x"], where)


def sampler_in(content: Mapping[str, Any], where: str) -> SamplerSettings:
    """Return the settings of the sampler in the content of psld sample's config."""
    return parse(_Sampler, {"sampler": content["sampler"]}, where).sampler


def compose_sampler(overrides: Sequence[str], where: str) -> SamplerSettings:
    """Compose a sampler's settings from overrides of psld sample."""
    return sampler_in(_compose(overrides, where), where)


NamedProcess = str | Mapping[str, Mapping[str, object]]
"""A process by the name of its config, with settings or without: {"psld": {"gamma": 0.25}}."""


def named_process(call: str, process: NamedProcess) -> ProcessSettings:
    """Return the settings of a process that a call names.

    Raises UserError for unknown names and settings.
    """
    process = {process: {}} if isinstance(process, str) else process
    if not isinstance(process, Mapping) or len(process) != 1:
        raise UserError(
            'process is a name or {name: settings}: {"psld": {"gamma": 0.25}}, or with matrices of '
            'your own {"recipe": {"D": …, "Q": …, "S": …}}'
        )
    [(name, settings)] = process.items()
    content = _compose([f"process={name}", *as_words("process", settings)], call)
    return parse(_Process, {"process": content["process"]}, call).process


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
    words = [*overrides, *as_words("sampler", options)]
    try:
        return compose_sampler([f"sampler={name}", *words], call)
    except UserError:
        plain = type(compose_sampler([f"sampler={name}"], call)).model_fields
        if unknown := [key for key in options if key.partition(".")[0] not in plain]:
            taken = ", ".join(key for key in plain if key not in ("integrator", "guidance"))
            raise UserError(f"{name} takes no {unknown[0]}; it takes {taken}") from None
        raise
