"""The import of checkpoints of the official code as models and guides.

A checkpoint has neither the settings of its network nor Γ. To recognize the models of a grid in
checkpoints, the names and shapes of the parameters decide the network. Among models that differ in
Γ alone, the path of the file decides: the official scripts write `gamma=0.02` into it.
"""

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch

from psld.data.store import ImageStore
from psld.networks.ncsnpp import Encoder
from psld.paper.parameters import check_finite, from_official, official_shapes, read_checkpoint
from psld.training.manifest import MANIFEST, Imported, make_way, note_checkpoint, noted_checkpoint
from psld.training.model import build, build_process, write_model
from psld.training.settings import (
    ImportFilesSettings,
    ImportGuideSettings,
    ImportModelSettings,
    Trained,
)
from psld.utils.errors import UserError, locating


def import_weights(settings: ImportModelSettings | ImportGuideSettings) -> None:
    """Write a model or a guide with the weights of a checkpoint, as training does.

    Raises UserError, with a list, if any are missing, unexpected, of the wrong shape or not finite.
    """
    # The official code keeps no moving average of a guide.
    chosen = settings.weights if isinstance(settings, ImportModelSettings) else "online"
    path = settings.checkpoint
    checkpoint = read_checkpoint(path)
    network = build(settings, build_process(settings))
    if not isinstance(network, Encoder):
        raise UserError("training.objective: official checkpoints are no denoisers; use epsilon")
    store = None
    if Path(settings.data).exists():
        store = ImageStore.open_for(settings.data, settings.dataset)
    with locating(path):
        network.load_state_dict(from_official(checkpoint.weights(chosen), network))
    make_way(settings.output, checkpoint.sha256, settings.replace)
    imported = Imported(file=Path(path).name, sha256=checkpoint.sha256, weights=chosen)
    write_model(settings.output, settings, network, store, checkpoint.step, imported=imported)
    print(f"wrote {settings.output}: {chosen} weights, step {checkpoint.step}")


PATTERN = "*.ckpt"
GAMMA = re.compile(r"gamma=(\d+(?:\.\d+)?)")

Shapes = dict[str, tuple[int, ...]]


class NotTaken(UserError):
    """A checkpoint that is not the grid's, or not the best one, so that there is nothing to do."""


@dataclass(frozen=True)
class Recognized:
    """A checkpoint, and the model or guide of the grid that it is."""

    settings: Trained
    path: Path
    sha256: str
    step: int | None
    gamma: float | None = None
    """Γ in its path."""

    @property
    def steps_left(self) -> int:
        """Steps between the checkpoint and the end of the training in the grid."""
        return abs((self.step or 0) - self.settings.training.steps)


def import_files(settings: ImportFilesSettings, known: Sequence[Trained]) -> None:
    """Note checkpoints of these models and guides for the workflow.

    Of several files of one model, the one nearest to the training steps of the grid is noted. Print
    a line for each file as soon as it is read.

    Raises UserError if a file is damaged or ambiguous, or would replace weights of another origin;
    the others are taken nevertheless. Also if nothing is taken.
    """
    paths = checkpoints_in(settings.files)
    print(f"reading checkpoints: {len(paths)}", flush=True)
    layouts = [(shapes_of(each), each) for each in known]
    taken: dict[str, Recognized] = {}
    is_wrong = False
    for path in paths:
        try:
            file = recognize(path, layouts)
            take(file, taken, settings.replace)
            text = described(file)
        except UserError as error:
            is_wrong |= not isinstance(error, NotTaken)
            text = str(error).removeprefix(f"{path}: ")
            if len(paths) == 1:
                raise UserError(f"{path}: {text}") from None
        print(f"{path}: {text}", flush=True)
    if taken:
        print(f"The workflow imports {len(taken)} of {len(paths)} in place of training.")
    if not taken or is_wrong:
        raise UserError(f"{len(paths) - len(taken)} of {len(paths)} checkpoints are not taken")


def checkpoints_in(paths: Sequence[str]) -> list[Path]:
    """Return the files, and all checkpoints below the folders. Raises UserError without any."""
    if missing := [path for path in paths if not Path(path).exists()]:
        raise UserError(f"{missing[0]}: no such file or folder")
    files: list[Path] = []
    for path in map(Path, paths):
        files += sorted(path.rglob(PATTERN)) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{', '.join(paths)}: no {PATTERN} in this folder or below it")
    return files


def shapes_of(settings: Trained) -> Shapes:
    """Return the shapes of a model's or guide's official parameters; empty if there are none."""
    if settings.serves_every_process or settings.num_classes:
        return {}
    process = build_process(settings)
    with torch.device("meta"):
        return official_shapes(cast(Encoder, build(settings, process)))


def recognize(path: Path, layouts: Sequence[tuple[Shapes, Trained]]) -> Recognized:
    """Recognize a checkpoint by its shapes and by Γ in its path.

    Raises NotTaken if it fits nothing, and UserError if it is ambiguous or cannot be imported.
    """
    checkpoint = read_checkpoint(path)
    in_path = GAMMA.findall(str(path))
    gamma = float(in_path[-1]) if in_path else None
    weights = checkpoint.ema or checkpoint.online
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    matching = [settings for layout, settings in layouts if layout == shapes]
    fits = [each for each in matching if gamma in (None, getattr(each.process, "gamma", gamma))]
    names = ", ".join(map(word_for, fits or matching))
    if not matching:
        raise NotTaken("its layers fit no model and no guide of the grid")
    if not fits:
        raise NotTaken(f"its layers fit {names}, but its path has gamma={gamma:g}")
    if len(fits) > 1:
        raise UserError(
            f"fits {names}: Γ is not in the weights; move it into a folder gamma=Γ, or name "
            "one (psld import_model FILE model=GRID/MODEL)"
        )
    is_model = fits[0].makes == "model"
    check_finite(checkpoint.weights("ema" if is_model else "online"))  # as the import will
    return Recognized(fits[0], path, checkpoint.sha256, checkpoint.step, gamma)


def take(file: Recognized, taken: dict[str, Recognized], replace: bool) -> None:
    """Note a file for its model.

    Raises NotTaken if another file is nearer to the training steps of the grid, and UserError if
    weights of another origin are there.

    Args:
        taken: the files of this import, by the folder of their model; this one is added.
        replace: neither weights of another origin nor files that wait for their import count.
    """
    settings = file.settings
    folder = settings.output
    other, remedy = taken.get(folder), ""
    if other is None and not replace:
        other, remedy = noted_earlier(file), "; replace=true replaces it"
    if other and other.sha256 != file.sha256 and other.steps_left <= file.steps_left:
        near = "nearer" if other.steps_left < file.steps_left else "as near"
        end = f"its {settings.training.steps} steps{remedy}"
        raise NotTaken(f"{word_for(settings)}, but {other.path} is {near} to {end}")
    make_way(folder, file.sha256, replace)
    note_checkpoint(folder, file.path)
    taken[folder] = file


def noted_earlier(file: Recognized) -> Recognized | None:
    """Return another checkpoint that waits to be imported as the model, if it can be read."""
    folder = Path(file.settings.output)
    path = noted_checkpoint(folder)
    if path in (None, str(file.path)) or (folder / MANIFEST).exists():
        return None
    with suppress(UserError):
        checkpoint = read_checkpoint(path)
        return Recognized(file.settings, Path(path), checkpoint.sha256, checkpoint.step)
    return None


def described(file: Recognized) -> str:
    """Return what a file is taken for, and warnings if that may be wrong."""
    settings = file.settings
    text = f"{word_for(settings)}, step {file.step} of {settings.training.steps}"
    if file.step is not None and file.step < settings.training.steps / 2:
        text += "; warning: less than half of the training"
    if (settings.dataset.name, file.gamma) == ("celeba64", 0.01):
        script = "scripts_psld/ablations/uncond/celeba64/train_uncond_psld.sh"
        text += (
            f"; warning: the official {script} trains Γ = 0.25 under this name: if the file is "
            "from it, name its model (psld import_model FILE model=GRID/MODEL)"
        )
    return text


def word_for(settings: Trained) -> str:
    """Return the word that names a model or guide on a command line, such as model=paper/x."""
    return f"{settings.makes}={settings.grid_name}/{settings.name}"
