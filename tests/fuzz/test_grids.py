"""Grid files, the cache of grids, command lines: another text is another grid, or one line."""

import contextlib
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from psld.config.compose import compose_content
from psld.config.settings import parse
from psld.grid import cache
from psld.grid.reading import read_grid_file
from psld.training.settings import TrainSettings
from psld.utils.errors import UserError
from tests.fuzz.inputs import answer, changed, damaged, slow
from tests.grid.mine import CONTENT, load

TEXTS = {
    "an endless alias": "models: &a {x: *a}\n",
    "an endless list": "defaults: &a [*a]\n",
    "a key twice": "metric: x\nmetric: y\n",
    "depth": "{a: " * 3000,
    "a date": "metric: 2001-99-99\n",
    "digits": f"samples: {'9' * 5000}\n",
    "a list as a key": "[a, b]: c\n",
    "a tag": "metric: !!python/object/apply:os.system [id]\n",
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
    """A grid is right, or is not there; it is then resolved again."""
    file = cache.CACHE / "mine.json"
    with contextlib.chdir(place):
        (place / "configs" / "grid").mkdir(parents=True)
        right = cache.grid_as_json(load(place / "configs"))
        whole = file.read_bytes()

        @given(damaged(whole))
        def check(content):
            file.write_bytes(content)
            _, grid = answer("cache of a grid", lambda: cache._read("mine"))
            assert grid is None or cache.grid_as_json(grid) == right

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
