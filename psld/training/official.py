"""The import of checkpoints of the official code as models and guides.

A checkpoint has neither the settings of its network nor Γ. To recognize the models of a grid in
checkpoints, the names and shapes of the parameters decide the network. Among models that differ in
Γ alone, the path of the file decides: the official scripts write `gamma=0.02` into it.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from psld.data.store import ImageStore
from psld.diffusion.process import LinearProcess
from psld.networks.official import LISTED, from_official, official_shapes, read_checkpoint
from psld.training.manifest import (
    GuideManifest,
    Imported,
    ModelManifest,
    make_way,
    note_checkpoint,
    write_manifest,
)
from psld.training.model import build_guide, build_network, build_process, save_weights
from psld.training.settings import (
    ImportFilesSettings,
    ImportGuideSettings,
    ImportModelSettings,
    TrainGuideSettings,
    TrainSettings,
)
from psld.training.start import denoiser_of_states, save_start
from psld.utils.device import provenance, use_device
from psld.utils.errors import UserError


def import_model(settings: ImportModelSettings) -> None:
    """Write a model with the weights of a checkpoint, as training does.

    Raises UserError, with a list, if any are missing, unexpected, of the wrong shape or not finite.
    """
    _import(settings, build_network, ModelManifest, settings.weights)


def import_guide(settings: ImportGuideSettings) -> None:
    """Write a guide with the weights of a checkpoint, as `import_model` does."""
    # The official code keeps no moving average of a guide.
    _import(settings, build_guide, GuideManifest, "online")


def _import(
    settings: ImportModelSettings | ImportGuideSettings,
    build: Callable[[Any, LinearProcess], nn.Module],
    kind: type[ModelManifest | GuideManifest],
    chosen: Literal["ema", "online"],
) -> None:
    path = settings.checkpoint
    checkpoint = read_checkpoint(path)
    weights = checkpoint.ema if chosen == "ema" else checkpoint.online
    if weights is None:
        raise UserError(f"{path}: holds no moving average; use weights=online")
    broken = [name for name, value in weights.items() if not torch.isfinite(value).all()]
    if broken:
        raise UserError(f"{path}: NaN or infinity in {', '.join(broken[:LISTED])}")
    process = build_process(settings)
    network = build(settings, process)
    store = None
    if Path(settings.data).exists():
        store = ImageStore.open_for(settings.data, settings.dataset)
    try:
        network.load_state_dict(from_official(weights, network))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    make_way(settings.output, checkpoint.sha256, settings.replace)
    step = checkpoint.step
    imported = Imported(file=Path(path).name, sha256=checkpoint.sha256, weights=chosen)
    source = imported.model_dump(exclude={"file"})
    weights_sha256 = save_weights(settings.output, network, source)
    if store and kind is ModelManifest:
        device = use_device(settings.device)
        denoise = denoiser_of_states(process, network.to(device).eval())
        print("measuring where samplers can start", flush=True)
        folder, flip = Path(settings.output), settings.dataset.flip
        save_start(folder, store, flip, denoise, weights_sha256, device)
    manifest = kind(
        name=settings.name,
        grid=settings.grid_name,
        settings=settings.model(),
        dataset_digest=store and store.digest,
        step=step,
        images_seen=step and step * settings.training.batch_size,
        parameters=sum(p.numel() for p in network.parameters()),
        seconds=None,
        device=None,
        ranks=None,
        run=None,
        imported=imported,
        weights_sha256=weights_sha256,
        **provenance(),
    )
    write_manifest(settings.output, manifest)
    print(f"wrote {settings.output}: {chosen} weights, step {step}")


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
    matching = [settings for layout, settings in layouts if layout == shapes]
    in_path = [float(gamma) for gamma in GAMMA.findall(str(path))][-1:]
    for each in matching:
        if not in_path or getattr(each.process, "gamma", None) in (None, *in_path):
            file.fits.append(each)
    if not matching:
        file.remark = "its layers fit no model and no guide of the grid"
    elif not file.fits:
        file.remark = f"its layers fit {_words(matching)}, but its path has gamma={in_path[0]:g}"
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
    for of_one_model in by_folder.values():
        steps = of_one_model[0].fits[0].training.steps
        nearest = min(of_one_model, key=lambda file: abs((file.step or 0) - steps))
        for file in of_one_model:
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
