"""The arguments of the library's functions: checked, in one line, and as words of a command."""

import json
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import index

from psld.utils.errors import UserError


def check_numbers(call: str, least: int, **given: object) -> None:
    """Raise UserError if an argument is no whole number of at least `least`."""
    for name, value in given.items():
        try:
            number = index(value)
        except TypeError:
            number = None
        if number is None or isinstance(value, bool):
            raise UserError(f"{call}: {name} is {value!r}; a whole number is needed")
        if number < least:
            raise UserError(f"{call}: {name} is {value}; at least {least} is needed")


def checked_shape(call: str, shape: Sequence[int], form: str) -> tuple[int, ...]:
    """Return a shape of this form, such as C×H×W. Raises UserError if it is not."""
    names = form.split("×")
    try:
        sizes = tuple(shape)
    except TypeError:
        sizes = ()
    if len(sizes) != len(names):
        raise UserError(f"{call}: shape is {shape!r}; {form} is needed")
    check_numbers(call, 1, **dict(zip(names, sizes, strict=True)))
    return tuple(map(int, sizes))


def checked_seed(call: str, seed: int | None) -> int:
    """Return the seed; None is a random one, which is printed. Raises UserError for others."""
    if seed is None:
        seed = secrets.randbits(31)
        print(f"{call}: seed={seed}", flush=True)
    check_numbers(call, 0, seed=seed)
    return index(seed)


def as_words(key: str, settings: Mapping[str, object]) -> list[str]:
    """Return settings as KEY.NAME=VALUE; arrays and tensors are lists, and a text is as it is."""
    words = []
    for name, value in settings.items():
        try:
            text = json.dumps(value, default=lambda array: array.tolist(), ensure_ascii=False)
        except (TypeError, ValueError, AttributeError):
            wrong = f"{key}.{name}: {value!r} is no number, boolean, text or list"
            raise UserError(wrong) from None
        words.append(f"{key}.{name}={value if isinstance(value, str) else text}")
    return words


@contextmanager
def in_words_of_the_call(call: str) -> Iterator[None]:
    """Let errors name arguments, such as `steps`, in place of settings, such as `sampler.steps`."""
    try:
        yield
    except UserError as error:
        text = str(error).removeprefix(f"{call}: ").replace("sampler.integrator", "sampler")
        text = re.sub(r"\bsampler\.(guidance\.)?(?=\w)", "", text)
        text = text.replace("the command's --help", "psld sample --help")
        raise UserError(f"{call}: {text}") from None
