"""Damaged inputs. A reader may read them, or refuse them in one line."""

import json
import signal
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from hypothesis import strategies as st

from psld.utils.errors import PSLDError, explained, text_of

CPU_SECONDS = 5
"""If a small input takes more CPU seconds than this, the reader hangs."""

Place = tuple[str | int, ...]
"""The keys and indices that lead to a value."""

ODD = (
    *("null", "true", "-1", "0", "1", "1.5", "[]", "{}", "[[]]", '[{"a": null}]', '{"a": []}'),
    *("NaN", "-Infinity", "1e999", "-0.0", "1e308", "9" * 30, "9" * 5000, "-" + "9" * 400),
    *('""', '"\\u0000"', '"\\ud800"', '"../../x"', '"/"', '"-x"', '"$(x)"', '"\\n"', '"é"'),
    *(f'"{"x" * 5000}"', "[" * 1500 + "]" * 1500, '{"a":' * 1500 + "1" + "}" * 1500, "@", ""),
)
"""JSON texts that replace a value; the last texts are invalid JSON."""
MARK = "the place of a text"


def damaged(content: bytes) -> st.SearchStrategy[bytes]:
    """Replace some bytes by the same number of bytes, or by fewer or more bytes."""
    places = st.integers(0, len(content))

    def replaced(start: int, new: bytes, length: int | None = None) -> bytes:
        end = start + (len(new) if length is None else length)
        return content[:start] + new + content[end:]

    equal = st.builds(replaced, places, st.binary(min_size=1, max_size=8))
    other = st.builds(replaced, places, st.binary(max_size=40), st.integers(0, 40))
    return st.one_of(equal, equal, other)


def changed(content: Any) -> st.SearchStrategy[str]:
    """The JSON text of `content` with a value, a key or a length changed."""
    places = st.sampled_from(list(_places(content)))
    kinds = st.sampled_from(("odd", "odd", "remove", "rename", "repeat"))
    return st.builds(partial(_change, content), places, kinds, st.sampled_from(ODD))


def _places(content: Any, place: Place = ()) -> Iterator[Place]:
    yield place
    items = content.items() if isinstance(content, dict) else ()
    for key, value in enumerate(content) if isinstance(content, list) else items:
        yield from _places(value, (*place, key))


def _change(content: Any, place: Place, kind: str, text: str) -> str:
    parent = root = [json.loads(json.dumps(content))]
    *above, key = (0, *place)
    for each in above:
        parent = parent[each]
    match kind:
        case "odd":
            parent[key] = MARK
        case "remove":
            del parent[key]
        case "rename" if isinstance(parent, dict):
            parent[f"{key}x"] = parent.pop(key)
        case "repeat":
            parent[key] = [parent[key]] * 2
    return json.dumps(root[0] if root else "").replace(json.dumps(MARK), text)


def answer(read: Callable[[], Any], *names: str) -> Any:
    """Return the value of `read`; None if `read` refuses in one line that contains one of the
    names."""
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
        refusal = f"{names}"  # the machine has too little memory
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    assert not (refusal and names) or any(name in refusal for name in names), refusal
    return found


def _stop(*_: Any) -> None:
    raise AssertionError(f"it takes more than {CPU_SECONDS} seconds")
