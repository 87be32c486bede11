"""Grid files, the cache of grids, command lines: another text is another grid, or one line."""

import contextlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from psld.commands.launch import settings_of_training
from psld.config.compose import compose_content
from psld.config.settings import parse
from psld.grid import cache
from psld.grid.reading import read_grid_file
from psld.training.settings import TrainSettings
from psld.utils.errors import UserError
from tests.fuzz.inputs import answer, changed, damaged, slow
from tests.grid.mine import CONTENT, load

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [*{old},*{old},*{old},*{old},*{old},*{old},*{old},*{old},*{old}]\n"
    for old, new in zip("abcdefghi", "bcdefghij", strict=True)
)
NUMBERS = list(range(200))
TEXTS = {
    "aliases": BOMB,
    "an endless alias": "models: &a {x: *a}\n",
    "an endless list": "defaults: &a [*a]\n",
    "a key twice": "metric: x\nmetric: y\n",
    "depth": "{a: " * 3000,
    "a date": "metric: 2001-99-99\n",
    "digits": f"samples: {'9' * 5000}\n",
    "a list as a key": "[a, b]: c\n",
    "a tag": "metric: !!python/object/apply:os.system [id]\n",
    "templates": f"lists: {{a: {NUMBERS}, b: {NUMBERS}}}\nmodels: {{'{{a}} {{b}}': []}}\n",
    "no text": "\udcff",
}


@pytest.fixture(scope="module")
def path(place) -> Path:
    return place / "mine.yaml"


@pytest.mark.parametrize("name", TEXTS)
def test_texts(name, path):
    path.write_bytes(TEXTS[name].encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError) as caught:
        read_grid_file(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damaged_grids(path):
    @given(damaged(yaml.safe_dump(CONTENT).encode()))
    def check(content):
        path.write_bytes(content)
        answer("grid file", lambda: read_grid_file(path), str(path))

    check()


def test_changed_grids(path):
    @given(changed(CONTENT))
    def check(text):  # JSON is YAML
        path.write_text(text, errors="surrogatepass")
        answer("grid file", lambda: read_grid_file(path), str(path))

    check()


def test_damaged_caches(place):
    """Every record is right, or is not there; the grid is then resolved again."""
    names = {"models": "psld", "cells": "psld/em-10", "datasets": "digits"}
    file = cache.CACHE / "mine.db"

    def records() -> list[dict[str, Any] | None]:
        found = [cache.cached("mine", kind, name) for kind, name in names.items()]
        grid = cache._read("mine", file, digest)
        return [record and vars(record) for record in found] + [grid and vars(grid)]

    with contextlib.chdir(place):
        (place / "configs" / "grid").mkdir(parents=True)
        load(place / "configs")
        whole, digest = file.read_bytes(), cache._digest(cache._configs())
        right = records()

        @given(damaged(whole))
        def check(content):
            file.write_bytes(content)
            read = answer("cache of a grid", records)
            assert [a for a, b in zip(read, right, strict=True) if a not in (None, b)] == []

        check()


GIVEN = (
    *("process=psld", "process.gamma=0.02", "training.steps=10", "network.dropout=0.1"),
    *("name=x", "dataset=digits", "training.seed=3", "data='a b.h5'", "+training.ema_decay=0.9"),
)
WORDS = st.one_of(
    st.sampled_from(GIVEN),
    st.sampled_from(GIVEN).flatmap(
        lambda word: damaged(word.encode()).map(lambda part: part.decode("utf-8", "replace"))
    ),
    st.builds(
        lambda word, value: f"{word.partition('=')[0]}={value}",
        st.sampled_from(GIVEN),
        st.sampled_from(
            (
                *("", "null", "nan", "inf", "-1", "1e999", "9" * 5000, "[", "{a:", "${name}"),
                *("${oc.env:HOME}", "${nothing:1}", "???", "'", '"', "$(x)", "a,b", "range(3)"),
                *("[" * 500 + "]" * 500, "../../x", "true", "\\", "glob(*)", "é", "\0", "{a:{}}"),
            )
        ),
    ),
    st.text(max_size=10),
)


@slow
@given(st.lists(WORDS, min_size=1, max_size=3))
def test_command_lines(place, words):
    def read():
        return parse(TrainSettings, compose_content("train", words, "train"), "train")

    answer("command line", read, "train")


@slow
@given(st.lists(st.text(max_size=10), min_size=1, max_size=3))
def test_commands_of_launches(place, words):
    with contextlib.chdir(place):
        answer("command line", lambda: settings_of_training(["train", *words]))
