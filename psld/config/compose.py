"""Compose settings with Hydra, from the folders of configs, as a command does."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from psld.config.locations import CONFIGS, config_file, config_folders
from psld.config.messages import entries_of, text_of
from psld.utils.errors import UserError

BASED = "record"
"""The name in Hydra's ConfigStore of a command's config with the values of a record."""


class OwnConfigs(SearchPathPlugin):
    """A Hydra plugin that puts the user's own configs before the shipped ones."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in config_folders()[:-1]:
            search_path.prepend("own", f"file://{folder}")


Plugins.instance().register(OwnConfigs)


@contextmanager
def refusing(where: str) -> Iterator[None]:
    """Turn what Hydra raises for wrong words or configs into a UserError, prefixed by `where`."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"{where}: {text_of(error).removeprefix(f'{where}: ')}") from None
    except yaml.YAMLError as error:  # It names the file and the line.
        raise UserError(f"{where}: not valid YAML ({text_of(error)})") from None
    # process=inf, process=[1], 5,000 digits, lists in lists in …; hydra.run.dir=/proc/x
    except (TypeError, ValueError, RecursionError, FileNotFoundError) as error:
        raise UserError(f"{where}: not a setting ({text_of(error)})") from None


def compose_whole(name: str, overrides: Sequence[str], where: str) -> DictConfig:
    """Return a user's or a shipped NAME.yaml with these overrides and with Hydra's own part.

    Raises UserError, prefixed by `where`, if it does not compose.
    """
    GlobalHydra.instance().clear()
    with refusing(where), initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose(name, overrides=list(overrides), return_hydra_config=True)


def compose_content(name: str, overrides: Sequence[str], where: str) -> dict[str, Any]:
    """Return the resolved content of configs/NAME.yaml with these overrides, like the above."""
    config = compose_whole(name, overrides, where)
    with refusing(where), answering_resolvers(config):
        return content_of(without_hydra(config), where)


def store_based(name: str, base: Mapping[str, Any], overrides: Sequence[str], where: str) -> str:
    """Store configs/NAME.yaml with the values of `base`, and return the name to compose.

    The overrides then apply on top. A group that `base` holds is left out of the defaults, unless
    an override chooses a config of this group: then that part of `base` is left out.
    """
    chosen = {word.partition("=")[0].lstrip("+~") for word in overrides}
    values = dict(base)
    with refusing(where):
        listed, content = _written_out(name)
    defaults = []
    for entry in listed:
        group = next(iter(entry)) if isinstance(entry, dict) else None
        place = (group or "").rpartition("@")[2].split(".")
        if group in chosen:
            values = _dropped(values, place)
        if group is None or group in chosen or not _holds(values, place):
            defaults.append(entry)
    node = {"defaults": [*defaults, "_self_"], **content, **values}
    ConfigStore.instance().store(BASED, node)
    return BASED


def _written_out(name: str) -> tuple[list[Any], dict[str, Any]]:
    """Return defaults and values of configs/NAME.yaml, with those of a config that it extends."""
    values = yaml.safe_load(config_file("", name).read_text("utf-8"))
    defaults: list[Any] = []
    inherited: dict[str, Any] = {}
    for entry in values.pop("defaults"):
        if isinstance(entry, dict) or entry == "command_line":
            defaults.append(entry)
        elif entry != "_self_":
            more, inherited = _written_out(entry)
            defaults += more
    return defaults, inherited | values


def _holds(values: Mapping[str, Any], place: Sequence[str]) -> bool:
    for key in place:
        if not isinstance(values, Mapping) or key not in values:
            return False
        values = values[key]
    return True


def _dropped(values: Mapping[str, Any], place: Sequence[str]) -> dict[str, Any]:
    """Return the values without those at a place; the guidance of a sampler is a place of its own.

    Choosing `sampler` keeps `sampler.guidance`.
    """
    first, *rest = place
    if first not in values:
        return dict(values)
    inner = values[first]
    kept = _dropped(inner, rest) if rest else {k: inner[k] for k in inner.keys() & {"guidance"}}
    return {**values, first: kept} if kept else {k: v for k, v in values.items() if k != first}


def without_hydra(config: DictConfig) -> DictConfig:
    """Return the command's own part of a composed config."""
    return OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])


@contextmanager
def answering_resolvers(config: DictConfig) -> Iterator[None]:
    """Resolve `${hydra:…}` with this config in the context, not with the running command's."""
    current = HydraConfig.instance()
    before, current.cfg = current.cfg, config
    try:
        yield
    finally:
        current.cfg = before


def content_of(config: DictConfig, where: str) -> dict[str, Any]:
    """Return the resolved content of a config.

    Raises UserError, prefixed by `where`, if required values (`???`) are missing.
    """
    entries = entries_of(OmegaConf.to_container(config))
    if missing := [f"{key}=…" for key, value in entries if value == MISSING]:
        raise UserError(f"{where}: missing: {', '.join(missing)}")
    return OmegaConf.to_container(config, resolve=True)
