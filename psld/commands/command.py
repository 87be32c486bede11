"""A command: its name, its settings class, and the source of its settings.

A word is one argument of the command line. The settings come from one of three sources:

- A record of a grid, which the word KEY=GRID/NAME names. This source is used if all other words set
  only how the job runs. Every job of the workflow starts this way, without importing Hydra.
- The defaults of the settings class, for commands without a config, such as the commands that apply
  to a complete grid.
- configs/COMMAND.yaml, composed by Hydra (`psld.commands.composed`). If a word names a record, the
  overrides from its grid come before the words of the command line.
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
    """The key that names a record, from `psld.grid.cache.RECORDS`. Empty if the command accepts no
    record."""
    job: str = "job"
    """The attribute of the record that holds the job of this command."""
    also: Collection[str] = ()
    """Settings that may be given together with a record, in addition to the `FREE` settings."""
    changeable: bool = False
    """Whether overrides may change the settings of the record. For example, a training by hand may
    take the settings of a model in a grid and override some of them."""
    positionals: tuple[str, ...] = ()
    """The settings that the first words of the command line set without KEY=, one word each."""
    after_dashes: str = ""
    """The setting that receives all words after `--`, as a list."""
    has_config: bool = True

    @property
    def run(self) -> set[str]:
        """The settings that may be given together with a record.

        These settings do not change the result of the job.
        """
        return self.kind.free().union(self.also)

    @property
    def unrecorded(self) -> set[str]:
        """The settings that no record contains.

        The free setting `averages` is excluded, because each average is recorded as a model.
        """
        return self.kind.free() - {"averages"}

    @property
    def where(self) -> str:
        """The prefix of error messages about settings."""
        return f"psld {self.name}"

    @property
    def usage(self) -> str:
        """The usage line. A positional argument with fixed choices is shown as `sync|dashboard`."""
        shown = []
        for key in self.positionals:
            kind = self.kind.model_fields[key].annotation
            shown.append("|".join(get_args(kind)) if get_origin(kind) is Literal else key.upper())
        last = [f"-- {self.after_dashes.upper()} …"] if self.after_dashes else []
        return " ".join([f"usage: {self.where}", *shown, "KEY=VALUE …", *last])

    def settings(self, words: list[str]) -> Settings | None:
        """Parse words that contain no flags. Returns None if Hydra has to compose the settings."""
        given, words = self.positional(words)
        name = self.record_in(words)
        if name is None and not self.has_config:
            if self.record:
                raise UserError(
                    f"{self.where}: {self.record} is missing; add {self.record}=GRID/NAME"
                )
            return self._parse_with_class(given, words)
        if name is None or self.is_changed(name, words):
            return None
        job = find_job(self.record, name, self._planned(name, words), self.job)
        plain = without(words, self.record, "record")
        content = updated(job.settings.model_dump() | given, plain)
        settings = parse(self.kind, content, f"{self.record}={name}")
        job.check()
        return settings

    def record_in(self, words: list[str]) -> str | None:
        """Return the name of the record that the words name; None if they name no record."""
        name = value_in(words, self.record) if self.record else None
        if name is not None and ("/" in name or self.record in ("cell", "model", "guide")):
            return name
        return None

    def _planned(self, name: str, words: list[str]) -> str | None:
        """Return the digest of the record in the word `record=DIGEST`; None without this word.

        Raises UserError if this digest is not among the digests that Snakemake planned for this
        job.
        """
        planned = value_in(words, "record")
        if planned and planned not in os.environ.get(RECORDS, planned).split(","):
            raise UserError(
                f"{self.record}={name}: the grid has changed since this job was submitted; "
                "run Snakemake again"
            )
        return planned

    def is_changed(self, name: str, words: list[str]) -> bool:
        """Check if words change the record, so that Hydra has to compose the settings.

        Raises UserError if the record is not changeable.
        """
        for word in without(words, self.record, "record"):
            is_run = key_of(word).partition(".")[0] in self.run and is_plain(word)
            if is_run:
                continue
            if self.changeable:
                return True
            raise UserError(
                f"{word}: the grid sets this for {self.record}={name}, which can be combined only "
                f"with these settings, without quotes: {', '.join(sorted(self.run))}"
            )
        return False

    def _parse_with_class(self, given: dict[str, Any], words: list[str]) -> Settings:
        if unreadable := [word for word in words if "=" not in word]:
            raise UserError(f"{unreadable[0]}: not of the form KEY=VALUE; {self.usage}")
        if words and self.kind.model_config.get("extra") == "allow":
            from psld.config.compose import content_of_words

            return parse(self.kind, given | content_of_words(words, self.where), self.where)
        return parse(self.kind, updated(given, words), self.where)

    def positional(self, words: list[str]) -> tuple[dict[str, Any], list[str]]:
        """Split words into settings that are given by position or after `--`, and other words.

        Raises UserError if there are too few words.
        """
        given: dict[str, Any] = {}
        if self.after_dashes and "--" in words:
            dashes = words.index("--")
            given, words = {self.after_dashes: words[dashes + 1 :]}, words[:dashes]
        count = len(self.positionals)
        if len(words) < count or (self.after_dashes and not given):
            raise UserError(f"{self.where}: missing arguments; {self.usage}")
        return given | dict(zip(self.positionals, words, strict=False)), words[count:]
