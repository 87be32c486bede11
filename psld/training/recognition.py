"""Recognize the models of a grid in checkpoints of the official code.

    import_files(ImportFilesSettings(files=["downloads/psld"]), settings_of_all_models_and_guides)

A checkpoint has neither the settings of its network nor Γ. The names and shapes of its parameters
decide the network. Among models that differ in Γ alone, the path of the file decides: the official
scripts write `gamma=0.02` into it.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from psld.networks.official import official_shapes, read_checkpoint
from psld.training.manifest import make_way, note_checkpoint
from psld.training.model import build_guide, build_network, build_process
from psld.training.settings import ImportFilesSettings, TrainGuideSettings, TrainSettings
from psld.utils.errors import UserError

PATTERN = "*.ckpt"
GAMMA = re.compile(r"gamma=(\d+(?:\.\d+)?)")

Trained = TrainSettings | TrainGuideSettings
Shapes = dict[str, tuple[int, ...]]


@dataclass
class Recognized:
    """A checkpoint, and the models or guides of the grid that it may be."""

    path: Path
    sha256: str = ""
    step: int | None = None
    fits: list[Trained] = field(default_factory=list)
    remark: str = ""
    """The reason why it is not taken; empty if it is."""
    is_wrong: bool = False
    """True if the user has to do something before it can be taken."""

    def refuse(self, error: UserError | str) -> None:
        self.remark, self.is_wrong = str(error).removeprefix(f"{self.path}: "), True


def import_files(settings: ImportFilesSettings, known: Sequence[Trained]) -> None:
    """Note checkpoints of these models and guides, for the workflow, and print a line for each.

    Raises UserError if a file is damaged or ambiguous, or would replace weights of another origin;
    the others are taken nevertheless. Also if nothing is taken.
    """
    paths = checkpoints_in(settings.files)
    print(f"reading {len(paths)} checkpoints", flush=True)
    layouts = [(shapes_of(each), each) for each in known]
    files = [recognize(path, layouts) for path in paths]
    choose_by_step(files)
    for file in files:
        note(file, settings.replace)
    taken = [file for file in files if not file.remark]
    if not taken and len(files) == 1:
        raise UserError(f"{files[0].path}: {files[0].remark}")
    for file in files:
        steps = file.fits and f"step {file.step} of {file.fits[0].training.steps}"
        print(f"{file.path}: {file.remark or f'{word_for(file.fits[0])}, {steps}'}")
    if taken:
        print(f"The workflow imports {len(taken)} of {len(files)} in place of training.")
    if not taken or any(file.is_wrong for file in files):
        raise UserError(f"{len(files) - len(taken)} of {len(files)} checkpoints are not taken")


def checkpoints_in(paths: Sequence[str]) -> list[Path]:
    """Return the files, and all checkpoints below the folders. Raises UserError without any."""
    files: list[Path] = []
    for path in map(Path, paths):
        files += sorted(path.rglob(PATTERN)) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{', '.join(paths)}: no {PATTERN} in this folder or below it")
    return files


def shapes_of(settings: Trained) -> Shapes:
    """Return the shapes of a model's or guide's official parameters; empty if there are none."""
    if settings.serves_every_process or getattr(settings, "num_classes", 0):
        return {}
    process = build_process(settings)
    build = build_network if isinstance(settings, TrainSettings) else build_guide
    with torch.device("meta"):
        return official_shapes(build(settings, process))


def recognize(path: Path, layouts: Sequence[tuple[Shapes, Trained]]) -> Recognized:
    """Return the models and guides that a checkpoint fits, by its shapes and by Γ in its path."""
    file = Recognized(path)
    try:
        checkpoint = read_checkpoint(path)
    except UserError as error:
        file.refuse(error)
        return file
    file.sha256, file.step = checkpoint.sha256, checkpoint.step
    weights = checkpoint.ema or checkpoint.online
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    alike = [settings for layout, settings in layouts if layout == shapes]
    in_path = [float(gamma) for gamma in GAMMA.findall(str(path))][-1:]
    for each in alike:
        if not in_path or getattr(each.process, "gamma", None) in (None, *in_path):
            file.fits.append(each)
    if not alike:
        file.remark = "its layers fit no model and no guide of the grid"
    elif not file.fits:
        file.remark = f"its layers fit {_words(alike)}, but its path has gamma={in_path[0]:g}"
    elif len(file.fits) > 1:
        file.refuse(
            f"fits {_words(file.fits)}: Γ is not in the weights; move it into a folder gamma=Γ, "
            "or name one (psld import FILE model=GRID/MODEL)"
        )
    return file


def choose_by_step(files: Iterable[Recognized]) -> None:
    """Of several files of one model, keep the one nearest to the training steps of the grid."""
    by_folder: dict[str, list[Recognized]] = {}
    for file in files:
        if not file.remark:
            by_folder.setdefault(file.fits[0].output, []).append(file)
    for alike in by_folder.values():
        steps = alike[0].fits[0].training.steps
        nearest = min(alike, key=lambda file: abs((file.step or 0) - steps))
        for file in alike:
            if file is not nearest:
                word = word_for(file.fits[0])
                file.remark = f"{word}, but {nearest.path} is nearer to its {steps} steps"


def note(file: Recognized, replace: bool) -> None:
    """Note a file that is to be taken, or refuse it, if weights of another origin are there."""
    if file.remark:
        return
    folder = file.fits[0].output
    try:
        make_way(folder, file.sha256, replace)
        note_checkpoint(folder, file.path)
    except UserError as error:
        file.refuse(error)


def word_for(settings: Trained) -> str:
    """Return the word that names a model or guide on a command line, such as model=paper/x."""
    key = "model" if isinstance(settings, TrainSettings) else "guide"
    return f"{key}={settings.grid_name}/{settings.name}"


def _words(fits: Iterable[Trained]) -> str:
    return ", ".join(map(word_for, fits))
