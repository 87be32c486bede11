"""The base of all settings: typed, frozen, strict about unknown keys; and the words that set them.

Each domain keeps its settings next to its code (`psld/diffusion/settings.py`, ...). None of these
modules imports torch, because every Snakemake process reads them and must start fast.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Self, TypeVar, Union, cast, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import InitErrorDetails, PydanticCustomError

from psld.config.kinds import GROUPS
from psld.utils.errors import UserError, meant
from psld.utils.files import digest_of, read_json, retried_in_slurm, write_json

S = TypeVar("S", bound="Settings")

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
Name = Annotated[str, Field(pattern=NAME)]
"""A name of files and folders: letters, digits, dots, dashes and underscores."""

SHOWN = 10
"""The largest number of wrong keys that an error names: a long list may be wrong in every entry."""

DIGEST = "record_sha256"
"""The key with the SHA-256 of a record's other keys. It is the first, so no cut hides it."""


@dataclass(frozen=True)
class Neutral:
    """The value with which an option that was added later changes no result, and so no digest.

    It annotates the option, and is its default: `alpha: Annotated[float, Neutral(0.0)] = 0.0`.
    """

    value: Any


FREE = object()
"""Annotates a setting of how a job runs: `device: Annotated[str, FREE]`. All others decide the
result, unless they are neutral."""


class Settings(BaseModel):
    """A frozen group of settings; an unknown key or an impossible value is an error."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        validate_by_name=True,
        defer_build=True,  # until it is used: a job imports many classes, and uses few
    )

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        for name, field in cls.model_fields.items():
            for mark in field.metadata:
                if isinstance(mark, Neutral) and mark.value != field.default:
                    raise TypeError(f"{cls.__name__}.{name}: its neutral value is not its default")

    def __hash__(self) -> int:
        values = map(vars(self).get, type(self).model_fields)
        try:
            return hash((type(self), *values))
        except TypeError:  # of a list or a dict
            return hash(type(self))

    @classmethod
    def class_for(cls, content: Any) -> "type[Settings]":
        """Return the class of settings with this content: this one, but for a noun of parts."""
        return cls

    @classmethod
    def free(cls) -> set[str]:
        """Return the names of the settings of how a job runs."""
        return {name for name, field in cls.model_fields.items() if FREE in field.metadata}

    def identity(self) -> dict[str, Any]:
        """Return what decides the result, ready for JSON: no free setting, no null, none at its
        neutral value; in groups, too."""
        return self.deciding_in(self.model_dump(mode="json"))

    def deciding_in(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """Return what decides the result, of the content that these settings are written as."""
        decides = {}
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            is_left_out = any(mark in (FREE, Neutral(value)) for mark in field.metadata)
            if value is not None and not is_left_out and name in content:
                decides[name] = _identity(value, content[name])
        return decides

    @model_validator(mode="wrap")
    @classmethod
    def _read_over_defaults(cls, content: Any, check: ModelWrapValidatorHandler[Self]) -> Self:
        """Read groups over their defaults, and refuse booleans as numbers: `yes` would be 1."""
        if not isinstance(content, Mapping):
            return check(content)
        fields = cls.model_fields
        content = {
            name: over_default(fields[name], value) if name in fields else value
            for name, value in content.items()
        }
        settings = check(content)
        wrong = [
            InitErrorDetails(type=NO_NUMBER, loc=(name,), input=value)
            for name, value in content.items()
            if _is_converted_number(value, getattr(settings, name, value))
        ]
        if wrong:
            raise ValidationError.from_exception_data(cls.__name__, wrong)
        return settings


def _identity(value: Any, content: Any) -> Any:
    """Return the identity of a value with this content in JSON."""
    if isinstance(value, Settings):
        return value.identity()
    if isinstance(value, tuple | list):
        return [_identity(*each) for each in zip(value, content, strict=True)]
    if isinstance(value, dict):
        pairs = zip(value.values(), content.items(), strict=True)  # JSON has texts as keys.
        return {key: _identity(each, written) for each, (key, written) in pairs}
    # The order of a set differs from process to process.
    return sorted(content, key=str) if isinstance(value, set | frozenset) else content


def keyed_groups(kind: type[S], settings: Any, key: str = "") -> Iterator[tuple[str, S]]:
    """Yield all groups of a class in settings, in groups and lists too, outer ones first, with
    their dotted keys."""
    if isinstance(settings, kind):
        yield key, settings
    items: Any = settings if isinstance(settings, Settings) else ()
    if isinstance(settings, dict):
        items = settings.items()
    elif isinstance(settings, list | tuple):
        items = enumerate(settings)
    for name, each in items:
        yield from keyed_groups(kind, each, f"{key}.{name}".lstrip("."))


def groups_of(kind: type[S], settings: Any) -> list[S]:
    """Return all groups of a class in settings, outer ones first."""
    return [group for _, group in keyed_groups(kind, settings)]


def replaced(value: Any, make: Callable[[Any], Any]) -> Any:
    """Return settings with `make(group)` in place of each group, themselves and outer ones first.

    They are not checked again.
    """
    if isinstance(value, Settings):
        group = make(value)
        given = {name: (each, replaced(each, make)) for name, each in group}
        changed = {name: new for name, (old, new) in given.items() if new is not old}
        extra = group.model_extra or {}
        copy = group.model_copy(update={k: v for k, v in changed.items() if k not in extra})
        if not changed.keys().isdisjoint(extra):
            object.__setattr__(copy, "__pydantic_extra__", extra | changed)
        return copy if changed else group
    if isinstance(value, dict):
        new = {key: replaced(each, make) for key, each in value.items()}
        return new if any(new[key] is not value[key] for key in value) else value
    if isinstance(value, list | tuple):
        new = type(value)(replaced(each, make) for each in value)
        return new if any(a is not b for a, b in zip(new, value, strict=True)) else value
    return value


NO_NUMBER = PydanticCustomError("boolean", "A boolean is no number")


def _is_converted_number(given: Any, checked: Any) -> bool:
    """Check if a boolean, also one in a list, has become a number."""
    if isinstance(given, bool):
        return not isinstance(checked, bool)
    both = given, checked
    return all(isinstance(x, list | tuple) for x in both) and any(map(_is_converted_number, *both))


class MadeRecord(Settings):
    """A record with the software that made it, which `psld.utils.device.provenance` returns."""

    versions: dict[str, str | None]
    precision: dict[str, Any]
    """Flags of torch that decide how floats are rounded."""
    git_revision: str | None
    """Revision of the code; null outside a checkout."""


reads_a_file: ContextVar[bool] = ContextVar("reads_a_file", default=False)
"""True while the content of a file is checked, which may be a stranger's."""


@contextmanager
def reading_a_file() -> Iterator[None]:
    """Keep custom parts as data meanwhile: what a file names is not imported."""
    token = reads_a_file.set(True)
    try:
        yield
    finally:
        reads_a_file.reset(token)


def parse(kind: type[S], content: Mapping[str, Any], where: str) -> S:
    """Check `content` against the settings class `kind`.

    Raises UserError, in one line, with `where` and the keys that are unknown, missing or wrong.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        complaints = "; ".join(_complaints(error, kind, content)[:SHOWN])
        raise UserError(f"{where}: {complaints}") from None


def with_digest(content: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a record with its SHA-256, which `read_record` checks."""
    return {DIGEST: digest_of(content), **content}


def write_record(path: str | Path, record: Settings) -> None:
    """Write a record as JSON, atomically, with the SHA-256 of its content."""
    write_json(path, with_digest(record.model_dump(mode="json")))


def load_record(kind: type[S], path: str | Path, wrong: str, missing: str = "no such file") -> S:
    """Read a record of JSON. Raises UserError, with `wrong`, if it is damaged or something else."""
    content = read_json(path, missing=missing)
    if not isinstance(content, dict):
        raise UserError(wrong)
    if content.pop(DIGEST, None) != digest_of(content):
        raise UserError(f"{wrong} (damaged: its {DIGEST} differs)")
    with reading_a_file():
        return parse(kind, content, where=wrong)


read_record = retried_in_slurm(load_record)
"""`load_record` of a file that must be there: a Slurm job waits for another node's file."""


def _complaints(
    error: ValidationError, kind: type[Settings], content: Mapping[str, Any]
) -> list[str]:
    complaints = []
    for detail in cast(list[Any], error.errors(include_url=False)):
        key = _key(detail["loc"], content, detail["type"] == "missing")
        where = f"{key}: " if key else ""
        match detail["type"]:
            case "extra_forbidden":
                complaints.append(f"unknown key {key}{question(kind, content, key)}")
            case "missing":
                complaints.append(f"{key} is missing")
            case "value_error":
                complaints.append(f"{where}{detail['ctx']['error']}")
            case "string_pattern_mismatch" if detail["ctx"]["pattern"] == NAME:
                wrong = f"{key}: {detail['input']!r} is no name"
                complaints.append(f"{wrong}: letters a to z, digits, dots, dashes, underscores")
            case "model_attributes_type" if isinstance(detail["input"], str) and "." in key:
                choice = f"{key.rpartition('.')[2]}@{key}={detail['input']}"
                complaints.append(f"{key}: a group of settings; is {choice} meant?")
            case _:
                complaints.append(f"{where}{detail['msg']} (got {detail['input']!r})")
    return complaints


def changes(before: Settings, now: Settings, prefix: str = "") -> list[str]:
    """Return what differs, as `KEY was X, is Y`."""
    a, b = (each.model_dump(mode="json") for each in (before, now))
    keys = (key for key in a | b if a.get(key) != b.get(key))
    return [f"{prefix}{key} was {a.get(key)}, is {b.get(key)}" for key in keys]


def group_of(field: FieldInfo, content: Any) -> type[Settings] | None:
    """Return the settings class of a nested group; of several, that of the content's kind.

    None if there is no group, or if only pydantic can tell which of several it is.
    """
    if not isinstance(content, Mapping):
        return None
    is_union = get_origin(field.annotation) in (Union, UnionType)  # such as Average | None
    kinds: Any = get_args(field.annotation) if is_union else (field.annotation,)
    kinds = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Settings)]
    if isinstance(tag := field.discriminator, str):
        tags = {kind: get_args(kind.model_fields[tag].annotation) for kind in kinds}
        kinds = [kind for kind in kinds if content.get(tag) in tags[kind]]
    with suppress(ValueError):  # of no part
        return kinds[0].class_for(content) if len(kinds) == 1 else None
    return None


def over_default(field: FieldInfo, content: Any, default: Any = None) -> Any:
    """Return the content of a group over that of the default, if it is of the same class.

    A content with a kind, such as all that parts write, is whole.
    """
    if default is None and isinstance(content, Mapping):
        is_alone = not field.default_factory_takes_validated_data
        default = field.get_default(call_default_factory=is_alone)
    if not isinstance(default, Settings) or group_of(field, content) is not type(default):
        return content
    if getattr(default, "KEY", "") in content:
        return content
    fields = type(default).model_fields
    given = {name: getattr(default, name) for name in default.model_fields_set}
    for name, value in content.items():
        is_known = name in fields
        given[name] = over_default(fields[name], value, given.get(name)) if is_known else value
    return given


def groups_in(
    kind: type[Settings], content: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, type[Settings], Mapping[str, Any]]]:
    """Yield the name, the class and the content of settings and of all groups in them."""
    with suppress(ValueError):  # of no part
        kind = kind.class_for(content)
    yield prefix, kind, content
    for name, field in kind.model_fields.items():
        if group := group_of(field, content.get(name)):
            yield from groups_in(group, content[name], f"{prefix}.{name}".lstrip("."))


def unknown_key(kind: type[Settings], content: Mapping[str, Any]) -> str | None:
    """Return the first key of a content, groups included, that the class does not have."""
    for prefix, group, values in groups_in(kind, content):
        if values.get("code"):  # Those of a custom part as data are known when it is imported.
            continue
        if unknown := sorted(values.keys() - group.model_fields):
            return f"{prefix}.{unknown[0]}".lstrip(".")
    return None


def question(kind: type[Settings], content: Mapping[str, Any], key: str) -> str:
    """Return a question about the setting that is meant by an unknown key; empty without one."""
    place, dot, last = key.rpartition(".")
    groups = {prefix: group for prefix, group, _ in groups_in(kind, content)}
    if place not in groups:
        return ""
    if asked := meant(last, groups[place].model_fields, prefix=f"{place}{dot}"):
        return asked
    names = (f"{prefix}.{name}" for prefix in groups for name in groups[prefix].model_fields)
    if asked := meant(key, [name for name in names if name.endswith(f".{key}")], cutoff=0):
        return asked
    outer, _, name = place.rpartition(".")
    is_chosen = place and {"kind", "integrator"} & groups[place].model_fields.keys()
    group = f"{name}@" if outer and name in GROUPS else ""
    return f" (with another {group}{place}=…?)" if is_chosen else ""


def _key(location: tuple[int | str, ...], content: Any, is_missing: bool) -> str:
    """Return the key that the user wrote: pydantic's location without the names of variants."""
    parts = []
    for index, part in enumerate(location):
        is_last_of_missing = is_missing and index == len(location) - 1
        is_variant = isinstance(content, Mapping) and part not in content and not is_last_of_missing
        is_inside = isinstance(content, str | int | float) and not is_last_of_missing
        if is_variant or is_inside:
            continue
        parts.append(str(part))
        content = content.get(part) if isinstance(content, Mapping) else None
    return ".".join(parts)


# -- the words of a command line, KEY=VALUE, read without Hydra -----------------------------------
#
# A job of the workflow starts with words that need no grammar: texts, numbers, true, false and
# null. pydantic turns the text of a value into the type of its setting. Lists, quotes, sweeps and
# groups of configs are Hydra's (`psld.config.compose`).

PLAIN = re.compile(r"[A-Za-z_][\w.-]*=[^\[\]{}'\"$,\\]*")
"""A word whose value Hydra would read in the same way, apart from spaces and special characters."""


def key_of(word: str) -> str:
    """Return the dotted name of the setting of a word, without Hydra's prefixes and packages."""
    return word.partition("=")[0].rpartition("@")[2].lstrip("+~")


def is_plain(word: str) -> bool:
    """Check that a word is KEY=VALUE with a value that needs no grammar."""
    return PLAIN.fullmatch(word) is not None


def value_in(words: Iterable[str], key: str) -> str | None:
    """Return the last value that the words give to a key; None without one."""
    values = [word.partition("=")[2] for word in words if word.startswith(f"{key}=")]
    return values[-1] if values else None


def without(words: Iterable[str], *keys: str) -> list[str]:
    """Return the words that set none of these keys."""
    return [word for word in words if word.partition("=")[0] not in keys]


def updated(content: Mapping[str, Any], words: Iterable[str]) -> dict[str, Any]:
    """Return a settings' content with the values of the words; a dotted key leads into groups.

    Quotes around a value are left out, as Hydra does.
    """
    result = dict(content)
    for word in words:
        key, _, value = word.partition("=")
        first, _, rest = key.partition(".")
        if rest:
            inner = result.get(first)
            result[first] = updated(inner if isinstance(inner, dict) else {}, [f"{rest}={value}"])
        else:
            result[first] = None if value == "null" else re.sub(r"^(['\"])(.*)\1$", r"\2", value)
    return result


def in_hydra(content: Any) -> str:
    """Return a value as that of a word, also of dictionaries and lists."""
    if isinstance(content, dict):
        inner = (f"{key}:{in_hydra(each)}" for key, each in content.items())
        return f"{{{','.join(inner)}}}"
    if isinstance(content, list | tuple):
        return f"[{','.join(map(in_hydra, content))}]"
    return quoted(content) if isinstance(content, str) else json.dumps(content)


def quoted(text: str) -> str:
    """Return a text in quotes, so that Hydra takes it as it is."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
