"""Compose settings with Hydra from the config folders.

This file depends on internals of Hydra 1.3; tests/config/test_shipped.py fails if these internals
change.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NoReturn, cast

import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository
from hydra._internal.defaults_list import create_defaults_list
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import setup_globals
from hydra.errors import HydraException, OverrideParseException
from hydra.plugins.config_source import ConfigResult
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

from psld.config.kinds import GROUPS, SHIPPED
from psld.config.locations import CONFIGS, config_file, config_folders
from psld.config.settings import key_of
from psld.utils.errors import UserError, entries_of, meant, one_line, text_of


class OwnConfigs(SearchPathPlugin):
    """A Hydra plugin that searches the user's configs before the shipped configs."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in config_folders()[:-1]:
            search_path.prepend("own", f"file://{folder}")


Plugins.instance().register(OwnConfigs)

WITH_KIND = re.compile(r"\{([^{}]*,)?\s*kind\s*:((?!\}\s*,).)*\}")
"""A value that is a dictionary with the settings of one part, not a sweep over several parts."""
PLAIN_KEY = re.compile(r"(?!hydra\b)[A-Za-z_][\w.]*")
"""The key of an override that sets a setting. If a config group has the same name as the key, the
override chooses a config of this group instead."""
RECORDABLE = re.compile(r"runtime\.choices\b|job\.(name|num|override_dirname)$")
"""The keys for which the value of `${hydra:KEY}` contains no path or environment variable."""


ALSO = {
    "metric": ["MEASURE@EXTRACTOR, such as kernel@pixels"],
    **{key: ["MODULE:CLASS of a custom part"] for key in ("network", "process", "sampler")},
}
"""The values that a config group accepts in addition to the names of its configs."""


def text_of_hydra(error: Exception) -> str:
    """Format an error of Hydra as one line, without advice that does not apply to psld."""
    text = text_of(error)
    if isinstance(error, OverrideParseException):
        word = one_line(error.override).removeprefix("++")
        key, _, value = word.partition("=")
        bare = value.strip("'\"")
        if not re.search(r"[^\w.-]", value, re.ASCII):
            return f"{word}: not of the form KEY=VALUE"
        return f"{word}: cannot be read; put a text in quotes, e.g. '{key}=\"{bare}\"'"
    if choice := re.search(r"Could not find '(\S+)/(\S+)' Available options in '\S+': (.*)", text):
        group, name, rest = choice.groups()
        known = rest.partition(" Config search path")[0].split()
        listed = ", ".join([*known, *ALSO.get(group, ())])
        return f"{group}={name}: no such {group}{meant(name, known)}; there are: {listed}"
    if choice := re.match(r"Error resolving interpolation '(.+)', possible", text):
        return f"{choice[1]} cannot choose a config; write its name"
    if unknown := re.search(r"Could not override '(\S+)'\. No match", text):
        return f"no setting is called {unknown[1]}; the command's --help lists them"
    text = text.partition(" To append to your default list ")[0]
    text = text.removeprefix("ValueError raised while resolving interpolation: ")
    return re.sub(r" full_key: (\S+) object_type=\w+$", r" (\1)", text)


@contextmanager
def refusing(where: str) -> Iterator[None]:
    """Convert Hydra's errors about overrides or configs to UserErrors with the prefix `where`."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"{where}: {text_of_hydra(error).removeprefix(f'{where}: ')}") from None
    except yaml.YAMLError as error:  # The error names the file and the line.
        raise UserError(f"{where}: not valid YAML ({text_of(error)})") from None
    # Examples: process=inf, process=[1], a number with 5,000 digits, deeply nested lists,
    # hydra.run.dir=/proc/x.
    except (TypeError, ValueError, RecursionError, FileNotFoundError) as error:
        raise UserError(f"{where}: not a setting ({text_of(error)})") from None


class Composer:
    """Composes configs like Hydra, but without the slow composition of the config group `hydra`.

    Each file is read only once, so a Composer must not be used after a file has changed. The
    argument `free` is passed to `content_of`.
    """

    def __init__(self, free: Collection[str] = ()) -> None:
        setup_globals()
        self._free = free
        self._loader = ConfigLoaderImpl(create_config_search_path(str(CONFIGS)))
        self._files = CachingConfigRepository(self._loader.repository)
        # By default, the delegate is a copy of the repository. The copy would lack the parts that
        # later overrides store.
        self._files.delegate = self._loader.repository
        self._contents: dict[tuple[str, ...], dict[str, Any]] = {}
        nothing = ConfigResult("psld", "", OmegaConf.create(), {"package": None}, defaults_list=[])
        self._files.cache["config_path=command_line"] = (
            nothing  # Skip this config, which only sets the group `hydra`.
        )

    def config(self, name: str, overrides: Sequence[str], where: str) -> DictConfig:
        """Compose the user's or the shipped config NAME.yaml with these overrides.

        Raises UserError with the prefix `where` if the composition fails.
        """
        # A defaults list may read environment variables, too.
        with refusing(where), without_environment():
            parsed = OverridesParser.create().parse_overrides(for_hydra(overrides))
            self._loader.validate_sweep_overrides_legal(parsed, RunMode.RUN, from_shell=False)
            chosen = create_defaults_list(
                self._files, name, parsed, prepend_hydra=False, skip_missing=False
            )
            config = self._loader._compose_config_from_defaults_list(chosen.defaults, self._files)
            self._loader._apply_overrides_to_config(chosen.config_overrides, config)
        # Resolve `${hydra:runtime.choices.GROUP}` with the choices of this config.
        choices = {"runtime": {"choices": chosen.overrides.known_choices}}
        cast(Any, HydraConfig.instance()).cfg = OmegaConf.create({"hydra": choices})
        return config

    def content(self, name: str, overrides: Sequence[str], where: str) -> dict[str, Any]:
        """Return the resolved settings of a config.

        Raises UserError if the composition fails or a required value is missing.
        """
        key = name, *overrides
        if key not in self._contents:
            with refusing(where):
                content = content_of(self.config(name, overrides, where), where, self._free)
            self._contents[key] = content
        return self._contents[key]


def compose_content(
    name: str, overrides: Sequence[str], where: str, free: Collection[str] = ()
) -> dict[str, Any]:
    """Return the resolved settings of the user's or the shipped config NAME.yaml with overrides."""
    return Composer(free).content(name, overrides, where)


def content_of_words(words: Sequence[str], where: str) -> dict[str, Any]:
    """Return the settings of a part that consists only of overrides, without a config."""
    # The prefix `part.` keeps `for_hydra` from treating the key of a setting as a config group.
    config = OmegaConf.create({"part": {}})
    with refusing(where):
        parsed = OverridesParser.create().parse_overrides(for_hydra([f"part.{w}" for w in words]))
        ConfigLoaderImpl.validate_sweep_overrides_legal(parsed, RunMode.RUN, from_shell=False)
        ConfigLoaderImpl._apply_overrides_to_config(parsed, config)
        return content_of(config, where)["part"]


def for_hydra(words: Sequence[str]) -> list[str]:
    """Convert the overrides of a command to overrides of Hydra.

    The result contains first the choices of config groups and then the settings, outer settings
    before inner settings. Configs contain only the values that differ from the defaults of the
    settings classes, so each setting needs the prefix ++. The settings classes reject unknown keys.
    """
    pairs = [(key, value) for key, _, value in (word.partition("=") for word in words)]
    parts = {k: v for k, v in dict(pairs).items() if WITH_KIND.fullmatch(v) and is_group(k)}
    choices, settings = [f"~{group}" for group in parts], [*parts.items()]
    for word, (key, value) in zip(words, pairs, strict=True):
        is_choice = is_group(key) or not PLAIN_KEY.fullmatch(key)
        if is_choice and key not in parts and not WITH_KIND.fullmatch(value):
            choices.append(word)
            for kind in value.split(","):
                _name_part(key.partition("@")[0], kind)
        elif not is_choice:
            settings.append((key, value))
    settings.sort(key=lambda setting: setting[0].count("."))
    return [*choices, *(each for setting in settings for each in _updates(*setting, words))]


def _updates(key: str, value: str, words: Sequence[str]) -> Iterator[str]:
    """Yield Hydra's overrides for one setting.

    A value that is the name or the dictionary of a part replaces the complete part with all its
    settings. For example, `training.optimizer=adamw` may precede
    `training.optimizer.weight_decay=1`.
    """
    has_settings = any(word.startswith(f"{key}.") for word in words)
    if (value.startswith("{") or has_settings) and not is_group(key):
        yield f"++{key}=null"
    is_name = has_settings and value != "null" and not value.startswith("{")
    yield f"++{key}{'.kind' if is_name else ''}={value}"


def is_group(key: str) -> bool:
    """Check if a key is the name of a config group."""
    return any((folder / key).is_dir() for folder in config_folders())


def _name_part(group: str, kind: str) -> None:
    """Allow overrides that choose a part without a config file, such as network=mynets:Mixer."""
    if group in GROUPS and (":" in kind or kind in SHIPPED[group]) and not config_file(group, kind):
        ConfigStore.instance().store(kind, {GROUPS[group]: kind}, group=group)


def over(words: Iterable[str], typed: Sequence[str]) -> list[str]:
    """Apply the overrides of a command line on top of the overrides of a grid.

    An override of the command line replaces all overrides of the grid for the same setting or
    config group. An override that replaces a group also removes the grid's overrides of settings in
    this group, but not in nested groups: `sampler=em` keeps the grid's overrides for
    `guidance@sampler.guidance`.
    """
    words, changed = list(words), {key_of(word) for word in typed}
    groups = {key_of(word) for word in words if "." not in word.partition("=")[0].partition("@")[0]}

    def place(word: str) -> str:
        """Return the innermost group that contains the setting of an override."""
        key = key_of(word)
        return max((g for g in groups if f"{key}.".startswith(f"{g}.")), key=len, default=key)

    return [*(word for word in words if place(word) not in changed), *typed]


def name_dataset(described: Mapping[str, Any]) -> str:
    """Return an override that chooses a dataset with these settings, without a config file."""
    ConfigStore.instance().store("described", dict(described), group="dataset")
    return "dataset=described"


@contextmanager
def without_environment() -> Iterator[None]:
    """Reject interpolations that read environment variables or paths of this machine."""

    def refuse(text: str) -> NoReturn:
        reason = "would copy a value of this machine, perhaps a secret, into a record"
        raise ValueError(f"${{{text}}} {reason}; write the value")

    def of_hydra(key: str) -> Any:
        if not RECORDABLE.match(key):
            refuse(f"hydra:{key}")
        return OmegaConf.select(cast(DictConfig, HydraConfig.get()), key)

    def of_environment(name: str, *_: Any) -> None:
        refuse(f"oc.env:{name}")

    OmegaConf.register_new_resolver("hydra", of_hydra, replace=True)
    OmegaConf.register_new_resolver("oc.env", of_environment, replace=True)
    try:
        yield
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)
        setup_globals()


def content_of(config: DictConfig, where: str, free: Collection[str] = ()) -> dict[str, Any]:
    """Return the resolved settings of a config.

    Only the settings in `free` may read environment variables, because records do not contain these
    settings.

    Raises OmegaConfBaseException if any other setting reads an environment variable. Raises
    UserError with the prefix `where` if required values (`???`) are missing.
    """
    content = cast(dict[str, Any], OmegaConf.to_container(config))
    if missing := [f"{key}=…" for key, value in entries_of(content) if value == MISSING]:
        raise UserError(f"{where}: missing: {', '.join(missing)}")
    for key in content:
        with nullcontext() if key in free else without_environment():
            value = config[key]
            is_group = OmegaConf.is_config(value)
            content[key] = OmegaConf.to_container(value, resolve=True) if is_group else value
    return content
