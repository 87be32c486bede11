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

READS = "reads"
"""The key of the noun in what a `Read` writes."""

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
    def _with_digests(cls, given: Any) -> Any:
        """Take a name alone, or what was written: there, the name is among what is free."""
        if isinstance(given, cls):
            return given
        content = {"name": given} if isinstance(given, str) else given
        match content:
            case {"name": str(name)} if name and content.keys() <= {*cls.model_fields, READS}:
                content = {key: value for key, value in content.items() if key != READS}
            case _:
                raise ValueError(f"the name of a {cls.noun} is needed, not {given!r}")
        find = _find.get()
        return find(cls.noun, content) if find else content

    @model_serializer(mode="wrap")
    def _with_its_noun(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Write the noun, too: in a custom part that is kept as data it says what this is."""
        return {READS: self.noun, **dump(self)}


class ModelRead(Read):
    """A model: GRID/MODEL, its folder, or hf://OWNER/NAME@COMMIT. In a grid: the grid's MODEL."""

    noun = "model"


class CellRead(Read):
    """The samples of a cell: their folder, samples/GRID/MODEL/SAMPLER-BUDGET. In a grid: the grid's
    MODEL/SAMPLER-BUDGET, a cell of a table."""

    noun = "cell"


def found_in(content: Any) -> Any:
    """Return what a custom part has written, with a `Read` in place of the content of each."""
    if isinstance(content, dict):
        kinds = {kind.noun: kind for kind in (ModelRead, CellRead)}
        if kind := kinds.get(str(content.get(READS))):
            return kind.model_validate(content)
        return {key: found_in(each) for key, each in content.items()}
    return [found_in(each) for each in content] if isinstance(content, list) else content
