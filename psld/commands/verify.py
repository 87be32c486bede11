"""Verify certificates: recompute every number of every table, and say which hold.

    psld verify results/certificates/demo.zip
    psld verify cluster-a.zip cluster-b.zip     # of one grid: prints the tables of all cells

Prints the recomputed tables, everything that does not hold, and the SHA-256 of each certificate.
Exits with 0 if every number holds, with 1 if one does not hold or cannot be recomputed, and with 2
for a file that is damaged or not a certificate.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import Field

from psld.commands.entry import entry_point
from psld.config.settings import Settings
from psld.utils.errors import RunError
from psld.utils.files import sha256_of_file


class VerifySettings(Settings):
    """Settings of `psld verify`."""

    files: tuple[Path, ...] = Field(min_length=1)
    """Paths of the certificates."""


@entry_point("verify", VerifySettings, bare="files", has_config=False)
def main(settings: VerifySettings) -> None:
    from psld.report.formats import print_tables
    from psld.report.verification import OUTCOMES, Verification, merge

    with TemporaryDirectory(prefix="psld-") as folder:
        verified = [
            Verification(file, Path(folder) / str(number))
            for number, file in enumerate(settings.files)
        ]
        merge(verified, Path(folder) / "merged")
        print_tables(verified[0].grid, Path(folder) / "merged")
    for each in verified:
        for line in each.wrong:
            print(f"wrong: {each.certificate}: {line}")
        for table, outcomes in each.tables.items():
            counts = ", ".join(f"{outcomes[o]} {o}" for o in OUTCOMES if outcomes[o])
            print(f"{each.certificate}: {table}: {counts}")
        print(f"{each.certificate}: SHA-256 {sha256_of_file(each.certificate)}")
    wrong = sum(len(each.wrong) for each in verified)
    if wrong:
        raise RunError(f"{wrong} entries of {' '.join(map(str, settings.files))} do not hold")
    if unknown := sum(c["not recomputed"] for each in verified for c in each.tables.values()):
        raise RunError(
            f"{unknown} numbers cannot be recomputed: their features are not in the certificate; "
            "psld evaluate keep=2048 keeps them"
        )
