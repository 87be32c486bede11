"""Verify certificates: recompute every number of every table, and list what does not hold.

    psld verify results/certificates/demo.zip   # or the folder of its files
    psld verify cluster-a.zip cluster-b.zip     # of one grid: prints the tables of all cells

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
    from psld.report.certificate import merge, verify
    from psld.report.formats import print_tables

    with TemporaryDirectory(prefix="psld-") as temporary:
        folder = Path(temporary)
        verified = {path: verify(path, folder / str(n)) for n, path in enumerate(settings.files)}
        print_tables(merge(verified, folder / "merged"), folder / "merged")
    wrong = unknown = 0
    for path, each in verified.items():
        for line in each.wrong:
            print(f"wrong: {path}: {line}")
        for table, outcomes in each.tables.items():
            counts = ", ".join(f"{n} {outcome}" for outcome, n in sorted(outcomes.items()))
            print(f"{path}: {table}: {counts}")
            unknown += outcomes["not recomputed"]
        wrong += len(each.wrong)
        if path.is_file():
            print(f"{path}: SHA-256 {sha256_of_file(path)}")
    if wrong:
        raise RunError(f"{wrong} entries of {' '.join(map(str, verified))} do not hold")
    if unknown:
        raise RunError(f"{unknown} numbers cannot be recomputed: evaluate with keep=2048")
