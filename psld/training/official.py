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
from psld.networks.official import (
    check_finite,
    from_official,
    official_shapes,
    read_checkpoint,
)
from psld.training.manifest import (
    MANIFEST,
    GuideManifest,
    Imported,
    ModelManifest,
    make_way,
    note_checkpoint,
    noted_checkpoint,
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
    process = build_process(settings)
    network = build(settings, process)
    store = None
    if Path(settings.data).exists():
        store = ImageStore.open_for(settings.data, settings.dataset)
    try:
        network.load_state_dict(from_official(checkpoint.weights(chosen), network))
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
MISNAMED = "celeba64", 0.01, "scripts_psld/ablations/uncond/celeba64/train_uncond_psld.sh"
"""Dataset, Γ in the path, and the official script that trains Γ = 0.25 under this name."""

Trained = TrainSettings | TrainGuideSettings
Shapes = dict[str, tuple[int, ...]]


@dataclass
class Recognized:
    """A checkpoint, and the models or guides of the grid that it may be."""

    path: Path
    sha256: str = ""
    step: int | None = None
    gamma: float | None = None
    """Γ in its path."""
    fits: list[Trained] = field(default_factory=list)
    remark: str = ""
    """The reason why it is not taken; empty if it is."""
    is_wrong: bool = False
    """True if the user has to do something before it can be taken."""

    def refuse(self, error: UserError | str) -> None:
        self.remark, self.is_wrong = str(error).removeprefix(f"{self.path}: "), True


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
        file = recognize(path, layouts)
        if not file.remark:
            take(file, taken, settings.replace)
        is_wrong |= file.is_wrong
        line = f"{path}: {file.remark or described(file)}"
        if file.remark and len(paths) == 1:
            raise UserError(line)
        print(line, flush=True)
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
    if unreadable := [str(path) for path in files if not str(path).isprintable()]:
        raise UserError(f"{unreadable[0]!a}: rename it: not all of its characters are printable")
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
    if in_path := GAMMA.findall(str(path)):
        file.gamma = float(in_path[-1])
    weights = checkpoint.ema or checkpoint.online
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    matching = [settings for layout, settings in layouts if layout == shapes]
    for each in matching:
        if file.gamma is None or getattr(each.process, "gamma", None) in (None, file.gamma):
            file.fits.append(each)
    if not matching:
        file.remark = "its layers fit no model and no guide of the grid"
    elif not file.fits:
        file.remark = f"its layers fit {_words(matching)}, but its path has gamma={file.gamma:g}"
    elif len(file.fits) > 1:
        file.refuse(
            f"fits {_words(file.fits)}: Γ is not in the weights; move it into a folder gamma=Γ, "
            "or name one (psld import_model FILE model=GRID/MODEL)"
        )
    else:
        try:  # as the import will
            is_model = isinstance(file.fits[0], TrainSettings)
            check_finite(checkpoint.weights("ema" if is_model else "online"))
        except UserError as error:
            file.refuse(error)
    return file


def take(file: Recognized, taken: dict[str, Recognized], replace: bool) -> None:
    """Note a file, unless another one is nearer to the training steps of the grid.

    Refuse it if weights of another origin are there.

    Args:
        taken: the files of this import, by the folder of their model; this one is added.
        replace: neither weights of another origin nor files that wait for their import count.
    """
    settings = file.fits[0]
    folder, steps = settings.output, settings.training.steps
    other, remedy = taken.get(folder), ""
    try:
        if other is None and not replace:
            other, remedy = noted_earlier(file, folder), "; replace=true replaces it"
        if other and other.sha256 != file.sha256:
            theirs, ours = (abs((each.step or 0) - steps) for each in (other, file))
            if theirs <= ours:
                near = "nearer" if theirs < ours else "as near"
                where = f"{other.path} is {near} to its {steps} steps{remedy}"
                file.remark = f"{word_for(settings)}, but {where}"
                return
        make_way(folder, file.sha256, replace)
        note_checkpoint(folder, file.path)
    except UserError as error:
        file.refuse(error)
        return
    taken[folder] = file


def noted_earlier(file: Recognized, folder: str) -> Recognized | None:
    """Return another checkpoint that waits to be imported as a model, if it can be read."""
    path = noted_checkpoint(folder)
    if path in (None, str(file.path)) or (Path(folder) / MANIFEST).exists():
        return None
    try:
        checkpoint = read_checkpoint(path)
    except UserError:
        return None
    return Recognized(Path(path), checkpoint.sha256, checkpoint.step)


def described(file: Recognized) -> str:
    """Return what a file is taken for, and warnings where that may be wrong."""
    settings = file.fits[0]
    text = f"{word_for(settings)}, step {file.step} of {settings.training.steps}"
    if file.step is not None and file.step < settings.training.steps / 2:
        text += "; warning: less than half of the training"
    dataset, gamma, script = MISNAMED
    if (settings.dataset.name, file.gamma) == (dataset, gamma):
        text += (
            f"; warning: the official {script} trains Γ = 0.25 under this name: if the file is "
            "from it, name its model (psld import_model FILE model=GRID/MODEL)"
        )
    return text


def word_for(settings: Trained) -> str:
    """Return the word that names a model or guide on a command line, such as model=paper/x."""
    key = "model" if isinstance(settings, TrainSettings) else "guide"
    return f"{key}={settings.grid_name}/{settings.name}"


def _words(fits: Iterable[Trained]) -> str:
    return ", ".join(map(word_for, fits))
