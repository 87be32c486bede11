"""Find the inputs of a training, and initialize its weights from a model. Imports no torch."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any, cast

from psld.config.parts import name_of
from psld.config.reads import Read
from psld.config.settings import S, changes, groups_of, replaced
from psld.models.hub import fetched
from psld.models.manifest import WEIGHTS, ModelManifest, read_manifest
from psld.models.settings import Init, ModelSettings, TrainedSettings
from psld.training.settings import TrainSettings
from psld.utils.errors import UserError
from psld.utils.files import digest_of, read_json, retried_in_slurm

if TYPE_CHECKING:
    from torch import Tensor, nn

OF_A_COMMIT = re.compile(r"[^@]*@[0-9a-f]{7,40}")


def read_source(name: str) -> tuple[Path, ModelManifest]:
    """Return the folder and the manifest of a model that a training reads.

    Raises UserError if the model is missing. Also raises UserError if an address on the Hub does
    not name a commit, because the model might change before the training is resumed. Raises
    RunError if the Hub cannot be reached.
    """
    if name.startswith("hf://") and not OF_A_COMMIT.fullmatch(name):
        raise UserError(f"{name}: may change; name the commit: {name.partition('@')[0]}@COMMIT")
    try:
        folder = fetched(name)
        return folder, read_manifest(folder)
    except UserError as error:
        raise UserError(f"{error}; this training reads it, so train it first") from None


def with_sources(settings: S, output: str | Path | None = None) -> S:
    """Return the settings with the current digests of the models and samples to read.

    Raises UserError if a model or the samples of a cell are missing, or if the training would
    replace a model that it reads. Raises RunError if the Hub cannot be reached.
    """

    def found(read: Any) -> Any:
        if not isinstance(read, Read):
            return read
        if read.noun == "model":
            folder, manifest = read_source(read.name)
            if output and folder.resolve() == Path(output).resolve():
                wrong = f"{read.name}: the training reads this model and would replace it"
                raise UserError(f"{wrong}; give another output")
            there = manifest.weights_sha256
        else:
            there = digest_of(_shards_in(read.name, read.files))
        return read.model_copy(update={"digest": read.digest or there, "content": there})

    return replaced(settings, found)


def changed_sources(settings: TrainedSettings, made: TrainedSettings) -> list[str]:
    """Return the names of all inputs of a training that have changed, including indirect inputs.

    Args:
        settings: the current settings. All files that are named in the settings must exist.
        made: the settings with which the existing weights were trained.
    """
    changed, read = [], {each.content for each in groups_of(Read, made)}
    for now in groups_of(Read, with_sources(settings)):
        if now.content not in read:
            changed.append(now.name)
        elif now.noun == "model":
            source = read_source(now.name)[1].settings
            changed += changed_sources(source, source) if sources_exist(source) else []
    return changed


def sources_exist(settings: TrainedSettings) -> bool:
    """Check if all models and samples that a training reads come from grids and exist."""
    reads = groups_of(Read, settings)
    return all(each.files and all(map(os.path.exists, each.files)) for each in reads)


@retried_in_slurm
def _shards_in(folder: str, records: Sequence[str] | None) -> list[tuple[int, str]]:
    """Return the sorted indices and digests of the shards of a cell.

    Without `records`, all records in the folder are read. Raises UserError if there are no records
    or a record is damaged.
    """
    files = [*map(Path, records)] if records else [*Path(folder).glob("*-*.json")]
    if not (files and all(file.exists() for file in files)):
        raise UserError(
            f"{folder}: no samples of a cell; this training reads them, so sample the cell first"
        )
    try:
        shards = (each for file in files for each in read_json(file, dict)["shards"])
        return sorted({(each["index"], each["digest"]) for each in shards})
    except (LookupError, TypeError):
        raise UserError(
            f"{folder}: not the records of a cell's shards; sample the cell again"
        ) from None


def check_alike(mine: ModelSettings, source: ModelSettings) -> None:
    """Raise UserError if the initial model has another network, objective or number of classes.

    With `init.take=fitting`, all initial models are accepted.
    """
    if mine.init is None or mine.init.take == "fitting":
        return
    ours, theirs = (each.training.objective for each in (mine, source))
    # A subclass of the initial model's objective, such as the objective of a denoiser's student, is
    # accepted, because the subclass builds the same module.
    is_below = isinstance(ours, type(theirs))
    if theirs.is_data:
        is_below = theirs.kind in map(name_of, type(ours).__mro__)
    objectives = (theirs if is_below else ours).kind, theirs.kind
    networks = (getattr(each.network, each.network.KEY) for each in (mine, source))
    classes = mine.num_classes, source.num_classes
    pairs = {"network": networks, "training.objective": objectives, "number of classes": classes}
    for key, (ours, theirs) in pairs.items():
        if ours != theirs:
            wrong = f"init.model: its {key} is {theirs}, not {ours}"
            raise UserError(f"{wrong}; init.take=fitting loads the weights that fit")


def take_weights(module: "nn.Module", settings: TrainSettings) -> str:
    """Load the weights of `init.model`, and return a text that names the model and the differences.

    Raises UserError if no weights fit. Unless `init.take` is `fitting`, also raises UserError if
    the models differ (`check_alike`), or if the name or shape of any weight differs.
    """
    # Imported late: Snakemake imports this module but does not need numpy.
    from psld.utils.tensors import load_tensors

    init = cast(Init, settings.init)
    name, take = init.model.name, init.take
    folder, manifest = read_source(name)
    check_alike(settings, manifest.settings)
    path, sha256 = folder / WEIGHTS, init.model.content
    theirs = load_tensors(path, "weights", "train it again", sha256).tensors()
    ours, of_data = module.state_dict(), settings.training.objective.of_data
    fitting = {
        key: tensor
        for key, tensor in theirs.items()
        if key in ours and ours[key].shape == tensor.shape and key not in of_data
    }
    others = [key for key in ours | theirs if key not in {*fitting, *of_data}]
    if not fitting or (others and take == "all"):
        there, here = (_shape(each.get(others[0])) for each in (theirs, ours))
        remedy = "init.take=fitting loads the weights that fit" if fitting else "no weights fit"
        raise UserError(f"init.model={name}: {others[0]}: {there} there, {here} here; {remedy}")
    module.load_state_dict(fitting, strict=False)
    rest = changes(manifest.settings.process, settings.process, "process.")
    rest += [f"not loaded, or new: {', '.join(others)}"] if others else []
    return shorten("; ".join([f"starting from {name}", *rest]), 1000, placeholder=" …")


def _shape(tensor: "Tensor | None") -> str:
    return "missing" if tensor is None else str(tuple(tensor.shape))
