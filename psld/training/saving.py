"""Save a network that was trained in Python to a model folder."""

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from psld.config.parts import save_code
from psld.config.reads import Read
from psld.config.settings import groups_of, parse
from psld.data.store import ImageStore
from psld.models.build import build_process, check_rebuilt
from psld.models.manifest import make_way
from psld.models.settings import ModelSettings
from psld.networks.forward import check_network
from psld.training.export import write_model
from psld.training.files import TrainingHistory, write_history
from psld.training.init import with_sources
from psld.training.settings import TrainSettings
from psld.utils.errors import UserError, as_psld_errors


@as_psld_errors()
def save(
    folder: str | Path,
    network: nn.Module,
    settings: ModelSettings | Sequence[str] | str,
    history: Sequence[dict[str, float]] = (),
    replace: bool = False,
) -> None:
    """Write a network that was trained in Python into a model folder.

        model = psld.load("models/demo/psld-0.02")
        model.network.requires_grad_(True)                  # then continue its training
        psld.save("models/mine/tuned", model.network, model.settings)

    Args:
        folder: the output folder, which gets the same files as the output folder of psld train.
            Commands and `load` accept this folder. Tables note that the weights were saved from
            Python.
        network: a network in evaluation mode, such as `ema.network`. The network must have the
            architecture that `psld.models.build.build` builds from the settings.
        settings: the settings of the training, or overrides of psld train: ["dataset=digits",
            "network=mynets:Mixer", "training.steps=400"]. The manifest records the digest of the
            dataset if the dataset is prepared.
        history: entries with step, time and loss, for the training curve.
        replace: replace a model that is already in the folder.

    Raises UserError, and changes nothing, if the folder already has a model, the settings do not
    describe this network, the model of `settings.init` is missing, or an entry of the history is
    incomplete.
    """
    check_network(network)
    folder, call = Path(folder), "save()"
    if isinstance(settings, ModelSettings):
        data = f"data/{settings.dataset.name}.h5"
        names = {"name": folder.name, "grid_name": "by-hand", "data": data, "output": f"{folder}"}
        content = {**names, "runs": "runs", "device": "auto", "wandb": {}, **dict(settings)}
    else:
        from psld.config.compose import compose_content

        words = [settings] if isinstance(settings, str) else settings
        if not (isinstance(words, Sequence) and all(isinstance(word, str) for word in words)):
            wrong = f"{call}: settings is a {type(settings).__name__}"
            right = "the settings of a model or overrides of psld train are needed"
            raise UserError(f"{wrong}; {right}")
        words = [f"name={folder.name}", *words]
        content = compose_content("train", words, call, TrainSettings.free())
    entries = parse(TrainingHistory, {"entries": history}, f"{call}: history").entries
    run = parse(TrainSettings, content, call)
    if not all(read.content for read in groups_of(Read, run)):  # A loaded model has the digests.
        run = with_sources(run, folder)
    check_rebuilt(network, run, build_process(run), getattr(network, "data_deviation", 1.0))
    store = ImageStore.open_for(run.data, run.dataset) if Path(run.data).exists() else None
    make_way(folder, "", replace)
    save_code(run, folder)
    write_history(folder, [entry.model_dump() for entry in entries])
    write_model(folder, run, network, store, run.training.steps, saved=True)
