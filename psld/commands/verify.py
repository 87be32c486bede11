"""Verify a certificate: recompute every number of every table, and list what does not hold.

    psld verify results/certificates/demo.zip   # or the folder of its files

Exits with 0 if every number holds, with 1 if one does not hold or cannot be recomputed, and with 2
for a file that is damaged or not a certificate.
"""

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


@entry_point("verify", VerifySettings, bare="files", has_config=False)
def main(settings: VerifySettings) -> None:
    from psld.report.certificate import verify
    from psld.report.formats import print_tables

    if len(settings.files) != 1:
        raise UserError("files: give one certificate")
    [path] = settings.files
    with TemporaryDirectory(prefix="psld-") as temporary:
        verified = verify(path, Path(temporary))
        print_tables(verified.grid, verified.results)
    for line in verified.wrong:
        print(f"wrong: {path}: {line}")
    for table, outcomes in verified.tables.items():
        counts = ", ".join(f"{n} {outcome}" for outcome, n in sorted(outcomes.items()))
        print(f"{path}: {table}: {counts}")
    if path.is_file():
        print(f"{path}: SHA-256 {sha256_of_file(path)}")
    if verified.wrong:
        raise RunError(f"{len(verified.wrong)} entries of {path} do not hold")
    if unknown := sum(outcomes["not recomputed"] for outcomes in verified.tables.values()):
        raise RunError(f"{unknown} numbers cannot be recomputed: evaluate with keep=2048")
