"""Parts: what a researcher exchanges. Frozen settings with a `build`, named by a kind.

A kind is the name of a shipped part, or MODULE:CLASS for one of one's own (`psld.utils.code`).
"""

from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib import import_module
from pathlib import Path
from types import FunctionType
from typing import Any, ClassVar, Self, cast

from pydantic import (
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from psld.config.kinds import OF_A_TRAINING, SHIPPED
from psld.config.reads import Read
from psld.config.settings import APART, IDENTITY, Neutral, S, Settings, groups_of, parse
from psld.utils.code import (
    check_named,
    code_of,
    find_code,
    find_version,
    load_class,
    loaded_version,
    name_of,
    trust,
)
from psld.utils.errors import PSLDError, UserError, explained, meant, text_of


class Part(Settings):
    """What a researcher may exchange. A noun, such as a network, is a class below this one.

    The class of a noun takes the settings of any of its parts: `Network.model_validate` returns a
    part of the kind in its argument. A text is a part with the defaults of this kind.
    """

    model_config = ConfigDict(polymorphic_serialization=True)

    KEY: ClassVar[str] = "kind"
    """The key of the kind."""
    noun: ClassVar[str] = "part"
    """A key of `psld.config.kinds.SHIPPED`, which the class of a noun gives."""
    needs_kind: ClassVar[bool] = True
    """Settings without a kind are refused: a word below a part that a config names by a text alone
    would leave them so, and they would be those of another part."""

    told: ClassVar[tuple[str, ...]] = ()
    """Attributes of the class that are written with the settings of one's own: a reader without its
    code needs them."""

    code: str | None = Field(default=None, exclude_if=lambda code: code is None)
    """The digest of the code of a part of one's own; it is found, not given."""

    @classmethod
    def __pydantic_init_subclass__(cls, **options: Any) -> None:
        super().__pydantic_init_subclass__(**options)
        for name, field in cls.model_fields.items():
            above = [vars(kind).get(name) for kind in cls.__mro__[1:] if not _is_own(kind)]
            hides = any(isinstance(each, property | classmethod | FunctionType) for each in above)
            if hides or (name == "code" and field.annotation != str | None):
                raise TypeError(f"{cls.__name__}: {name} is a name of psld; call it otherwise")

    @classmethod
    def class_for(cls, content: Any) -> "type[Part]":
        """Return the class of a part's settings. Raises ValueError if there is none."""
        if "noun" not in vars(cls):
            return cls
        content = {cls.KEY: content} if isinstance(content, str) else content
        default = None if content and cls.needs_kind else cls.model_fields[cls.KEY].default
        kind, shipped = content.get(cls.KEY, default), SHIPPED[cls.noun]
        if isinstance(kind, str) and kind in shipped:
            module, _, name = shipped[kind].partition(":")
            return getattr(import_module(module), name)
        known = f"there are: {', '.join([*shipped, 'MODULE:CLASS of your own'])}"
        if not isinstance(kind, str):
            raise ValueError(f"{cls.KEY} is missing; {known}")
        if ":" not in kind:
            raise ValueError(f"no {cls.noun} {kind!r}{meant(kind, shipped)}; {known}")
        try:
            return _own(cls, kind, content.get("code"), content.get("class"))
        except UserError as error:
            raise ValueError(f"{error}") from None

    @model_validator(mode="wrap")
    @classmethod
    def _of_its_kind(cls, content: Any, check: ModelWrapValidatorHandler[Self]) -> Self:
        content = {cls.KEY: content} if isinstance(content, str) else content
        if not isinstance(content, Mapping):
            return check(content)
        if "noun" in vars(cls):
            with naming_class(kind := cls.class_for(content)):
                return cast(Self, kind.model_validate(content))
        if _is_own(cls):
            free = content.get("free") or {}
            rest = {key: value for key, value in content.items() if key not in {*APART, "code"}}
            content = {**free, **rest, cls.KEY: name_of(cls), "code": _code_of(cls)}
        part = check(content)
        if part.code:
            _check_written(part)
        return part

    @model_validator(mode="after")
    def _reads_in_a_training(self) -> Self:
        if self.noun not in OF_A_TRAINING and (reads := groups_of(Read, self)):
            kind = getattr(self, self.KEY)
            raise ValueError(f"{kind}: reads a {reads[0].noun}; only a part of a training may")
        return self

    @model_serializer(mode="wrap")
    def _with_free_apart(
        self, dump: SerializerFunctionWrapHandler, info: SerializationInfo
    ) -> dict[str, Any]:
        """Write what decides the result and what does not apart: a reader may lack the class.

        Without nulls, it is for a result, and only what decides is written.
        """
        content, is_short = dump(self), bool(info.exclude_none)
        if isinstance(self, UnknownPart):  # nothing but what was written
            kept = self.model_fields_set - ({"free", IDENTITY} if is_short else set())
            return {key: each for key, each in content.items() if key in kept}
        if not _is_own(type(self)):
            return content
        is_whole = info.mode == "json" and not is_short
        decides = self.deciding_in(content) if is_whole else {}
        for name in type(self).model_computed_fields:
            content.pop(name, None)
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if name in content and Neutral(value) in field.metadata:
                del content[name]
            elif name in content and isinstance(value, set | frozenset):
                content[name] = sorted(content[name], key=str)
        free = {name: content.pop(name) for name in sorted(self.free() & content.keys())}
        if is_whole and decides != _deciding(content):  # as with a free setting of a group in it
            content[IDENTITY] = decides
        told = {name: getattr(self, name) for name in self.told}
        told = {name: sorted(x) if isinstance(x, Set) else x for name, x in told.items()}
        apart = {"free": {} if is_short else free, "class": told}
        return content | {key: each for key, each in apart.items() if each}


class UnknownPart:
    """A part of one's own whose code is not here: it can be compared and shown, but not built."""

    evaluations = None
    """Of a network: only its code says how many a sampler or a guidance takes."""

    def identity(self) -> dict[str, Any]:
        content = cast(Part, self).model_dump(mode="json")
        return content.get(IDENTITY) or _deciding(content)

    def build(self, *_: Any, **__: Any) -> Any:
        raise UserError(self.missing)

    open = build

    @property
    def missing(self) -> str:
        part = cast(Any, self)
        kind = getattr(part, part.KEY)
        return (
            f"{kind}: its file is missing or has changed (its code was {str(part.code)[:12]}); "
            "get that version back, or plan again"
        )


def _check_written(part: Part) -> None:
    """Raise ValueError if JSON cannot hold a setting, such as a function."""
    try:
        part.model_dump_json()
    except ValueError as error:  # of pydantic, or of bytes that are no text
        reason = f"{error}".rpartition("Error: ")[2]
        raise ValueError(f"JSON cannot hold a setting: {reason}; name it by a text") from None


def _deciding(content: Any) -> Any:
    if isinstance(content, dict):
        return {k: _deciding(v) for k, v in content.items() if v is not None and k not in APART}
    return [_deciding(each) for each in content] if isinstance(content, list) else content


_imports_nothing = ContextVar("_imports_nothing", default=False)


@contextmanager
def importing_nothing() -> Iterator[None]:
    """Read every part of one's own that has a digest as an `UnknownPart`."""
    token = _imports_nothing.set(True)
    try:
        yield
    finally:
        _imports_nothing.reset(token)


def with_code_of(copies: str | Path, settings: S) -> S:
    """Return settings whose parts are known also by the copies of their code in a folder."""
    if is_unknown(settings):
        trust(copies)
        return type(settings).model_validate(settings.model_dump())
    return settings


def noun_of(name: str) -> type[Part]:
    """Return the noun of the class MODULE:CLASS. Raises UserError if it is no part."""
    return next(kind for kind in _own(Part, name, None).__mro__ if "noun" in vars(kind))


def check_known(*settings: Settings) -> None:
    """Raise UserError for a part whose code is not here."""
    for part in parts_in(settings):
        if isinstance(part, UnknownPart):
            raise UserError(part.missing)


def check_read_again(settings: Settings) -> None:
    """Raise UserError if what a part of one's own writes is not read as the same part."""
    for part in parts_in(settings):
        if part.code and not isinstance(part, UnknownPart):
            name = getattr(part, part.KEY)
            again = parse(type(part), part.model_dump(mode="json"), f"{name}: what it writes")
            # Of one class there may be two, of equal code, in the parts of a part.
            differs = again != part and repr(again) != repr(part)
            if differs or again.identity() != part.identity():
                raise UserError(f"{name}: what it writes is read as another part; see its types")


def is_unknown(settings: Settings) -> bool:
    """Check if settings have a part whose code is not here."""
    return any(isinstance(part, UnknownPart) for part in parts_in(settings))


@contextmanager
def naming_class(kind: type[Part]) -> Iterator[None]:
    """Turn an exception in the reading of a part of one's own into one that pydantic shows."""
    try:
        yield
    except Exception as error:
        if isinstance(error, ValueError | PSLDError) or not _is_own(kind) or explained(error):
            raise
        reason = f"{type(error).__name__}: {text_of(error)}"
        raise ValueError(f"{name_of(kind)}: {reason}") from error


@contextmanager
def naming(key: str, part: Part, call: str) -> Iterator[None]:
    """Turn an exception in a call of a part of one's own into a UserError that names all three.

    Errors that need no traceback, such as those of a full memory, stay what they are.
    """
    try:
        yield
    except Exception as error:
        if part.code is None or isinstance(error, PSLDError) or explained(error):
            raise
        reason = f"{type(error).__name__}: {text_of(error)}"
        raise UserError(f"{key}: {getattr(part, part.KEY)}: {call}: {reason}") from error


def save_code(settings: Settings, folder: str | Path) -> None:
    """Copy the code of all parts of one's own into a run directory, or next to weights."""
    for part in parts_in(settings):
        module = getattr(part, part.KEY).partition(":")[0]
        code = part.code and (find_version(module, part.code) or loaded_version(part.code))
        if code:
            code.save(folder)


def parts_in(settings: Any) -> list[Part]:
    """Return all parts in settings, in groups and lists too, outer ones first."""
    return groups_of(Part, settings)


_classes: dict[tuple[str, str], type[Part]] = {}
"""The classes of parts of one's own by MODULE:CLASS and the digest of their code."""


def _own(noun: type[Part], name: str, digest: str | None, told: Any = None) -> type[Part]:
    """Return the class of a part of one's own, of this code if a digest is given.

    `told`: what its settings tell of a class whose code is not here.
    """
    check_named(name)
    if digest and _imports_nothing.get():
        return _unknown(noun, told)
    if digest and (name, digest) in _classes:
        return _checked(noun, name, _classes[name, digest])
    module = name.partition(":")[0]
    code = find_version(module, digest) if digest else find_code(module)
    if code is None and digest:
        return _unknown(noun, told)
    if code is None:
        raise UserError(f"{name}: no module {module} in this folder or among Python's packages")
    kind = _checked(noun, name, load_class(name, code))
    _classes[name, code.digest] = kind
    return kind


def _checked(noun: type[Part], name: str, kind: Any) -> type[Part]:
    if not (isinstance(kind, type) and issubclass(kind, noun)):
        base = "a class of psld.parts" if noun is Part else f"psld.parts.{noun.noun.capitalize()}"
        raise UserError(f"{name}: no {noun.noun}: it does not subclass {base}")
    return kind


def _is_own(kind: type) -> bool:
    return not kind.__module__.startswith("psld.")


def _code_of(kind: type[Part]) -> str:
    """Return the digest of the code of a class of one's own."""
    for (_, digest), known in _classes.items():
        if known is kind:
            return digest
    name = name_of(kind)
    check_named(name)
    code = code_of(kind)
    if code is None:
        raise UserError(f"{name}: its module is not in this folder or among Python's packages")
    _classes[name, code.digest] = kind
    return code.digest


def _unknown(noun: type[Part], told: Any) -> type[Part]:
    """Return the class of the noun's parts whose code is not here."""
    known = {}
    for name, each in told.items() if isinstance(told, Mapping) else ():
        if name in noun.told and isinstance(each, bool | str | list):
            known[name] = frozenset(map(str, each)) if isinstance(each, list) else each
    return _unknown_class(noun, *sorted(known.items()))


@cache
def _unknown_class(noun: type[Part], *told: tuple[str, Any]) -> type[Part]:
    fields: dict[str, Any] = {noun.KEY: str} if noun.KEY not in noun.model_fields else {}
    fields |= {name: ClassVar[Any] for name, _ in told}  # They may be properties of the noun.
    body = {"__module__": __name__, "__annotations__": fields, **dict(told)}
    return type(f"Unknown{noun.__name__}", (UnknownPart, noun), body, extra="allow")
