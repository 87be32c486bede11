"""The import of checkpoints of the official code as models and guides."""

from pathlib import Path

from psld.data.store import ImageStore
from psld.models.build import build, build_process
from psld.models.manifest import Imported, make_way
from psld.networks.ncsnpp import Encoder
from psld.paper.parameters import from_official, read_checkpoint
from psld.training.export import write_model
from psld.training.settings import ImportGuideSettings, ImportModelSettings
from psld.utils.errors import UserError, locating


def import_weights(settings: ImportModelSettings | ImportGuideSettings) -> None:
    """Write a model or a guide with the weights of a checkpoint, in the format of a training.

    Raises UserError if parameters are missing, unexpected, of a wrong shape or not finite; the
    message lists these parameters.
    """
    # The official code computes no moving average (EMA) of the weights of a guide.
    chosen = settings.weights if isinstance(settings, ImportModelSettings) else "online"
    path = settings.checkpoint
    checkpoint = read_checkpoint(path)
    network = build(settings, build_process(settings))
    if not isinstance(network, Encoder):
        raise UserError("training.objective: official checkpoints are not denoisers; use epsilon")
    store = None
    if Path(settings.data).exists():
        store = ImageStore.open_for(settings.data, settings.dataset)
    with locating(path):
        network.load_state_dict(from_official(checkpoint.weights(chosen), network))
    make_way(settings.output, checkpoint.sha256, settings.replace)
    imported = Imported(file=Path(path).name, sha256=checkpoint.sha256, weights=chosen)
    write_model(settings.output, settings, network, store, checkpoint.step, imported=imported)
    print(f"wrote {settings.output}: {chosen} weights, step {checkpoint.step}")
