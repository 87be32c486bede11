"""Verify a certificate: compute its tables again, compare them, and list every difference.

    psld verify demo.zip                              # or the folder of its files
    psld verify demo.zip grid=demo                    # values, bands and settings, with your grid
    psld verify demo.zip reference=features/digits    # and the reference, with your own

Exits with 0 if nothing differs, with 1 if something differs or cannot be recomputed, and with 2 for
a file that is damaged or not a certificate. docs/results.md says what that proves.
"""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

from psld.commands.entry import entry_point
from psld.config.settings import Settings
from psld.utils.errors import RunError, UserError
from psld.utils.files import sha256_of_file


class VerifySettings(Settings):
    """Settings of `psld verify`."""

    files: tuple[Path, ...]
    """Path of the certificate."""
    grid: str | None = None
    """Name of your grid to compare with; null: the one with the certificate's name, if any."""
    reference: Path | None = None
    """Folder that has references of your own, there or below, such as features/digits."""


@entry_point("verify", VerifySettings, bare="files", has_config=False)
def main(settings: VerifySettings) -> None:
    import torch

    from psld.report.certificate import verify
    from psld.report.formats import print_tables

    if len(settings.files) != 1:
        raise UserError("files: give one certificate")
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)  # On a busy machine, two threads took ten times as long.
    [path] = settings.files
    with TemporaryDirectory(prefix="psld-") as temporary:
        verified = verify(path, Path(temporary), settings.grid, settings.reference)
        print_tables(verified.grid, verified.results, with_summary=False)
    for line in verified.wrong:
        print(f"differs: {path}: {line}")
    for table, checked in verified.tables.items():
        counts = ", ".join(f"{n} {what}" for what, n in sorted(checked.items()))
        print(f"{path}: {table}: {counts}")
    for line in verified.notes:
        print(f"{path}: {line}")
    print(f"{path}: not proven: that the features are of samples of the models that are named")
    if path.is_file():
        print(f"{path}: SHA-256 {sha256_of_file(path)}")
    if verified.wrong:
        raise RunError(f"{path}: {len(verified.wrong)} differences, listed above")
    if unknown := sum(checked["not recomputed"] for checked in verified.tables.values()):
        raise RunError(f"{unknown} numbers cannot be recomputed: evaluate with keep=2048")
