"""Files that parts read: models, samples, weights. Settings give names; psld computes digests.

In a grid, models and cells have records. The identity of a training contains the digests of the
records of the models and cells that the training reads. These digests are known before the files
exist. In a training by hand, the identity contains the digests of the files on disk. The origin of
a trained model always contains the digests of the files.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from psld.config.settings import FREE, Settings
from psld.utils.errors import UserError

READS = "reads"
"""The key of a serialized `Read` that says what is read: a model, a cell or weights."""

Find = Callable[[str, dict[str, Any]], dict[str, Any]]
"""A function that adds digests to a serialized `Read`. Its arguments are the attribute `noun` of
the `Read` ("model" or "cell") and the serialized `Read`."""

_find: ContextVar[Find | None] = ContextVar("_find", default=None)


@contextmanager
def finding(find: Find) -> Iterator[None]:
    """Within this context manager, the validation of settings completes each `Read` with `find`."""
    token = _find.set(find)
    try:
        yield
    finally:
        _find.reset(token)


class Read(Settings):
    """A model or samples that a training reads. The settings of a part may contain a `Read`."""

    noun: ClassVar[str]

    name: Annotated[str, FREE]
    digest: str | None = Field(default=None, exclude_if=lambda digest: digest is None)
    """In a grid, the digest of the record; in a training by hand, the digest of the files."""
    content: Annotated[str | None, FREE] = Field(default=None, exclude_if=lambda text: text is None)
    """The digest of the files that the training has read."""
    files: Annotated[tuple[str, ...], FREE] = Field(default=(), exclude_if=lambda files: not files)
    """In a grid, the last files that the jobs of the model or cell write. These files are inputs of
    the Snakemake rule of the training."""

    @model_validator(mode="before")
    @classmethod
    def _validate_with_digests(cls, given: Any) -> Any:
        """Accept a plain name or a serialized `Read`."""
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
    def _serialize_with_noun(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Add `noun` under the key READS. This key marks a `Read` in a custom part that is data."""
        return {READS: self.noun, **dump(self)}


class ModelRead(Read):
    """A model that a training reads.

    In a training by hand, the name is GRID/MODEL, a folder, or hf://OWNER/NAME@COMMIT. In a grid,
    the name is a MODEL of the same grid.
    """

    noun = "model"


class CellRead(Read):
    """The samples of a cell that a training reads.

    In a training by hand, the name is a folder samples/GRID/MODEL/SAMPLER-BUDGET. In a grid, the
    name is MODEL/SAMPLER-BUDGET, a cell in a table of the same grid.
    """

    noun = "cell"


class WeightsFile(Settings):
    """A file of weights that a part loads, with the SHA-256 of its content.

    A setting of this type is given as a path. Results depend on this SHA-256, not on the path. The
    setting can be passed to functions that accept a path, such as `torch.load`.
    """

    path: Annotated[str, FREE]
    sha256: str

    @model_validator(mode="before")
    @classmethod
    def _validate_with_sha256(cls, given: Any) -> Any:
        if isinstance(given, str):
            return {"path": given, "sha256": _sha256(given)}
        if isinstance(given, dict):
            return {key: value for key, value in given.items() if key != READS}
        return given

    @model_serializer(mode="wrap")
    def _serialize_with_mark(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {READS: "weights", **dump(self)}

    @property
    def has_changed(self) -> bool:
        """True if the file exists and its content has changed since its path was given."""
        return Path(self.path).is_file() and _sha256(self.path) != self.sha256

    def __fspath__(self) -> str:
        """Return the path. Raises UserError if the file has changed since its path was given."""
        if self.has_changed:
            raise UserError(f"{self.path}: has changed since it was chosen; plan or start again")
        return self.path


def _sha256(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None


def found_in(content: Any) -> Any:
    """Return the serialized settings of a custom part with files and each `Read` as instances."""
    if isinstance(content, dict):
        kinds: dict[str, type[Settings]] = {kind.noun: kind for kind in (ModelRead, CellRead)}
        kinds["weights"] = WeightsFile
        if kind := kinds.get(str(content.get(READS))):
            return kind.model_validate(content)
        return {key: found_in(each) for key, each in content.items()}
    return [found_in(each) for each in content] if isinstance(content, list) else content
