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
    positionals: tuple[str, ...] = ()
    """The settings that the first words give, one word each."""
    after_dashes: str = ""
    """The setting that takes all words after `--`, as a list."""
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
        for key in self.positionals:
            kind = self.kind.model_fields[key].annotation
            shown.append("|".join(get_args(kind)) if get_origin(kind) is Literal else key.upper())
        last = [f"-- {self.after_dashes.upper()} …"] if self.after_dashes else []
        return " ".join([f"usage: {self.where}", *shown, "KEY=VALUE …", *last])

    def settings(self, words: list[str]) -> Settings | None:
        """Return the settings that words without flags give; None if Hydra has to compose them."""
        given, words = self.positional(words)
        name = self.record_in(words)
        if name is None and not self.has_config:
            if self.record:
                raise UserError(f"{self.where}: give {self.record}=GRID/NAME")
            return self._of_the_class(given, words)
        if name is None or self.is_changed(name, words):
            return None
        job = find_job(self.record, name, self._planned(name, words), self.job)
        plain = without(words, self.record, "record")
        content = updated(job.settings.model_dump() | given, plain)
        settings = parse(self.kind, content, f"{self.record}={name}")
        job.check()
        return settings

    def record_in(self, words: list[str]) -> str | None:
        """Return the name of the record that the words name; None without one."""
        name = value_in(words, self.record) if self.record else None
        if name is not None and ("/" in name or self.record in ("cell", "model", "guide")):
            return name
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
            if is_run:
                continue
            if self.changeable:
                return True
            raise UserError(
                f"{word}: the grid decides this for {self.record}={name}; only these can be given, "
                f"without quotes: {', '.join(sorted(self.run))}"
            )
        return False

    def _of_the_class(self, given: dict[str, Any], words: list[str]) -> Settings:
        if unreadable := [word for word in words if "=" not in word]:
            raise UserError(f"{unreadable[0]}: not a setting KEY=VALUE; {self.usage}")
        if words and self.kind.model_config.get("extra") == "allow":
            from psld.config.compose import content_of_words

            return parse(self.kind, given | content_of_words(words, self.where), self.where)
        return parse(self.kind, updated(given, words), self.where)

    def positional(self, words: list[str]) -> tuple[dict[str, Any], list[str]]:
        """Return the settings that the first words give, and those after `--`; and the others.

        Raises UserError if there are too few words.
        """
        given: dict[str, Any] = {}
        if self.after_dashes and "--" in words:
            dashes = words.index("--")
            given, words = {self.after_dashes: words[dashes + 1 :]}, words[:dashes]
        count = len(self.positionals)
        if len(words) < count or (self.after_dashes and not given):
            raise UserError(f"{self.where}: more words are needed; {self.usage}")
        return given | dict(zip(self.positionals, words, strict=False)), words[count:]
