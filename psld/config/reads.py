"""What a training reads of other trainings: by name, and by digests that are found, not given.

In a grid, the identity has the digest of a record, which is known before anything is made; by hand,
that of what lies on disk. What is trained has the latter in its origin.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Annotated, Any, ClassVar

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from psld.config.settings import FREE, Settings

Find = Callable[[str, dict[str, Any]], dict[str, Any]]
"""Returns the content of a `Read`, with digests, for its noun and a content with its name."""

_find: ContextVar[Find | None] = ContextVar("_find", default=None)


@contextmanager
def finding(find: Find) -> Iterator[None]:
    """Let `find` complete each `Read` of the settings that are checked meanwhile."""
    token = _find.set(find)
    try:
        yield
    finally:
        _find.reset(token)


class Read(Settings):
    """Something that a training reads, by its name; a text is a name. A part may have one, too."""

    noun: ClassVar[str]

    name: Annotated[str, FREE]
    digest: str | None = Field(default=None, exclude_if=lambda digest: digest is None)
    """Of its record in a grid; by hand of its content."""
    content: Annotated[str | None, FREE] = Field(default=None, exclude_if=lambda text: text is None)
    """The digest of what the training has read."""
    files: Annotated[tuple[str, ...], FREE] = Field(default=(), exclude_if=lambda files: not files)
    """In a grid, the files that are written last when it is made: inputs of the training's rule."""

    @model_validator(mode="before")
    @classmethod
    def _is_found(cls, given: Any) -> Any:
        """Take a name alone, or what was written: there, the name is among what is free."""
        if isinstance(given, cls):
            return given
        content = {"name": given} if isinstance(given, str) else given
        match content:
            case {"free": {"name": str()}} if content.keys() <= {"free", "digest"}:
                content = content["free"] | {k: v for k, v in content.items() if k != "free"}
            case {"name": str(name)} if name and len(content) == 1:
                pass
            case _:
                raise ValueError(f"the name of a {cls.noun} is needed, not {given!r}")
        find = _find.get()
        return find(cls.noun, content) if find else content

    @model_serializer(mode="wrap")
    def _with_free_apart(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """As in `Part`: whoever lacks the class of a part has to know what decides."""
        content = dump(self)
        free = sorted(self.free() & content.keys())
        return {"free": {key: content.pop(key) for key in free}, **content}


class ModelRead(Read):
    """A model: GRID/MODEL, its folder, or hf://OWNER/NAME@COMMIT. In a grid: the grid's MODEL."""

    noun = "model"


class CellRead(Read):
    """The samples of a cell: their folder, samples/GRID/MODEL/SAMPLER-BUDGET. In a grid: the grid's
    MODEL/SAMPLER-BUDGET, a cell of a table."""

    noun = "cell"
