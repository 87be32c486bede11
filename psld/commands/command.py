"""A command: its name, its settings, and where they come from.

The settings come from one of three places:

- a record, named by KEY=GRID/NAME, if the other words set only how the job runs. So every job of
  the workflow starts, without Hydra;
- the settings class, for commands about a whole grid, which have no config;
- configs/COMMAND.yaml, composed by Hydra (`psld.commands.composed`). If a training's record is
  named, its values are under the words.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from psld.config.settings import Settings, parse
from psld.config.words import is_plain, key_of, updated, value_in, without
from psld.grid.cache import find_job
from psld.grid.records import Job
from psld.utils.errors import UserError


@dataclass(frozen=True)
class FromRecord:
    """How a command takes its settings from a record."""

    kind: str
    """The kind of the record, an attribute of `Grid`: `cells`."""
    run: Collection[str]
    """The settings of how the job runs; all others decide the result."""
    job: str = "job"
    """The command's job, an attribute of the record."""
    changeable: bool = False
    """True if other words may change the record: a training by hand starts from a grid's model."""


@dataclass(frozen=True)
class Command:
    """A command's name and settings, and where they come from."""

    name: str
    kind: type[Settings]
    records: Mapping[str, FromRecord] = field(default_factory=dict)
    """The keys that name a record."""
    bare: str | None = None
    """The setting that words without `=`, and those after `--`, give: a list for a command without
    a config."""
    has_config: bool = True

    @property
    def where(self) -> str:
        return f"configs/{self.name}.yaml" if self.has_config else f"psld {self.name}"

    def settings(self, words: list[str]) -> Settings | None:
        """Return the settings that words without flags give; None if Hydra has to compose them."""
        if not self.has_config:
            return self._of_the_class(words)
        if (named := self.record_in(words)) and (job := self._planned_job(*named, words)):
            bare = [word for word in words if self.is_bare(word)]
            plain = [word for word in without(words, named[0], "record") if word not in bare]
            kind = type(job.settings)
            kind = self.kind if issubclass(self.kind, kind) else kind
            content = updated(job.settings.model_dump() | self._of_bare(bare), plain)
            return parse(kind, content, "=".join(named))
        return None

    def record_in(self, words: list[str]) -> tuple[str, str] | None:
        """Return the key and the name of the record that the words name; None without one."""
        for key in self.records:
            name = value_in(words, key)
            if name is not None and ("/" in name or key in ("cell", "model", "guide")):
                return key, name
        if value_in(words, "record") is not None:
            raise UserError(f"record: give it with {' or '.join(self.records)}=GRID/NAME")
        return None

    def load_record(self, key: str, name: str, words: list[str]) -> Job:
        """Return the job of a record.

        Raises UserError if there is none, or if it is not the one that `record=DIGEST` asks for.
        """
        record = self.records[key]
        return find_job(key, name, value_in(words, "record"), record.kind, record.job)

    def _planned_job(self, key: str, name: str, words: list[str]) -> Job | None:
        """Return the job of a record; None if words change it, which takes Hydra.

        Raises UserError if the record is not changeable.
        """
        record = self.records[key]
        for word in without(words, key, "record"):
            is_run = key_of(word).partition(".")[0] in record.run and is_plain(word)
            if is_run or self.is_bare(word):
                continue
            if record.changeable:
                return None
            raise UserError(
                f"{word}: the grid decides this for {key}={name}; only these can be given, without "
                f"quotes: {', '.join(sorted(record.run))}"
            )
        return self.load_record(key, name, words)

    def _of_the_class(self, words: list[str]) -> Settings:
        after = words.index("--") if "--" in words else len(words)
        words, bare = words[:after], words[after + 1 :]
        if flags := [word for word in words if word.startswith("-")]:
            raise UserError(f"unrecognized arguments: {flags[0]}")
        bare += [word for word in words if self.is_bare(word)]
        others = [word for word in words if word not in bare]
        if unreadable := [word for word in others if "=" not in word]:
            raise UserError(f"{unreadable[0]}: not a setting KEY=VALUE")
        # A rule passes an empty text for a resource that is not set.
        others = [word for word in others if not word.endswith("=")]
        return parse(self.kind, updated(self._of_bare(bare), others), self.where)

    def is_bare(self, word: str) -> bool:
        """Check that a word is no setting: official checkpoints have `=` in their names."""
        if self.bare is None or word.startswith("-"):
            return False
        key, equals, _ = word.partition("=")
        is_path = "/" in key and not key.lstrip("+~").startswith("hydra/")
        return not equals or is_path or Path(word).is_file()

    def _of_bare(self, bare: list[str]) -> dict[str, Any]:
        if not bare:
            return {}
        return {self.bare: bare[-1] if self.has_config else bare}
