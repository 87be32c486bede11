"""The words of a command line, KEY=VALUE, read without Hydra.

A job of the workflow starts with words that need no grammar: texts, numbers, true, false and null.
pydantic turns the text of a value into the type of its setting. Lists, quotes, sweeps and groups of
configs are Hydra's (`psld.config.compose`).
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

PLAIN = re.compile(r"[A-Za-z_][\w.-]*=[^\[\]{}'\"$,\\]*")
"""A word whose value Hydra would read in the same way, apart from spaces and special characters."""


def key_of(word: str) -> str:
    """Return the dotted name of the setting of a word, without Hydra's prefixes and packages."""
    return word.partition("=")[0].rpartition("@")[2].lstrip("+~")


def is_plain(word: str) -> bool:
    """Check that a word is KEY=VALUE with a value that needs no grammar."""
    return PLAIN.fullmatch(word) is not None


def value_in(words: Iterable[str], key: str) -> str | None:
    """Return the last value that the words give to a key; None without one."""
    values = [word.partition("=")[2] for word in words if word.startswith(f"{key}=")]
    return values[-1] if values else None


def without(words: Iterable[str], *keys: str) -> list[str]:
    """Return the words that set none of these keys."""
    return [word for word in words if word.partition("=")[0] not in keys]


def updated(content: Mapping[str, Any], words: Iterable[str]) -> dict[str, Any]:
    """Return a settings' content with the values of the words; a dotted key leads into groups."""
    result = dict(content)
    for word in words:
        key, _, value = word.partition("=")
        first, _, rest = key.partition(".")
        if rest:
            inner = result.get(first)
            result[first] = updated(inner if isinstance(inner, dict) else {}, [f"{rest}={value}"])
        else:
            result[first] = None if value == "null" else value
    return result


def quoted(text: str) -> str:
    """Return a text in quotes, so that Hydra takes it as it is."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
