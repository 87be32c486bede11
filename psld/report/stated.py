"""The entries of an unpacked certificate, and comparisons with what they should be."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from psld.config.settings import parse
from psld.data.description import read_description
from psld.grid import paths
from psld.grid.resolved import Grid
from psld.grid.results import Weights
from psld.report.certificate import unpack
from psld.report.certification import GRID
from psld.report.differences import short
from psld.training.manifest import GuideManifest, ModelManifest, read_manifest
from psld.utils.errors import RunError, UserError
from psld.utils.files import read_json

MALFORMED = (LookupError, ValueError, TypeError, AttributeError, RuntimeError, ArithmeticError)


class Entries:
    """The entries of a certificate, and a list of everything that is wrong with them."""

    def __init__(self, certificate: Path, folder: Path) -> None:
        """Unpack a certificate into an empty folder.

        Raises UserError, with the name of the entry, if an entry is damaged or malformed.
        """
        self.certificate, self.folder = certificate, folder
        self.wrong: list[str] = []
        """Everything that does not hold, each with the name of its entry."""
        self.index = unpack(certificate, folder)
        with self.named(GRID):
            self.grid: Grid = parse(Grid, read_json(folder / GRID), where=GRID)
            self.expect(f"{GRID}: name", self.grid.name, self.index.grid)

    def weights_of_model(self, name: str) -> Weights:
        trained, folder = self.grid.models[name], self.grid.model_folder(name)
        manifest = read_manifest(self.folder / folder, ModelManifest)
        where = f"{folder}/manifest.json"
        self.expect(f"{where}: settings", manifest.settings.identity(), trained.settings)
        if manifest.dataset_digest is not None:
            digest = self.dataset_digest(trained.dataset)
            self.expect(f"{where}: dataset_digest", manifest.dataset_digest, digest)
        return Weights(**manifest.identity())

    def weights_of_guide(self, name: str) -> Weights:
        folder = paths.guide_folder(self.grid.name, name)
        manifest = read_manifest(self.folder / folder, GuideManifest)
        wanted = self.grid.guides[name].settings
        self.expect(f"{folder}/manifest.json: settings", manifest.settings.identity(), wanted)
        return Weights(**manifest.identity())

    def dataset_digest(self, dataset: str) -> str:
        digest = self.text(paths.dataset_digest(dataset)).strip()
        record = paths.dataset_record(dataset)
        self.expect(f"{record}: digest", read_description(self.folder / record).digest, digest)
        return digest

    def expect(self, where: str, said: Any, wanted: Any) -> None:
        """Add to `wrong` if an entry says something else than it should."""
        if said != wanted:
            self.wrong.append(f"{where} is {short(said)}, not {short(wanted)}")

    def text(self, path: str) -> str:
        if path not in self.index.sha256:
            raise UserError(f"{path}: missing")
        return (self.folder / path).read_text()

    @contextmanager
    def named(self, path: str) -> Iterator[None]:
        """Turn errors of malformed entries into a UserError with the names of file and entry."""
        try:
            yield
        except UserError as error:
            text = str(error).replace(f"{self.folder}/", "")
            raise UserError(f"{self.certificate}: {text}") from None
        except RunError as error:  # NaN among features
            raise UserError(f"{self.certificate}: {path}: {error}") from None
        except FileNotFoundError as error:
            missing = Path(error.filename).relative_to(self.folder)
            raise UserError(f"{self.certificate}: {missing}: missing") from None
        except MALFORMED as error:
            raise UserError(f"{self.certificate}: {path}: malformed ({error!r})") from None
