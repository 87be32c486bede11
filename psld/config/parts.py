"""Parts: the exchangeable components. A part is frozen settings with a `build` method.

The class attribute `noun` holds the kind of part, such as network or sampler. The key `KEY` of the
settings holds the name of the part: the name of a shipped part, or MODULE:CLASS of a custom part
(`psld.utils.code`). Overrides of a command or call, and the user's grids and configs, may import
custom parts. A custom part in any other file, such as a record, is not imported: such a part
remains data: a name, settings and the digest of the code. `imported` restores the class of the part
before the part is built.
"""

import sys
import traceback
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self, TypeVar, cast

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
from psld.config.reads import Read, found_in
from psld.config.settings import Neutral, Settings, groups_of, parse, reads_a_file, replaced
from psld.utils.code import (
    PACKAGE,
    RESTART,
    Code,
    PartImportError,
    check_named,
    copy_folder,
    find_code,
    import_class,
    import_copy,
    import_modules,
    may_run,
    read_code,
    read_copy,
)
from psld.utils.errors import (
    PSLDError,
    UserError,
    is_exit_of_part,
    is_full_disk,
    is_out_of_memory,
    meant,
)

T = TypeVar("T")

FREE_NAMES = "free"
"""The key under which a serialized custom part lists the settings that do not affect results. The
list contains dotted names."""


class Part(Settings):
    """Base class of exchangeable components. Each kind of part, such as network, has a subclass.

    This subclass accepts the settings of all parts of its kind. For example,
    `Network.model_validate` returns an instance of the network class that the settings name. A
    string is the name of a part with default settings.
    """

    model_config = ConfigDict(polymorphic_serialization=True)

    KEY: ClassVar[str] = "kind"
    """The key of the settings that holds the name of the part."""
    noun: ClassVar[str] = "part"
    """The kind of part, a key of `psld.config.kinds.SHIPPED`. The base class of each kind of part
    sets this attribute; the classes of parts inherit it."""
    needs_kind: ClassVar[bool] = True
    """Whether settings without the name of a part are rejected. Such settings result if a config
    gives a part as a string and an override sets one setting of this part. If a default name were
    filled in, the override would configure the wrong part."""

    recorded_attributes: ClassVar[tuple[str, ...]] = ()
    """Names of class attributes that a custom part serializes with its settings. Code that reads
    the serialized part then need not import the class."""
    source_code: ClassVar[Code | None] = None
    """The source code of a custom part, as it was when the class was imported; None if the class is
    not defined in a file or belongs to psld."""

    code: str | None = Field(default=None, exclude_if=lambda code: code is None)
    """The digest of a custom part's code, computed from its files."""

    @classmethod
    def __pydantic_init_subclass__(cls, **options: Any) -> None:
        super().__pydantic_init_subclass__(**options)
        if is_custom(cls):
            cls.source_code = _code_of(cls)

    @classmethod
    def class_for(cls, content: Any) -> "type[Part]":
        """Return the class that validates the serialized settings of a part.

        For a custom part that remains data, the result is the base class of the kind of part.
        Raises ValueError if no part has the name in `content`.
        """
        if "noun" not in vars(cls):
            return cls
        content = {cls.KEY: content} if isinstance(content, str) else content
        default = None if content and cls.needs_kind else cls.model_fields[cls.KEY].default
        kind, shipped = content.get(cls.KEY, default), SHIPPED[cls.noun]
        if isinstance(kind, str) and kind in shipped:
            module, _, name = shipped[kind].partition(":")
            return getattr(import_module(module), name)
        known = f"there are: {', '.join([*shipped, 'MODULE:CLASS of a custom part'])}"
        if not isinstance(kind, str):
            raise ValueError(f"{cls.KEY} is missing; {known}")
        if ":" not in kind:
            raise ValueError(f"no {cls.noun} {kind!r}{meant(kind, shipped)}; {known}")
        try:
            if reads_a_file.get() or not cls._is_working_code(kind, content.get("code")):
                return cls
            return _of_noun(cls, kind, import_class(kind))
        except UserError as error:
            raise ValueError(f"{error}") from None

    @classmethod
    def _is_working_code(cls, name: str, digest: str | None) -> bool:
        """Check if the current code of a custom part has this digest.

        Returns True without a digest. Returns False for a source or an autoencoder with a digest:
        it may come from the record of a dataset, so it remains data.
        """
        if digest is None:
            return True
        check_named(name)
        code = find_code(name.partition(":")[0])
        is_of_data = cls.noun in ("source", "autoencoder")
        return not is_of_data and code is not None and code.digest == digest

    @model_validator(mode="wrap")
    @classmethod
    def _validate_kind(cls, content: Any, check: ModelWrapValidatorHandler[Self]) -> Self:
        content = {cls.KEY: content} if isinstance(content, str) else content
        if not isinstance(content, Mapping):
            return check(content)
        if "noun" in vars(cls):
            kind = cls.class_for(content)
            if kind is not cls:
                return cast(Self, kind.model_validate(content))
            return cls._as_data(content, check) if ":" in content[cls.KEY] else check(content)
        if is_custom(cls):
            no_settings = {*cls.recorded_attributes, FREE_NAMES} - cls.model_fields.keys()
            content = {key: each for key, each in content.items() if key not in no_settings}
            content |= {cls.KEY: name_of(cls), "code": _checked_digest(cls)}
        return check(content)

    @classmethod
    def _as_data(cls, content: Mapping[str, Any], check: ModelWrapValidatorHandler[Self]) -> Self:
        """Return a part that is data: an instance of the base class of its kind of part.

        Settings that the base class does not define remain serialized.
        """
        given = {key: content[key] for key in content if key in cls.model_fields}
        # An empty digest matches no code, so `imported` rejects a part without a digest.
        part = check({"code": "", **given})
        extra = {
            key: found_in(each) for key, each in content.items() if key not in cls.model_fields
        }
        object.__setattr__(part, "__pydantic_extra__", extra)
        told = {name: extra[name] for name in cls.recorded_attributes if name in extra}
        vars(part).update({k: tuple(x) if isinstance(x, list) else x for k, x in told.items()})
        # Replace `build`, because a custom guidance that is data would inherit a `build` without
        # guidance.
        vars(part).update(build=_not_imported)
        return part

    @model_validator(mode="after")
    def _check_reads(self) -> Self:
        if self.noun not in OF_A_TRAINING and (reads := groups_of(Read, self)):
            kind = getattr(self, self.KEY)
            raise ValueError(f"{kind}: reads a {reads[0].noun}; only a part of a training may")
        return self

    @property
    def is_data(self) -> bool:
        """True for a custom part that was read from a file and whose class is not imported."""
        return "noun" in vars(type(self)) and ":" in getattr(self, self.KEY)

    def identity(self) -> dict[str, Any]:
        decides = super().identity()
        if not self.is_data:
            return decides
        content, extra = self.model_dump(mode="json"), self.model_extra or {}
        decides |= {key: content[key] for key in extra if key not in self.recorded_attributes}
        return _without(decides, [FREE_NAMES, *decides.get(FREE_NAMES, ())])

    @model_serializer(mode="wrap")
    def _serialize(
        self, dump: SerializerFunctionWrapHandler, info: SerializationInfo
    ) -> dict[str, Any]:
        """Add to a custom part the recorded attributes and the names of settings that do not affect
        results, because code that reads the serialized part does not import the class."""
        content, is_short = dump(self), bool(info.exclude_none)
        if self.is_data:
            left_out = {*self.recorded_attributes, FREE_NAMES} if is_short else ()
            extra = {k: v for k, v in (self.model_extra or {}).items() if k not in left_out}
            return content | _dumped(extra, info.mode, is_short)
        if self.code is None:
            return content
        for name in type(self).model_computed_fields:
            content.pop(name, None)
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if name in content and Neutral(value) in field.metadata:
                del content[name]
            elif name in content and isinstance(value, set | frozenset):
                content[name] = sorted(content[name], key=str)
        told = {name: getattr(self, name) for name in self.recorded_attributes}
        told = {name: sorted(x) if isinstance(x, Set) else x for name, x in told.items()}
        decides = self.deciding_in(content)
        if is_short:  # Results store the short form and never parse it, so it needs no free names.
            return _ordered(content, decides)
        free = [*_free_names(content, decides)]
        return _ordered(content, decides) | told | ({FREE_NAMES: free} if free else {})


P = TypeVar("P", bound=Part)


def is_custom(kind: type) -> bool:
    return not kind.__module__.startswith("psld.")


def name_of(kind: type) -> str:
    """Return the name MODULE:CLASS of a class."""
    return f"{kind.__module__}:{kind.__qualname__}"


def _code_of(kind: type[Part]) -> Code | None:
    """Return the code of a class that is being imported; None for a class without a file."""
    name = kind.__module__
    place = getattr(sys.modules.get(name), "__file__", None)
    if not place or name == "__main__":
        return None
    file = Path(place).absolute()
    code = read_code(file.parents[name.count(".") + (file.name == "__init__.py")], name)
    for other in _below(Part):
        is_imported = getattr(sys.modules.get(other.__module__), other.__name__, None) is other
        known = other.source_code if is_imported else None
        if known and known.root == code.root and (changed := known.differs(code)):
            raise UserError(f"{changed} has changed since it was imported; {RESTART}")
    return code


def _checked_digest(kind: type[Part]) -> str:
    """Return the digest of a class's code when the class was imported.

    Raises UserError if a file of this code has changed since the import, because the files would no
    longer match the code that runs.
    """
    code, module = kind.source_code, kind.__module__
    if code is None:
        check_named(name_of(kind))
        raise UserError(f"{name_of(kind)}: its module is not in a file")
    if (code.root / code.file).is_file() and read_code(code.root, module).digest != code.digest:
        raise UserError(f"{code.file}, or a file that it imports, has changed; {RESTART}")
    return code.digest


def _of_noun(noun: type[P], name: str, kind: Any) -> type[P]:
    if not (isinstance(kind, type) and issubclass(kind, noun)):
        base = "a class of psld.parts" if noun is Part else f"psld.parts.{noun.noun.capitalize()}"
        raise UserError(f"{name}: no {noun.noun}: it does not subclass {base}")
    return kind


def noun_of(name: str) -> type[Part]:
    """Return the base class of the kind of part to which the class MODULE:CLASS belongs.

    Raises UserError if the class is not a part.
    """
    return next(k for k in _of_noun(Part, name, import_class(name)).__mro__ if "noun" in vars(k))


# -- custom parts as data --------------------------------------------------------------------------


def _dumped(value: Any, mode: str, is_short: bool) -> Any:
    if isinstance(value, Settings):
        return value.model_dump(mode=mode, exclude_none=is_short)
    if isinstance(value, dict):
        kept = {key: each for key, each in value.items() if not (is_short and each is None)}
        return {key: _dumped(each, mode, is_short) for key, each in kept.items()}
    return [_dumped(each, mode, is_short) for each in value] if isinstance(value, list) else value


def _free_names(content: Any, decides: Any, prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of the settings in `content` that are missing in `decides`."""
    if isinstance(content, list) and isinstance(decides, list):
        content, decides = dict(enumerate(content)), dict(enumerate(decides))
    if not (isinstance(content, Mapping) and isinstance(decides, Mapping)):
        return
    for key, value in content.items():
        if key in decides:
            yield from _free_names(value, decides[key], f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _without(content: Any, names: list[str]) -> Any:
    """Return serialized settings without the entries that have these dotted names."""
    if isinstance(content, list):
        numbered = _without({str(i): each for i, each in enumerate(content)}, names)
        return [*numbered.values()]
    if not isinstance(content, dict):
        return content
    inner = {
        key: [n.partition(".")[2] for n in names if n.startswith(f"{key}.")] for key in content
    }
    return {key: _without(each, inner[key]) for key, each in content.items() if key not in names}


def _ordered(content: Any, decides: Any) -> Any:
    """Return serialized settings in which lists made from sets have the same order as in `decides`.

    Nested groups are ordered, too.
    """
    if isinstance(content, dict) and isinstance(decides, dict):
        return {k: _ordered(v, decides[k]) if k in decides else v for k, v in content.items()}
    if isinstance(content, list) and isinstance(decides, list):
        has_groups = any(isinstance(each, dict | list) for each in content)
        return [*map(_ordered, content, decides)] if has_groups else decides
    return content


def _not_imported(*_: Any, **__: Any) -> Any:
    raise UserError("a custom part that was read from a file is used without its class")


def imported(
    value: T,
    record: str | Path | None = None,
    *,
    trust: bool = False,
    copies: str | Path | None = None,
) -> T:
    """Return settings in which each custom part that is data becomes an instance of its class.

    Args:
        value: settings, or a tuple or dictionary of them.
        record: the folder of the file that contains the parts. The file may come from an untrusted
            source. None for a job that the user has started.
        trust: also run the copy of the code in `record`.
        copies: for a job that the user has started, its run directory, which contains a copy of the
            code as of the start of the run.

    Raises UserError if the code with the part's digest is not found or may not run.
    """

    def with_class(group: Any) -> Any:
        is_data = isinstance(group, Part) and group.is_data
        return _with_class(group, record, trust, copies) if is_data else group

    return replaced(value, with_class)


def _with_class(
    part: Part, record: str | Path | None, trust: bool, copies: str | Path | None
) -> Part:
    name, digest = getattr(part, part.KEY), part.code or ""
    check_named(name)
    module, _, class_name = name.partition(":")
    imported_class = getattr(sys.modules.get(module), class_name, None)
    if getattr(getattr(imported_class, "source_code", None), "digest", None) == digest:
        return _of_class(part, name, imported_class)
    code, folder = find_code(module), record if trust else copies
    is_same = code is not None and code.digest == digest
    if code and is_same and (record is None or may_run(code, record)):
        kind = import_class(name)
    elif copy := read_copy(folder, module, digest) if folder and digest else None:
        kind = import_copy(name, copy)
    else:
        here = f"there is no module {module} here"
        if code:
            here = f"{code.file} here is "
            here += (
                "in the same folder, or in no package" if is_same else f"code {code.digest[:12]}"
            )
        text = f"its {part.noun} {name} has code {digest[:12] or 'without a digest'}, and {here}"
        if record is None:
            raise UserError(f"{text}; get that version back, or plan again")
        copied = copy_folder(record, digest)
        if digest and not trust and copied.is_dir():
            text += f"; trust=true runs the copy in {copied}: read it before"
        raise UserError(f"{record}: {text}")
    if kind.source_code is None or kind.source_code.digest != digest:
        raise UserError(f"{name}: another version of it is imported; {RESTART}")
    return _of_class(part, name, kind)


def _of_class(part: Part, name: str, kind: Any) -> Part:
    content = {**part.model_dump(), **(part.model_extra or {})}
    return parse(_of_noun(type(part), name, kind), content, name)


def codes_in(settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield the name MODULE:CLASS and the code digest of each custom part, also of nested parts."""

    def found(content: Any) -> Iterator[tuple[str, str]]:
        if isinstance(content, dict):
            name = content.get("kind") or content.get("integrator")
            if isinstance(code := content.get("code"), str):
                yield f"{name}", code
            content = [*content.values()]
        for each in content if isinstance(content, list) else ():
            yield from found(each)

    for part in groups_of(Part, settings):
        if part.code:
            yield from found(part.model_dump(mode="json"))


def save_code(settings: Settings, folder: str | Path) -> None:
    """Copy the code of all custom parts into a folder, such as a run directory."""
    for part in groups_of(Part, settings):
        if part.source_code:
            part.source_code.save(folder)


def import_all(settings: Settings) -> None:
    """Import all modules of custom parts now, also modules that a function would import later.

    Otherwise, the files of these modules might change before the later import. Raises UserError if
    a file has already changed.
    """
    for part in groups_of(Part, settings):
        if part.source_code:
            _checked_digest(type(part))
            import_modules(part.source_code)


# -- the errors of custom parts --------------------------------------------------------------------

PLACES = {"source": "dataset", "guidance": "sampler", "mask": "sampler.guidance", "beta": "process"}
PLACES |= dict.fromkeys(("extractor", "measure"), "metric")
PLACES |= dict.fromkeys(("objective", "optimizer", "schedule", "average"), "training")
"""The settings group that contains each kind of part. Kinds of parts that are not listed here are
top-level settings of commands."""
KEYS = {"autoencoder": "dataset.decode"}
"""The settings of kinds of parts whose names differ from the kind."""


@contextmanager
def showing_lines() -> Iterator[None]:
    """Print the traceback of an error in a custom part, and exit with code 1.

    The traceback starts in the code of the part. A note names the setting and the function that was
    called. A call of `sys.exit` in a custom part also counts as an error.
    """
    try:
        yield
    except PartImportError as error:
        cause = cast(BaseException, error.__cause__)
        traceback.print_exception(cause.with_traceback(_skip_package_frames(cause.__traceback__)))
        print(error, file=sys.stderr)
        sys.exit(1)
    except (Exception, SystemExit) as error:
        if not add_note(error):
            raise
        traceback.print_exception(error)
        sys.exit(1)


def _skip_package_frames(where: TracebackType | None) -> TracebackType | None:
    """Return a traceback without the leading frames of psld and of Python's import system."""
    while where:
        file = Path(where.tb_frame.f_code.co_filename)
        if file.is_file() and file.parent.name != "importlib" and PACKAGE not in file.parents:
            break
        where = where.tb_next
    return where


def add_note(error: BaseException) -> bool:
    """Add a note that names the custom part and the function call that raised an error.

    The traceback is cut so that it starts in the code of the part. Returns False if the error was
    raised outside custom parts, or if it needs no traceback.
    """
    if isinstance(error, PSLDError) or not (found := _frame_in_part(error)):
        return False
    if isinstance(error, Exception) and (is_out_of_memory(error) or is_full_disk(error)):
        return False
    where, parts = found
    if isinstance(error, SystemExit) and not is_exit_of_part(error):
        return False  # A signal handler called sys.exit.
    keys = {p: f"{PLACES.get(p.noun, '')}.{p.noun}".lstrip(".") for p in parts}
    kinds = (f"{KEYS.get(p.noun, key)}: {name_of(p)}" for p, key in keys.items())
    note = f"{' or '.join(sorted(kinds))}: {where.tb_frame.f_code.co_name}"
    error.with_traceback(where).add_note(note)
    if isinstance(error.__context__, PSLDError):  # Do not print an earlier one-line error.
        error.__suppress_context__ = True
    return True


def _frame_in_part(error: BaseException) -> tuple[TracebackType, list[type[Part]]] | None:
    """Return the first traceback entry in a file of custom parts, and the parts that it may
    concern.

    If the file defines several parts, parts that occur in the variables of the outer frames are
    preferred.
    """
    there: dict[Path, list[type[Part]]] = {}
    for kind in _below(Part):
        if code := kind.source_code:
            for file in code.files:
                there.setdefault(code.root / file, []).append(kind)
    used: set[type[Part]] = set()
    where = error.__traceback__
    while where:
        frame = where.tb_frame
        if found := there.get(Path(frame.f_code.co_filename)):
            own = type(frame.f_locals.get("self"))
            bases = {each.__name__ for each in own.__mro__}
            kinds = [each for each in found if each in used] or found
            called = [k for k in kinds if k is own or CALLED.get(k.noun, "") in bases]
            return where, [k for k in called if k is own] or called or kinds
        for value in [*frame.f_locals.values()]:
            if isinstance(value, Settings):
                used |= {type(part) for part in groups_of(Part, value)}
        where = where.tb_next
    return None


CALLED = {"network": "Module", "optimizer": "Optimizer"}
"""The kinds of parts whose `build` returns an object with methods that psld calls later. The value
for a kind is the name of the base class of these objects."""


def _below(kind: type[Part]) -> Iterator[type[Part]]:
    for each in kind.__subclasses__():
        yield each
        yield from _below(each)
