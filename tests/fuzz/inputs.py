"""Damaged inputs, and what a reader may do with them: read what is there, or refuse in one line."""

import json
import signal
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import strategies as st

from psld.utils.errors import PSLDError, explained, text_of

CPU_SECONDS = 5
"""More than this for a small input is a hang."""

Place = tuple[str | int, ...]
"""The keys and indices that lead to a value."""

ODD = (
    *("null", "true", "-1", "0", "1", "1.5", "[]", "{}", "[[]]", '[{"a": null}]', '{"a": []}'),
    *("NaN", "-Infinity", "1e999", "-0.0", "1e308", "9" * 30, "9" * 5000, "-" + "9" * 400),
    *('""', '"\\u0000"', '"\\ud800"', '"../../x"', '"/"', '"-x"', '"$(x)"', '"\\n"', '"é"'),
    *(f'"{"x" * 5000}"', "[" * 1500 + "]" * 1500, '{"a":' * 1500 + "1" + "}" * 1500, "@", ""),
)
"""JSON texts that take the place of a value; the last ones are no JSON."""


def damaged(content: bytes) -> st.SearchStrategy[bytes]:
    """Flip, set, zero, cut, repeat or move some bytes, once to three times; or change nothing."""
    kinds = ("flip", "set", "zero", "ones", "cut", "repeat", "move", "end")
    places = st.integers(0, len(content))
    changes = st.tuples(st.sampled_from(kinds), places, st.integers(1, 40), st.integers(0, 255))
    return st.lists(changes, max_size=3).map(lambda done: _damage(content, done))


def _damage(content: bytes, changes: list[tuple[str, int, int, int]]) -> bytes:
    for kind, start, length, value in changes:
        part = content[start : start + length]
        before, after = content[:start], content[start + len(part) :]
        match kind:
            case "flip":
                part = bytes(byte ^ (1 << value % 8) for byte in part[:1]) + part[1:]
            case "set":
                part = bytes([value]) + part[1:]
            case "zero" | "ones":
                part = bytes([0 if kind == "zero" else 255]) * len(part)
            case "cut":
                part = b""
            case "repeat":
                part += part
            case "move":
                before, part = before + after[:value], part
                after = after[value:]
            case "end":
                part = after = b""
        content = before + part + after
    return content


def changed(content: Any) -> st.SearchStrategy[str]:
    """The JSON text of `content` with one or two values, keys or lengths changed."""
    places = st.sampled_from(list(_places(content)))
    kinds = st.sampled_from(("odd", "odd", "remove", "rename", "repeat", "swap"))
    changes = st.tuples(places, kinds, st.sampled_from(ODD))
    return st.lists(changes, min_size=1, max_size=2).map(lambda done: _change(content, done))


def _places(content: Any, place: Place = ()) -> Iterator[Place]:
    yield place
    items = content.items() if isinstance(content, dict) else ()
    for key, value in enumerate(content) if isinstance(content, list) else items:
        yield from _places(value, (*place, key))


def _change(content: Any, changes: list[tuple[Place, str, str]]) -> str:
    texts = {}
    root = [json.loads(json.dumps(content))]
    for number, (place, kind, text) in enumerate(changes):
        parent, key = root, 0
        try:
            for following in place:
                parent, key = parent[key], following
            value = parent[key]
        except (KeyError, IndexError, TypeError):
            continue  # another change has removed it
        if isinstance(parent, str):
            continue  # it was in what another change has replaced
        match kind:
            case "odd":
                mark = f"change {number}"
                texts[json.dumps(mark)] = text
                parent[key] = mark
            case "remove":
                del parent[key]
            case "rename" if isinstance(parent, dict):
                parent[f"{key}x"] = parent.pop(key)
            case "repeat":
                parent[key] = [value, value]
            case "swap" if isinstance(parent, dict):
                first = next(iter(parent))
                parent[first], parent[key] = value, parent[first]
    whole = json.dumps(root[0]) if root else ""
    for mark, text in texts.items():
        whole = whole.replace(mark, text)
    return whole


def answer(read: Callable[[], Any], *names: str) -> Any:
    """Return what `read` returns; None if it refuses in one line, which has one of the names."""
    signal.signal(signal.SIGVTALRM, _stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, CPU_SECONDS)
    found = refusal = None
    try:
        found = read()
    except PSLDError as error:
        refusal = text_of(error)
    except Exception as error:
        if explained(error) is None or isinstance(error, FileNotFoundError):
            raise
        refusal = f"{names}"  # of the machine: too little memory
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    assert not (refusal and names) or any(name in refusal for name in names), refusal
    return found


def _stop(*_: Any) -> None:
    raise AssertionError(f"it takes more than {CPU_SECONDS} seconds")
