"""The code of custom parts: its digest, its import, its copies."""

import ast
import sys
from pathlib import Path

import pytest

import psld.utils.code
from psld.networks.settings import Network
from psld.utils.code import DEPENDENCIES, Code, find_code, import_class, import_copy, read_copy
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


def test_the_digest_is_the_same_for_every_version_of_python(folder):
    """The constant was computed with Python 3.11 and with Python 3.13."""
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
def test_the_digest_depends_only_on_the_code_that_runs(folder, file, old, new, changes):
    before = code_of("mynets").digest
    edit(folder / f"{file}.py", old, new)
    assert (code_of("mynets").digest != before) is changes


def test_the_code_is_the_module_and_its_imports_from_the_same_folder(folder):
    (folder / "unrelated.py").write_text("x = 1\n")
    assert [*code_of("mynets").files] == ["mylayers.py", "mynets.py"]


def test_the_code_of_a_part_in_a_package_includes_the_package(folder):
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
    assert "nets" not in sys.modules, "its code is found without importing it"
    assert import_class("nets.deep.mine:A").side() == 4


def test_an_empty_module_and_one_in_another_encoding_are_copied(folder):
    (folder / "nets").mkdir()
    (folder / "nets" / "__init__.py").touch()
    text = "# -*- coding: latin-1 -*-\nfrom nets import *\nclass A:\n    side = 'é'\n"
    (folder / "nets" / "mine.py").write_bytes(text.encode("latin-1"))
    code = code_of("nets.mine")
    code.save(folder / "run")
    (folder / "nets" / "mine.py").unlink()
    copy = read_copy(folder / "run", "nets.mine", code.digest)
    assert import_copy("nets.mine:A", copy).side == "é"


def test_a_copy_runs_with_its_own_helpers_only(folder):
    write(
        folder, mine="class A:\n    def f(self):\n        import beside\n        return beside.X\n"
    )
    write(folder, beside="X = 1")
    code = code_of("mine")
    code.save(folder / "run")
    write(folder, beside="X = 2")
    copy = read_copy(folder / "run", "mine", code.digest)
    path = [*sys.path]
    assert import_copy("mine:A", copy)().f() == 1
    assert sys.path == [*path, str(folder)], "nothing else is found in the copy's folder"


def test_a_copy_does_not_run_with_a_helper_of_another_version(folder):
    write(folder, mine="import beside\nclass A: x = beside.X", beside="X = 1")
    code = code_of("mine")
    code.save(folder / "run")
    write(folder, beside="X = 2")
    import_class("mine:A")
    with pytest.raises(UserError, match="another version of beside is imported; restart this"):
        import_copy("mine:A", read_copy(folder / "run", "mine", code.digest))


def test_a_copy_is_found_only_by_its_computed_digest(folder):
    code = code_of("mynets")
    code.save(folder / "run")
    assert read_copy(folder / "run", "mynets", code.digest).digest == code.digest
    edit(folder / "run/parts" / code.digest / "mylayers.py", "padding=1", "padding=0")
    assert read_copy(folder / "run", "mynets", code.digest) is None


def test_the_first_working_folder_is_searched_last(folder, monkeypatch):
    """A file in this folder never replaces a package, even if the package is imported late."""
    write(folder, wandb="raise SystemExit", scipy="raise SystemExit", mine="class A: pass")
    import_class("mine:A")
    assert sys.path[-1] == str(folder)
    (folder / "other").mkdir()
    write(folder / "other", theirs="class A: pass")
    monkeypatch.chdir(folder / "other")
    with pytest.raises(UserError, match="there is no module theirs in this folder"):
        import_class("theirs:A")
    import scipy.special

    assert "site-packages" in scipy.special.__file__


def test_all_packages_that_psld_imports_are_known():
    """Collect the names that psld's files import, at their top or later."""
    package = Path(psld.utils.code.PACKAGE)
    files = [*package.rglob("*.py"), *package.parent.glob("snakemake_*_plugin_psld/*.py")]
    names = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(str(node.module).partition(".")[0])
    assert names - sys.stdlib_module_names - {"psld"} - DEPENDENCIES == set()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("mine:B", "class A: pass", r"mine\.py: defines no class B"),
        ("mine:A", "A = 3", r"mine\.py: defines no class A"),
        ("absent:A", "class A: pass", "there is no module absent in this folder"),
        ("wandb:A", "class A: pass", "wandb is the name of a package that psld needs; rename"),
        ("__main__:A", "class A: pass", "move it to its own file"),
    ],
)
def test_a_wrong_name_raises_a_user_error(folder, name, text, message):
    write(folder, mine=text)
    with pytest.raises(UserError, match=message):
        import_class(name)


@pytest.mark.parametrize("text", ["import nowhere", "1 / 0", "int('x')", "assert False"])
def test_an_error_in_a_module_keeps_its_line(folder, text):
    """pydantic would report a ValueError or an AssertionError as a wrong setting."""
    write(folder, mine=f"{text}\nclass A: pass")
    with pytest.raises(ImportError, match="mine:A: mine cannot be imported") as found:
        import_class("mine:A")
    assert found.value.__cause__.__traceback__ is not None


def test_a_folder_psld_next_to_a_module_is_not_custom_code(folder):
    """In a checkout, custom parts subclass the classes of the psld package that is running."""
    (folder / "psld").mkdir()
    write(folder / "psld", __init__="", parts="raise SystemExit")
    code = code_of("mynets")
    assert [*code.files] == ["mylayers.py", "mynets.py"]
    assert issubclass(import_class("mynets:Mixer"), Network)
