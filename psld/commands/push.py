"""Push a model to the Hugging Face Hub, with a card of its settings and results.

    psld push models/demo/cld me/digits-cld license=mit     # prints the line that loads it

Needs the extra `hub` (pip install 'psld[hub]') and a login (`hf auth login`, or HF_TOKEN). The
files are checked first. The card replaces the repository's README.md.
"""

from pathlib import Path

from psld.commands.entry import entry_point
from psld.config.settings import Settings
from psld.utils.errors import UserError


class PushSettings(Settings):
    """Settings of `psld push`."""

    places: tuple[str, ...]
    """Folder of a trained model, and USER/NAME of the repository."""
    license: str = "unknown"
    """License of the weights, in the words of the Hub, such as mit. The dataset may limit it."""


@entry_point("push", PushSettings, bare="places", has_config=False)
def main(settings: PushSettings) -> None:
    from psld.library import load
    from psld.report.model_card import model_card
    from psld.training.hub import push
    from psld.training.manifest import read_manifest
    from psld.training.start import START, load_start

    if len(settings.places) != 2:
        raise UserError("places: give the folder of a model and USER/NAME")
    folder, repository = Path(settings.places[0]), settings.places[1]
    model = load(folder, "cpu")
    if (folder / START).exists():  # An imported model may have none.
        load_start(folder, model.weights_sha256)
    card = model_card(read_manifest(folder), repository, settings.license)
    print(f'psld.load("hf://{repository}@{push(folder, repository, card)}")')
