"""A command: its name, its settings, and where they come from.

The settings come from one of three places:

- a record, named by KEY=GRID/NAME, if the other words set only how the job runs. So every job of
  the workflow starts, without Hydra;
- the settings class, for commands about a whole grid, which have no config;
- configs/COMMAND.yaml, composed by Hydra (`psld.commands.composed`). If a record is named, the
  words of its grid come first.
"""

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from psld.cluster.job import RECORDS
from psld.config.settings import Settings, is_plain, key_of, parse, updated, value_in, without
from psld.grid.cache import find_job
from psld.utils.errors import UserError


@dataclass(frozen=True)
class Command:
    name: str
    kind: type[Settings]
    record: str = ""
    """The key that names a record, of `psld.grid.cache.RECORDS`; empty without records."""
    job: str = "job"
    """The command's job, an attribute of the record."""
    also: Collection[str] = ()
    """Settings that may be given with a record besides those of how its job runs (`FREE`)."""
    changeable: bool = False
    """True if other words may change the record: a training by hand starts from a grid's model."""
    bare: str = ""
    """Names of the settings that words without `=` give, one word each; `-- NAME …` takes all words
    after `--` as a list."""
    has_config: bool = True

    @property
    def run(self) -> set[str]:
        """The settings that may be given with a record: they change no result of it."""
        return self.kind.free().union(self.also)

    @property
    def unrecorded(self) -> set[str]:
        """The settings that no record has. Further averages become models, with manifests."""
        return self.kind.free() - {"averages"}

    @property
    def where(self) -> str:
        """The place of wrong settings."""
        return f"psld {self.name}"

    @property
    def usage(self) -> str:
        """The form of a command line; a word of a fixed choice is shown as `sync|dashboard`."""
        shown = []
        for key in self.bare.split():
            field = self.kind.model_fields.get(key)
            kind = field and field.annotation
            shown.append("|".join(get_args(kind)) if get_origin(kind) is Literal else key.upper())
        return " ".join([f"usage: {self.where}", "KEY=VALUE …", *shown])

    def settings(self, words: list[str]) -> Settings | None:
        """Return the settings that words without flags give; None if Hydra has to compose them."""
        if self.bare and not words:
            raise UserError(f"{self.where}: more words are needed; {self.usage}")
        name = self.record_in(words)
        if name is None and not self.has_config:
            if self.record:
                raise UserError(f"{self.where}: give {self.record}=GRID/NAME")
            return self._of_the_class(words)
        if name is None or self.is_changed(name, words):
            return None
        bare = [word for word in words if self.is_bare(word)]
        given = self.of_bare(bare)
        job = find_job(self.record, name, self._planned(name, words), self.job)
        plain = [word for word in without(words, self.record, "record") if word not in bare]
        content = updated(job.settings.model_dump() | given, plain)
        settings = parse(self.kind, content, f"{self.record}={name}")
        job.check()
        return settings

    def record_in(self, words: list[str]) -> str | None:
        """Return the name of the record that the words name; None without one."""
        name = value_in(words, self.record) if self.record else None
        if name is not None and ("/" in name or self.record in ("cell", "model", "guide")):
            return name
        if self.record and value_in(words, "record") is not None:
            raise UserError(f"record: give it with {self.record}=GRID/NAME")
        return None

    def _planned(self, name: str, words: list[str]) -> str | None:
        """Return the digest in `record=`; None without one.

        Raises UserError if Snakemake has planned another one before it submitted this job.
        """
        planned = value_in(words, "record")
        if planned and planned not in os.environ.get(RECORDS, planned).split(","):
            raise UserError(
                f"{self.record}={name}: the grid has changed since this job was submitted; run "
                "Snakemake again"
            )
        return planned

    def is_changed(self, name: str, words: list[str]) -> bool:
        """Check if words change the record, which takes Hydra.

        Raises UserError if the record is not changeable.
        """
        for word in without(words, self.record, "record"):
            is_run = key_of(word).partition(".")[0] in self.run and is_plain(word)
            if is_run or self.is_bare(word):
                continue
            if self.changeable:
                return True
            raise UserError(
                f"{word}: the grid decides this for {self.record}={name}; only these can be given, "
                f"without quotes: {', '.join(sorted(self.run))}"
            )
        return False

    def _of_the_class(self, words: list[str]) -> Settings:
        after = words.index("--") if "--" in words else len(words)
        words, last = words[:after], words[after + 1 :]
        if flags := [word for word in words if word.startswith("-")]:
            raise UserError(f"unrecognized arguments: {flags[0]}")
        bare = [word for word in words if self.is_bare(word)]
        others = [word for word in words if word not in bare]
        if unreadable := [word for word in others if "=" not in word]:
            raise UserError(f"{unreadable[0]}: not a setting KEY=VALUE")
        named = self.of_bare([*bare, *last])
        if others and self.kind.model_config.get("extra") == "allow":
            from psld.config.compose import content_of_words

            return parse(self.kind, named | content_of_words(others, self.where), self.where)
        return parse(self.kind, updated(named, others), self.where)

    def is_bare(self, word: str) -> bool:
        """Check that a word is no setting: official checkpoints have `=` in their names."""
        if not self.bare or word.startswith("-"):
            return False
        key, equals, _ = word.partition("=")
        is_path = "/" in key and not key.lstrip("+~").startswith("hydra/")
        return not equals or is_path or Path(word).is_file()

    def of_bare(self, words: list[str]) -> dict[str, Any]:
        """Return the settings that words without `=` give. Raises UserError for one too many."""
        keys = self.bare.split()
        if keys[-1:] == ["…"]:
            return {keys[-2]: words} if words else {}
        if len(words) > len(keys):
            raise UserError(f"{words[len(keys)]}: one word too many; {self.usage}")
        return dict(zip(keys, words, strict=False))
