"""Changed grid files define another grid, or are refused in one line."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from psld.grid.reading import read_grid_file
from psld.utils.errors import UserError
from tests.fuzz.inputs import answer, changed, damaged
from tests.grid.mine import CONTENT

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


def test_grids(path):
    texts = st.one_of(
        damaged(yaml.safe_dump(CONTENT).encode()),
        changed(CONTENT).map(lambda text: text.encode(errors="surrogatepass")),  # JSON is YAML
    )

    @given(texts)
    def check(content):
        path.write_bytes(content)
        answer(lambda: read_grid_file(path), str(path))

    check()
