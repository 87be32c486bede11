"""The base class of all settings (typed, frozen, strict about unknown keys), and their overrides.

Each package keeps its settings next to its code (`psld/diffusion/settings.py`, ...). None of these
modules imports torch, because every Snakemake process imports these modules and must start fast.
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
"""A name for files and folders, with letters, digits, dots, dashes and underscores."""

SHOWN = 10
"""The maximum number of wrong keys in an error message. A long list may have many wrong entries."""

DIGEST = "record_sha256"
"""The key of a record that holds the SHA-256 of all other keys. This key is the first key in the
file, so that a truncated file still contains the digest."""


@dataclass(frozen=True)
class Neutral:
    """Annotates a new option with the neutral value for which the option has no effect.

    With this value, the option is not part of a digest, so that older digests stay valid. The
    neutral value must be the default: `alpha: Annotated[float, Neutral(0.0)] = 0.0`.
    """

    value: Any


FREE = object()
"""Annotates a setting that does not change results, such as `device: Annotated[str, FREE]`. All
other settings affect results, unless they have their neutral value."""


class Settings(BaseModel):
    """A frozen group of settings; unknown keys and invalid values are errors."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        validate_by_name=True,
        defer_build=True,  # Build a class at its first use, because a job uses few of the classes.
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
        except TypeError:  # Lists and dictionaries have no hash.
            return hash(type(self))

    @classmethod
    def class_for(cls, content: Any) -> "type[Settings]":
        """Return the class that validates `content`: this class, or a subclass.

        A subclass is returned if this class is the base class of a kind of part.
        """
        return cls

    @classmethod
    def free(cls) -> set[str]:
        """Return the names of the settings that do not change results (`FREE`)."""
        return {name for name, field in cls.model_fields.items() if FREE in field.metadata}

    def identity(self) -> dict[str, Any]:
        """Return the settings that affect results, as JSON values, including nested groups.

        Free settings, null and neutral values are omitted.
        """
        return self.deciding_in(self.model_dump(mode="json"))

    def deciding_in(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """Return the entries of these serialized settings that affect results."""
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
        """Merge groups with their defaults, and reject booleans in place of numbers.

        Without this check, pydantic would convert `yes` to 1.
        """
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
    """Return the entries of a serialized value that affect results.

    Args:
        value: the value of a setting.
        content: the same value, serialized for JSON.
    """
    if isinstance(value, Settings):
        return value.identity()
    if isinstance(value, tuple | list):
        return [_identity(*each) for each in zip(value, content, strict=True)]
    if isinstance(value, dict):
        pairs = zip(value.values(), content.items(), strict=True)  # JSON converts keys to strings.
        return {key: _identity(each, written) for each, (key, written) in pairs}
    # Sort sets, because their iteration order differs between processes.
    return sorted(content, key=str) if isinstance(value, set | frozenset) else content


def keyed_groups(kind: type[S], settings: Any, key: str = "") -> Iterator[tuple[str, S]]:
    """Yield the dotted key and the value of each group of settings that is an instance of `kind`.

    Nested groups, lists and dictionaries are searched, too. Outer groups come before inner groups.
    """
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
    """Return all groups of settings that are instances of `kind`, outer groups first."""
    return [group for _, group in keyed_groups(kind, settings)]


def replaced(value: Any, make: Callable[[Any], Any]) -> Any:
    """Replace every group of settings with `make(group)`, outer groups first.

    The settings themselves are the outermost group. The result is not validated again.
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
    """Check if a boolean, possibly inside a list, was converted to a number."""
    if isinstance(given, bool):
        return not isinstance(checked, bool)
    both = given, checked
    return all(isinstance(x, list | tuple) for x in both) and any(map(_is_converted_number, *both))


class MadeRecord(Settings):
    """A record that contains its provenance: the versions and precision flags of the software."""

    versions: dict[str, str | None]
    precision: dict[str, Any]
    """Flags of torch that affect rounding."""
    git_revision: str | None
    """Git revision of the code; null outside a checkout."""


reads_a_file: ContextVar[bool] = ContextVar("reads_a_file", default=False)
"""True while a file is parsed that may come from an untrusted source."""


@contextmanager
def reading_a_file() -> Iterator[None]:
    """In this context, keep custom parts as data: do not import the modules that a file names."""
    token = reads_a_file.set(True)
    try:
        yield
    finally:
        reads_a_file.reset(token)


def parse(kind: type[S], content: Mapping[str, Any], where: str) -> S:
    """Return `content` as an instance of the settings class `kind`.

    Raises UserError with one line that contains `where` and the unknown, missing or invalid keys.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        complaints = "; ".join(_complaints(error, kind, content)[:SHOWN])
        raise UserError(f"{where}: {complaints}") from None


def with_digest(content: dict[str, Any]) -> dict[str, Any]:
    """Return a serialized record with its SHA-256, which `read_record` verifies."""
    return {DIGEST: digest_of(content), **content}


def write_record(path: str | Path, record: Settings) -> None:
    """Write a record as JSON, atomically, with the SHA-256 of its content."""
    write_json(path, with_digest(record.model_dump(mode="json")))


def load_record(kind: type[S], path: str | Path, wrong: str, missing: str = "no such file") -> S:
    """Read a JSON record. Raises UserError with the text `wrong` if the file is not a record."""
    content = read_json(path, missing=missing)
    if not isinstance(content, dict):
        raise UserError(wrong)
    if content.pop(DIGEST, None) != digest_of(content):
        raise UserError(f"{wrong} (damaged: its {DIGEST} differs)")
    with reading_a_file():
        return parse(kind, content, where=wrong)


read_record = retried_in_slurm(load_record)
"""Like `load_record`, for files that must exist. A Slurm job waits for a file from another node."""


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
                complaints.append(f"{wrong}: use letters a to z, digits, dots, dashes, underscores")
            case "model_attributes_type" if isinstance(detail["input"], str) and "." in key:
                choice = f"{key.rpartition('.')[2]}@{key}={detail['input']}"
                complaints.append(f"{key}: a group of settings; is {choice} meant?")
            case _:
                complaints.append(f"{where}{detail['msg']} (got {detail['input']!r})")
    return complaints


def changes(before: Settings, now: Settings, prefix: str = "") -> list[str]:
    """Return the differences between two versions of settings as lines "KEY was X, is Y"."""
    a, b = (each.model_dump(mode="json") for each in (before, now))
    keys = (key for key in a | b if a.get(key) != b.get(key))
    return [f"{prefix}{key} was {a.get(key)}, is {b.get(key)}" for key in keys]


def group_of(field: FieldInfo, content: Any) -> type[Settings] | None:
    """Return the settings class that validates `content` as the value of a field.

    The field may be a union of settings classes. Returns None if the field or the value is not a
    group of settings, or if only pydantic can determine the class.
    """
    if not isinstance(content, Mapping):
        return None
    is_union = get_origin(field.annotation) in (Union, UnionType)  # such as Average | None
    kinds: Any = get_args(field.annotation) if is_union else (field.annotation,)
    kinds = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Settings)]
    if isinstance(tag := field.discriminator, str):
        tags = {kind: get_args(kind.model_fields[tag].annotation) for kind in kinds}
        kinds = [kind for kind in kinds if content.get(tag) in tags[kind]]
    with suppress(ValueError):  # No part has this name.
        return kinds[0].class_for(content) if len(kinds) == 1 else None
    return None


def over_default(field: FieldInfo, content: Any, default: Any = None) -> Any:
    """Merge the given settings of a group with the default of its field.

    The given settings and the default are merged only if both have the same class. Settings that
    contain the name of a part, such as every serialized part, are complete and are not merged.
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
    """Yield the dotted name, the class and the values of settings and of each nested group."""
    with suppress(ValueError):  # No part has this name.
        kind = kind.class_for(content)
    yield prefix, kind, content
    for name, field in kind.model_fields.items():
        if group := group_of(field, content.get(name)):
            yield from groups_in(group, content[name], f"{prefix}.{name}".lstrip("."))


def unknown_key(kind: type[Settings], content: Mapping[str, Any]) -> str | None:
    """Return the first key in `content` or a nested group that is not a setting of the group."""
    for prefix, group, values in groups_in(kind, content):
        if values.get("code"):  # Skip custom parts, whose keys are unknown here.
            continue
        if unknown := sorted(values.keys() - group.model_fields):
            return f"{prefix}.{unknown[0]}".lstrip(".")
    return None


def question(kind: type[Settings], content: Mapping[str, Any], key: str) -> str:
    """Return a question that suggests a setting in place of an unknown key.

    Returns an empty string if no setting is similar.
    """
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
    """Return the key as the user wrote it.

    pydantic's location of an error may also contain names of union members, which are removed.
    """
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


# -- overrides of a command line, KEY=VALUE, read without Hydra ------------------------------------
#
# Overrides in the jobs of a workflow contain only strings, numbers, true, false and null. These
# values need no grammar, because pydantic converts a string to the type of its setting. Hydra
# parses lists, quotes, sweeps and config groups (`psld.config.compose`).

PLAIN = re.compile(r"[A-Za-z_][\w.-]*=[^\[\]{}'\"$,\\]*")
"""An override whose value has no special characters, so Hydra is not needed to parse the value."""


def key_of(word: str) -> str:
    """Return the dotted key of an override, without Hydra's prefixes and packages."""
    return word.partition("=")[0].rpartition("@")[2].lstrip("+~")


def is_plain(word: str) -> bool:
    """Check if an override is KEY=VALUE and its value needs no grammar (`PLAIN`)."""
    return PLAIN.fullmatch(word) is not None


def value_in(words: Iterable[str], key: str) -> str | None:
    """Return the value of the last override of a key.

    Returns None if no override sets the key, or if the value is empty.
    """
    values = [word.partition("=")[2] for word in words if word.startswith(f"{key}=")]
    return values[-1] if values else None


def without(words: Iterable[str], *keys: str) -> list[str]:
    """Return the overrides that set none of these keys."""
    return [word for word in words if word.partition("=")[0] not in keys]


def updated(content: Mapping[str, Any], words: Iterable[str]) -> dict[str, Any]:
    """Return serialized settings with the values of overrides.

    A dotted key sets a value in a nested group. Quotes around a value are removed, as in Hydra.
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
    """Write a value, possibly a dictionary or a list, in the grammar of Hydra's overrides."""
    if isinstance(content, dict):
        inner = (f"{key}:{in_hydra(each)}" for key, each in content.items())
        return f"{{{','.join(inner)}}}"
    if isinstance(content, list | tuple):
        return f"[{','.join(map(in_hydra, content))}]"
    return quoted(content) if isinstance(content, str) else json.dumps(content)


def quoted(text: str) -> str:
    """Quote a string, so that Hydra reads it literally."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
