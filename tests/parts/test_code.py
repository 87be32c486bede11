"""The code of parts of one's own: its digest, its versions, what is not imported."""

import sys
from pathlib import Path

import pytest

from psld.networks.settings import Network
from psld.utils.code import Code, find_code, find_version, load_class, package_code, trust
from psld.utils.errors import UserError
from tests.parts.own import edit, with_network, write


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with modules; Python's path has no folder of an earlier test."""
    monkeypatch.chdir(tmp_path)
    path = [each for each in sys.path if not Path(each, "mynets.py").exists()]
    monkeypatch.setattr(sys, "path", path)
    return with_network(tmp_path)


def code_of(module: str) -> Code:
    code = find_code(module)
    assert code is not None
    return code


def test_digest_is_the_same_for_every_version_of_python(folder):
    """The constant was computed by Python 3.11 and 3.13."""
    write(
        folder,
        much="""
        '''Text.'''
        import os.path as p
        from typing import Any
        @p.join
        class A(Base, metaclass=M):
            x: int = 3
            '''About x.'''
            async def f(self, a, /, b=1, *c, d: Any = None, **e):
                async with a as b, c: pass
                return [i async for i in f"{a!r:>{b}} {b=}" if i] or (yield)
        def g():
            global h
            match [1, *h]:
                case {"k": [A(x=0) | -1j, *_]} if h: raise E from None
                case _: del h[1:2, ...]
            try: pass
            except* (A, b"x"): nonlocal_ = lambda *a: (y := not a)
        """,
    )
    assert code_of("much").digest[:16] == "0558f017cd558d1c"


@pytest.mark.parametrize(
    ("file", "old", "new", "changes"),
    [
        ("mynets", '"""A network of mine."""', '"""Another text."""  # and a comment', False),
        ("mynets", '    """Channels."""\n', "", False),
        ("mynets", "self.b(torch.relu(h))", "self.b(\n            torch.relu(h)\n        )", False),
        ("mynets", "relu", "tanh", True),
        ("mynets", "width: int = 8", "width: int = 9", True),
        ("mylayers", "padding=1", "padding='same'", True),
    ],
)
def test_digest_is_that_of_what_runs(folder, file, old, new, changes):
    before = code_of("mynets").digest
    edit(folder / f"{file}.py", old, new)
    assert (code_of("mynets").digest != before) is changes


def test_code_is_the_module_and_what_it_imports_of_its_folder(folder):
    (folder / "unrelated.py").write_text("x = 1\n")
    assert [*code_of("mynets").files] == ["mylayers.py", "mynets.py"]


def test_part_in_a_subfolder_with_its_package(folder):
    package = folder / "nets" / "deep"
    package.mkdir(parents=True)
    (folder / "nets" / "__init__.py").write_text("SIDE = 4\n")
    (package / "__init__.py").write_text("from ..layers import side\n")
    (folder / "nets" / "layers.py").write_text("from nets import SIDE\ndef side(): return SIDE\n")
    (package / "mine.py").write_text(
        "from . import side\nclass A:\n    side = staticmethod(side)\n"
    )
    code = code_of("nets.deep.mine")
    names = ["__init__.py", "deep/__init__.py", "deep/mine.py", "layers.py"]
    assert [*code.files] == [f"nets/{name}" for name in names]
    assert load_class("nets.deep.mine:A", code).side() == 4
    assert "nets" not in sys.modules


def test_an_empty_module_and_one_in_another_encoding_are_copied(folder):
    (folder / "nets").mkdir()
    (folder / "nets" / "__init__.py").touch()
    text = "# -*- coding: latin-1 -*-\nfrom nets import *\nclass A:\n    side = 'é'\n"
    (folder / "nets" / "mine.py").write_bytes(text.encode("latin-1"))
    code = code_of("nets.mine")
    code.save(folder / "run")
    trust(folder / "run")
    (folder / "nets" / "mine.py").unlink()
    again = find_version("nets.mine", code.digest)
    assert again.digest == code.digest
    assert load_class("nets.mine:A", again).side == "é"


@pytest.mark.parametrize(
    "text",
    [
        "from ns import beside\nX = beside.X",
        "from . import beside\nX = beside.X",
        "import ns.beside\nX = ns.beside.X",
        "from ns.beside import X",
    ],
)
def test_a_folder_without_init_is_a_package_of_the_version_too(folder, text):
    (folder / "ns").mkdir()
    write(folder / "ns", mine=f"{text}\nclass A:\n    x = X\n", beside="X = 1")
    code = code_of("ns.mine")
    edit(folder / "ns/beside.py", "1", "2")
    assert [load_class("ns.mine:A", each).x for each in (code, code_of("ns.mine"))] == [1, 2]
    assert "ns" not in sys.modules


def test_two_versions_live_in_one_process(folder):
    """Each imports its own neighbors, also inside of functions that are called later."""
    write(
        folder, mine="class A:\n    def f(self):\n        import beside\n        return beside.X\n"
    )
    write(folder, beside="X = 1")
    first = load_class("mine:A", code_of("mine"))
    write(folder, beside="X = 2")
    second = load_class("mine:A", code_of("mine"))
    assert (first().f(), second().f()) == (1, 2)


def test_a_copy_is_found_by_its_digest_alone(folder, tmp_path_factory, monkeypatch):
    code, run = code_of("mynets"), tmp_path_factory.mktemp("run")
    code.save(run)
    edit(folder / "mynets.py", "relu", "tanh")
    assert find_version("mynets", code.digest) is None
    trust(run)
    assert find_version("mynets", code.digest).digest == code.digest
    edit(run / "parts" / code.digest / "mylayers.py", "padding=1", "padding=0")
    assert find_version("mynets", code.digest) is None


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("mine:B", "class A: pass", r"mine\.py: defines no class B"),
        ("mine:A", "from other import A", r"no class A at the top level of the file; name the mod"),
        ("mine:A", "class A: pass\nx = (", r"mine\.py, line 2: no Python \('\(' was never closed"),
        ("mine:A", "import nowhere\nclass A: pass", r"mine\.py: ModuleNotFoundError: .*nowhere"),
        ("mine:A", "class A: pass\n1 / 0", r"mine\.py: ZeroDivisionError"),
    ],
)
def test_wrong_module_is_one_line(folder, name, text, message):
    write(folder, mine=text)
    with pytest.raises(UserError, match=message):
        load_class(name, code_of("mine"))


def test_nothing_runs_without_the_class(folder):
    write(folder, mine="from pathlib import Path\nPath('ran').touch()")
    with pytest.raises(UserError, match="defines no class A"):
        load_class("mine:A", code_of("mine"))
    assert not (folder / "ran").exists()


def test_package_code_is_kept_and_is_of_its_rooms(folder):
    package_code.cache_clear()
    digest = package_code("diffusion")
    assert not (folder / ".cache").exists(), "a folder without grids"
    (folder / ".cache").mkdir()
    package_code.cache_clear()
    assert package_code("diffusion") == digest
    [kept] = (folder / ".cache" / "code").iterdir()
    kept.write_text(kept.read_text().replace(digest, "0" * 64))  # damaged: it is made again
    package_code.cache_clear()
    assert package_code("diffusion") == digest != package_code("data")


def test_psld_next_to_it_is_no_code_of_ones_own(folder):
    """As in a checkout: parts there subclass the classes of the psld that runs."""
    (folder / "psld").mkdir()
    write(folder / "psld", __init__="", parts="raise SystemExit")
    code = code_of("mynets")
    assert [*code.files] == ["mylayers.py", "mynets.py"]
    assert issubclass(load_class("mynets:Mixer", code), Network)
