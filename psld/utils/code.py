"""Code and its digest: that of the package, and that of parts of one's own, which it imports.

A part of one's own is named by MODULE:CLASS. Its code is its module and every module of the same
folder that it imports, to any depth. Nothing is imported to find it, because to look a package up
imports its parents. Each version gets modules of its own, so two of them fit into one process.
"""

import ast
import builtins
import hashlib
import json
import re
import site
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.util import resolve_name
from pathlib import Path
from types import ModuleType
from typing import Any

from psld.utils.errors import UserError, text_of
from psld.utils.files import atomic_path, kept_in_cache

NAMED = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
"""A class of one's own, MODULE:CLASS."""
COPIES = "parts"
"""The folder, in a run directory and next to weights, with the code of their parts, by digest."""

PACKAGE = Path(__file__).parents[1]
MAKE_IMAGES = (
    *("data", "diffusion", "networks", "paper", "sampling", "training"),
    *("utils/randomness.py", "utils/device.py"),
)
"""The rooms and files of psld whose code decides weights and images."""
MEASURE = ("evaluation", "metrics")
"""Those that decide numbers, too."""

_PREFIX = "psld_part_"
_trusted: list[Path] = []


def trust(folder: str | Path) -> None:
    """Let parts be imported from the copies of their code in a run directory or next to weights."""
    copies = Path(folder, COPIES).resolve()
    if copies not in _trusted:
        _trusted.append(copies)


@dataclass(frozen=True)
class Code:
    """A module and what it imports of its folder."""

    root: Path
    """The folder in which the modules are found, an entry of Python's path."""
    files: Mapping[str, bytes]
    """The contents of the files, by their paths below the root, in the order of their names."""
    digest: str
    """The SHA-256 of the syntax trees, without docstrings, comments and line breaks."""

    def save(self, folder: str | Path) -> None:
        for name, content in self.files.items():
            with atomic_path(Path(folder, COPIES, self.digest, name)) as partial:
                partial.write_bytes(content or b"\n")  # No file is written without content.

    def load(self, module: str) -> ModuleType:
        """Import a module of the code, once. Each version of a code has modules of its own, which
        import each other, and else what all import."""
        package = _package(self.digest)
        full = f"{package}.{module}"
        _loaded[package] = self
        if full in sys.modules:
            return sys.modules[full]
        parent, _, leaf = module.rpartition(".")
        above = self.load(parent) if self._has(parent) else None
        path = self.root / self.file_of(module)
        loaded = ModuleType(full)
        loaded.__file__ = str(path)
        loaded.__package__ = f"{package}.{parent}".rstrip(".")
        if path.name == "__init__.py":
            loaded.__package__, loaded.__path__ = full, [str(path.parent)]
        vars(loaded)["__builtins__"] = {**vars(builtins), "__import__": self._import}
        sys.modules[full] = loaded
        try:
            exec(compile(self.files.get(self.file_of(module), b""), path, "exec"), vars(loaded))
        except BaseException:
            del sys.modules[full]
            raise
        if above:
            setattr(above, leaf, loaded)
        return loaded

    def file_of(self, module: str) -> str:
        """Return the path of a module below the root."""
        return _file(self.root, module, self.files) or f"{module.replace('.', '/')}/__init__.py"

    def _has(self, module: str) -> bool:
        """Check if a module is of the code; a folder without `__init__.py` is an empty package."""
        folder = f"{module.replace('.', '/')}/"
        return self.file_of(module) in self.files or any(f.startswith(folder) for f in self.files)

    def _import(self, name: str, scope: Any = None, local=None, fromlist=(), level=0) -> ModuleType:
        """What an import statement of these modules calls."""
        module = name
        if level:
            module = resolve_name("." * level + name, scope["__package__"]).partition(".")[2]
        if not self._has(module):
            return builtins.__import__(name, scope, local, fromlist, level)
        found = self.load(module)
        for each in fromlist or ():
            if self._has(f"{module}.{each}"):
                self.load(f"{module}.{each}")
        return found if fromlist else self.load(module.partition(".")[0])


_loaded: dict[str, Code] = {}
"""The code whose modules have this prefix."""


def _package(digest: str) -> str:
    return f"{_PREFIX}{digest[:16]}"


def search_path() -> Iterator[Path]:
    """Yield the working folder, then the folders of Python's path, each once."""
    yield from dict.fromkeys(Path(entry or ".").resolve() for entry in (".", *sys.path))


def find_code(module: str) -> Code | None:
    """Return the code of a module. Raises UserError if a file is no Python."""
    for folder in search_path():
        if _file(folder, module):
            return _read(folder, module)
    return None


def find_version(module: str, digest: str) -> Code | None:
    """Return the code with this digest from the path or from a trusted copy; None if none has."""
    for folder in (*search_path(), *(copies / digest for copies in _trusted)):
        if _file(folder, module) and (code := _read(folder, module)).digest == digest:
            return code
    return None


def loaded_version(digest: str) -> Code | None:
    """Return the code with this digest that this process has read, maybe before an edit."""
    code = _loaded.get(_package(digest))
    return code if code and code.digest == digest else None


def check_named(name: str) -> None:
    """Raise UserError if a text cannot name a class of one's own."""
    top = name.partition(":")[0].partition(".")[0]
    if not NAMED.fullmatch(name):
        right = "such as mynets:Mixer for a class in mynets.py, of letters a to z, digits and _"
        raise UserError(f"{name}: not MODULE:CLASS, {right}")
    if top in sys.stdlib_module_names:
        raise UserError(f"{name}: {top} is of Python's own library; name a module of yours")
    if top == "psld":
        raise UserError(f"{name}: psld's own parts go by a kind, such as ncsnpp, not by a class")
    if top == "__main__":
        raise UserError(f"{name}: a class of a notebook or a script; put it into a file of its own")


def load_class(name: str, code: Code) -> type:
    """Import the class MODULE:CLASS of this code, once. Raises UserError if it has none.

    Nothing is imported unless the module's syntax tree defines the class.
    """
    module, _, class_name = name.partition(":")
    file = code.file_of(module)
    where = _shown(code.root, file)
    nodes = _parsed(code.files[file], where).body
    if class_name not in [node.name for node in nodes if isinstance(node, ast.ClassDef)]:
        rule = "at the top level of the file; name the module that defines it"
        raise UserError(f"{where}: defines no class {class_name} {rule}")
    try:
        return getattr(code.load(module), class_name)
    except (Exception, SystemExit) as error:
        text = f"{type(error).__name__}: {text_of(error)}"
        if field := re.search(r"non-annotated attribute was detected: `(\w+) = ", text):
            text = f"{field[1]}: a setting needs a type, such as {field[1]}: int = 8"
        raise UserError(f"{where}: {text}") from None


def name_of(kind: type) -> str:
    """Return MODULE:CLASS of a class, whichever version of the module it is of."""
    module = re.sub(rf"^{_PREFIX}[0-9a-f]+\.", "", kind.__module__)
    return f"{module}:{kind.__qualname__}"


def code_of(kind: type) -> Code | None:
    """Return the code of a class: of the version that it is of, or else of its module's file."""
    package, _, module = kind.__module__.partition(".")
    if code := _loaded.get(package):
        return _read(code.root, module, code.files)
    if code := find_code(kind.__module__):
        _loaded.setdefault(_package(code.digest), code)
    return code


@cache
def code_digest(*rooms: str) -> str:
    """Return the digest of Python's version and of the files of psld, or of some of its rooms."""
    digest = hashlib.sha256(sys.version.encode())
    for file in _files_of(rooms):
        digest.update(file.read_bytes() + b"\0")
    return digest.hexdigest()


@cache
def package_code(*rooms: str) -> str:
    """Return the digest of the code of some rooms and files of psld, noted with what they make.

    Unlike `code_digest` it stays if a comment changes. It is kept: parsing takes half a second.
    """

    def digest() -> str:
        files = {str(file.relative_to(PACKAGE)): file for file in _files_of(rooms)}
        return _digest({name: ast.parse(file.read_bytes()) for name, file in files.items()})

    return kept_in_cache(f"code/{code_digest(*rooms)}", digest)


def _files_of(rooms: Sequence[str]) -> list[Path]:
    places = [PACKAGE / room for room in rooms] or [PACKAGE]
    return sorted(
        file for each in places for file in ([each] if each.suffix else each.rglob("*.py"))
    )


# -- finding and reading ---------------------------------------------------------------------------


def _file(root: Path, module: str, known: Mapping[str, bytes] | None = None) -> str | None:
    """Return the path of a module below a folder, or in known files; None if there is none."""
    plain = module.replace(".", "/")
    for path in (f"{plain}.py", f"{plain}/__init__.py"):
        if (root / path).is_file() if known is None else path in known:
            return path
    return None


def _read(root: Path, module: str, known: Mapping[str, bytes] | None = None) -> Code:
    """Read a module, and what it imports of its folder; of an installed one, of its package.

    `known`: files that have been read, in place of those on the disk.
    """
    installed = (*site.getsitepackages(), site.getusersitepackages())
    is_installed = root in (Path(folder).resolve() for folder in installed)
    top, trees, files, waiting = module.partition(".")[0], {}, {}, [module]
    while waiting:
        name = waiting.pop()
        path, first = _file(root, name, known), name.partition(".")[0]
        if path is None or name in trees or first == "psld" or (is_installed and first != top):
            continue
        files[path] = content = (root / path).read_bytes() if known is None else known[path]
        trees[name] = tree = _parsed(content, _shown(root, path))
        package = name if path.endswith("/__init__.py") else name.rpartition(".")[0]
        for imported in {name, *_imports(tree, package)}:
            parts = imported.split(".")
            waiting += [".".join(parts[: i + 1]) for i in range(len(parts))]
    return Code(root, dict(sorted(files.items())), _digest(trees))


def _digest(trees: Mapping[str, ast.Module]) -> str:
    shapes = json.dumps({name: _shape_of(trees[name]) for name in sorted(trees)})
    return hashlib.sha256(shapes.encode()).hexdigest()


def _shown(root: Path, path: str) -> str:
    """Return a file as errors name it: below the working folder without the folder."""
    return path if root == Path.cwd() else str(root / path)


@lru_cache(128)  # A grid asks for the code of its parts a hundred times.
def _parsed(content: bytes, where: str) -> ast.Module:
    try:
        return ast.parse(content)
    except (SyntaxError, ValueError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise UserError(f"{where}{line}: no Python ({getattr(error, 'msg', error)})") from None


def _imports(tree: ast.AST, package: str) -> Iterator[str]:
    """Yield the names of all that may be modules in the imports of a tree, also of functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *([base] if base else [])])
            yield base
            yield from (f"{base}.{alias.name}".lstrip(".") for alias in node.names)


def _shape(node: Any) -> Any:
    """Return a syntax tree as lists: the names of nodes and their fields that are not empty.

    Empty fields are left out, because each version of Python adds some. A text alone, such as a
    docstring, changes nothing.
    """
    if isinstance(node, list):
        return [_shape(each) for each in node if not _is_text(each)]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = ((name, value) for name, value in ast.iter_fields(node) if value not in (None, []))
    return [type(node).__name__, *([name, _shape(value)] for name, value in sorted(fields))]


_shape_of = lru_cache(128)(_shape)


def _is_text(node: Any) -> bool:
    value = node.value if isinstance(node, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)
