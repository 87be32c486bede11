"""Records of sampled shards. The workflow compares them instead of the shards."""

import re
from pathlib import Path

from psld.config.settings import Settings, read_record, write_record


class SampledShard(Settings):
    """One shard of a range."""

    index: int
    digest: str
    """Of its arrays and of what made them."""
    images: int


class ShardRecord(Settings):
    """A range of whole shards. It is written last, after the shards."""

    shards: tuple[SampledShard, ...]

    @classmethod
    def read(cls, path: str | Path) -> "ShardRecord":
        """Read a record. Raises UserError if it is damaged."""
        return read_record(cls, path, f"{path}: not the record of shards; sample again")

    def write(self, folder: str | Path) -> Path:
        """Write the record next to its shards and return its path."""
        path = record_path(folder, self.shards[0].index, self.shards[-1].index)
        write_record(path, self)
        return path


def record_path(folder: str | Path, first: int, last: int) -> Path:
    """Return the path of the record of the shards `first` to `last`, both included."""
    return Path(folder) / f"{first:05d}-{last:05d}.json"


def records_of(folder: str | Path, index: int) -> list[Path]:
    """Return the records of all ranges that hold this shard."""
    found = []
    for file in Path(folder).glob("*.json"):
        name = re.fullmatch(r"(\d{5})-(\d{5})\.json", file.name)
        if name and int(name[1]) <= index <= int(name[2]):
            found.append(file)
    return found


def remove_records(folder: str | Path, index: int) -> None:
    """Remove the records of all ranges that hold this shard."""
    for file in records_of(folder, index):
        file.unlink(missing_ok=True)
