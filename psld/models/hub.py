"""Upload models to the Hugging Face Hub and download them. This requires the extra `hub`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING

from psld.models.manifest import FILES, MANIFEST, model_files
from psld.models.settings import STARTS
from psld.utils import VERSION
from psld.utils.code import COPIES
from psld.utils.errors import RunError, UserError, meant
from psld.utils.files import retried_in_slurm

if TYPE_CHECKING:
    from huggingface_hub import HfApi

MODELS = Path("models")


def fetched(model: str | Path) -> Path:
    """Return the folder of a model. For an address hf://USER/NAME@COMMIT, download the model.

    Without @COMMIT, the newest commit is downloaded. Files in the cache of huggingface_hub are not
    downloaded again. GRID/MODEL is short for the folder models/GRID/MODEL.

    Raises:
        UserError: the address is wrong, the extra `hub` is not installed, or the folder does not
            exist. A missing folder is not an error if models/ exists and there are no other models.
        RunError: the Hub cannot be reached, or answers with an error.
    """
    if not str(model).startswith("hf://"):
        return _folder(Path(model))
    repository, _, commit = str(model).removeprefix("hf://").partition("@")
    with _hub(str(model)) as hub:
        files = [*FILES, f"{STARTS}/*", f"{COPIES}/*"]
        revision = commit or None
        return Path(hub.snapshot_download(repository, revision=revision, allow_patterns=files))


@retried_in_slurm
def _folder(model: Path) -> Path:
    if not (model / MANIFEST).exists():
        if (MODELS / model / MANIFEST).exists():
            return MODELS / model
        found = [*model.parent.glob(f"*/{MANIFEST}"), *MODELS.glob(f"*/*/{MANIFEST}")]
        others = dict.fromkeys(str(path.parent) for path in sorted(found))
        if not model.exists() and (others or not MODELS.is_dir()):
            place = f"; there is no folder {MODELS}/ here; run it in the project's folder"
            raise UserError(f"{model}: no such model{meant(str(model), others, cutoff=0) or place}")
    return model


def push(folder: Path, repository: str, card: str, start: str | None) -> str:
    """Upload a model and its card in one commit, and return the hash of the commit.

    `start`: the file of the initial distribution, which is also uploaded; None: no file. For the
    errors, see `fetched`.
    """
    with _hub(repository) as hub:
        from huggingface_hub import CommitOperationAdd as Add

        hub.create_repo(repository, exist_ok=True)
        files = [Add(name, folder / name) for name in model_files(folder)]
        files += [Add(f"{STARTS}/{Path(start).name}", start)] if start else []
        files.append(Add("README.md", card.encode()))
        return hub.create_commit(repository, files, commit_message="psld push").oid


@contextmanager
def _hub(what: str) -> Iterator["HfApi"]:
    """Yield the API of the Hub. Convert exceptions of the API to UserError or RunError."""
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
    except ImportError:
        raise UserError(f"{what}: needs huggingface_hub: pip install 'psld[hub]'") from None
    try:
        yield HfApi(library_name="psld", library_version=VERSION)
    # Catch all exceptions, because their classes depend on the HTTP client of huggingface_hub.
    except Exception as error:
        if getattr(error, "errno", None):  # an error of the file system
            raise
        if isinstance(error, LocalEntryNotFoundError):  # Report the cause of this error.
            error = error.__cause__ or error
        status = getattr(getattr(error, "response", None), "status_code", None)
        text = shorten(str(error) or type(error).__name__, 240, placeholder=" …")
        text += "; log in (hf auth login), or set HF_TOKEN" if status in (401, 403) else ""
        refused = isinstance(error, HFValidationError) or status in (400, 401, 403, 404)
        raise (UserError if refused else RunError)(f"{what}: {text}") from None
