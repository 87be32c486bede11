"""The code of custom parts: its location, its digest, its import, and copies of its files.

A custom part has the name MODULE:CLASS. Its code consists of MODULE and of all modules that MODULE
imports, directly or indirectly, from the same folder of Python's path. The digest is computed
without importing the code. MODULE is imported like any other module, so a process can contain only
one version of it.
"""

import ast
import hashlib
import importlib
import json
import re
import site
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from psld.utils.errors import UserError
from psld.utils.files import atomic_path

NAMED = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
"""The name of a custom part's class, MODULE:CLASS."""
COPIES = "parts"
"""The name of the folder with copies of the code of custom parts. This folder is in a run directory
or next to weights, and contains one folder per digest."""
PACKAGE = Path(__file__).parents[1]

DEPENDENCIES = frozenset(
    {
        *("PIL", "datasets", "h5py", "huggingface_hub", "hydra", "hydra_plugins", "jinja2"),
        *("matplotlib", "numpy", "omegaconf", "pydantic", "pydantic_core", "pygments", "rich"),
        *("safetensors", "scipy", "sklearn", "snakemake", "snakemake_executor_plugin_psld"),
        *("snakemake_executor_plugin_slurm", "snakemake_interface_common"),
        *("snakemake_interface_executor_plugins", "snakemake_interface_logger_plugins"),
        *("snakemake_logger_plugin_psld", "snakemake_logger_plugin_rich", "submitit", "tabulate"),
        *("threadpoolctl", "torch", "torch_fidelity", "torchvision", "tqdm", "wandb"),
        *("wandb_workspaces", "yaml"),
    }
)
"""The packages that psld imports. A custom module must not have one of these names."""

_home: Path | None = None


def home() -> Path:
    """Return the working folder at the time of the first import of a custom part.

    Before the first import, return the current working folder.
    """
    return _home or Path.cwd()


@dataclass(frozen=True)
class Code:
    """A module and all modules that it imports from the same folder of Python's path."""

    root: Path
    """The folder of Python's path that contains the modules."""
    file: str
    """The path of the module's own file, relative to the root."""
    files: Mapping[str, bytes]
    """The contents of all files. The keys are their paths relative to the root, in sorted order."""
    digest: str
    """The SHA-256 of the syntax trees. Docstrings, comments and line breaks do not change the
    digest."""

    def save(self, folder: str | Path) -> None:
        """Copy the files to FOLDER/parts/DIGEST."""
        for name, content in self.files.items():
            with atomic_path(copy_folder(folder, self.digest) / name) as partial:
                partial.write_bytes(content or b"\n")  # `atomic_path` rejects empty files.

    def differs(self, other: "Code") -> str | None:
        """Return a common file whose syntax tree differs; None if no common file differs."""
        for name in self.files.keys() & other.files.keys():
            if _tree_digest(self.files[name]) != _tree_digest(other.files[name]):
                return name
        return None


def copy_folder(folder: str | Path, digest: str) -> Path:
    return Path(folder, COPIES, digest)


def check_named(name: str) -> None:
    """Raise UserError if a text cannot name the class of a custom part."""
    top = name.partition(":")[0].partition(".")[0]
    if not NAMED.fullmatch(name):
        raise UserError(f"{name}: not MODULE:CLASS, such as mynets:Mixer for a class in mynets.py")
    if top == "__main__":
        raise UserError(f"{name}: defined in a notebook or script; move it to its own file")
    if is_reserved(top):
        raise UserError(f"{name}: {top} is the name of a package that psld needs; rename your file")


def is_reserved(top: str) -> bool:
    """Check if psld, one of its dependencies or Python's standard library has this name."""
    return top == "psld" or top in DEPENDENCIES or top in sys.stdlib_module_names


# -- finding and reading ---------------------------------------------------------------------------


def find_code(module: str) -> Code | None:
    """Return the code of a module on Python's path or in the working folder.

    Returns None if there is no such module.
    Raises UserError if a file is not valid Python.
    """
    folders = (Path(entry or ".").resolve() for entry in sys.path)
    for folder in dict.fromkeys([*folders, home()]):
        if _file(folder, module):
            return read_code(folder, module)
    return None


def read_code(root: Path, module: str) -> Code:
    """Read a module in a folder of Python's path, and all modules that it imports from there.

    For an installed module, read only imported modules of the same top-level package.
    """
    is_installed = _is_installed(root)
    own, top = str(_file(root, module)), module.partition(".")[0]
    trees, files, waiting = {}, {}, [module]
    while waiting:
        name = waiting.pop()
        path, first = _file(root, name), name.partition(".")[0]
        is_foreign = is_reserved(first) or (is_installed and first != top)
        if path is None or name in trees or is_foreign:
            continue
        files[path] = content = (root / path).read_bytes()
        trees[name] = tree = _parsed(content, _shown(root, path))
        package = name if path.endswith("/__init__.py") else name.rpartition(".")[0]
        for imported in {name, *_imports(tree, package)}:
            parts = imported.split(".")
            waiting += [".".join(parts[: i + 1]) for i in range(len(parts))]
    return Code(root, own, dict(sorted(files.items())), _digest(trees))


def _is_installed(root: Path) -> bool:
    installed = (*site.getsitepackages(), site.getusersitepackages())
    return root in (Path(folder).resolve() for folder in installed)


def read_copy(folder: str | Path, module: str, digest: str) -> Code | None:
    """Return the copy of a module's code in a folder.

    Returns None if the copy is missing, has a different digest or contains additional files.
    """
    root = copy_folder(folder, digest).resolve()
    code = read_code(root, module) if _file(root, module) else None
    there = {str(file.relative_to(root)) for file in root.rglob("*") if file.is_file()}
    return code if code and code.digest == digest and there == code.files.keys() else None


def _file(root: Path, module: str) -> str | None:
    """Return the path of a module's file, relative to a folder; None if there is no such file."""
    plain = module.replace(".", "/")
    for path in (f"{plain}.py", f"{plain}/__init__.py"):
        if (root / path).is_file():
            return path
    return None


def _digest(trees: Mapping[str, ast.Module]) -> str:
    shapes = json.dumps({name: _shape_of(trees[name]) for name in sorted(trees)})
    return hashlib.sha256(shapes.encode()).hexdigest()


def _shown(root: Path, path: str) -> str:
    """Return a path for error messages, relative to the working folder if possible."""
    return path if root == Path.cwd() else str(root / path)


@lru_cache(128)  # A grid requests the code of its parts about a hundred times.
def _parsed(content: bytes, where: str) -> ast.Module:
    try:
        return ast.parse(content)
    except (SyntaxError, ValueError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise UserError(f"{where}{line}: not Python ({getattr(error, 'msg', error)})") from None


def _imports(tree: ast.AST, package: str) -> Iterator[str]:
    """Yield all names in the import statements of a tree that may be modules."""
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
    """Return a syntax tree as nested lists of node names and non-empty fields.

    Empty fields are omitted, because new versions of Python add fields to nodes. Statements that
    consist of a string, such as docstrings, are also omitted.
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


# -- importing -------------------------------------------------------------------------------------


class PartImportError(ImportError):
    """The module of a custom part cannot be imported; the cause is the original error.

    This is not a ValueError, which pydantic would report as a wrong setting.
    """


def import_class(name: str) -> Any:
    """Import the class MODULE:CLASS, from the working folder if no package has that module.

    The working folder is added at the end of Python's path, so its files do not shadow packages. If
    the process changes its working folder later, the first working folder remains in use.
    """
    global _home
    check_named(name)
    module, _, class_name = name.partition(":")
    if _home is None:
        _home = Path.cwd()
        importlib.invalidate_caches()
    if str(_home) not in sys.path:
        sys.path.append(str(_home))
    try:
        imported = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module and not module.startswith(f"{error.name}."):
            raise PartImportError(f"{name}: {module} cannot be imported") from error
        folder = "this folder or among Python's packages"
        raise UserError(f"{name}: there is no module {module} in {folder}") from None
    except UserError:
        raise
    except Exception as error:
        raise PartImportError(f"{name}: {module} cannot be imported") from error
    if not isinstance(found := getattr(imported, class_name, None), type):
        raise UserError(f"{imported.__file__}: defines no class {class_name}")
    return found


def import_modules(code: Code) -> None:
    """Import all modules of the code, except modules that cannot be imported here."""
    for file in code.files:
        with suppress(ImportError):
            importlib.import_module(_module_of(file))


def import_copy(name: str, code: Code) -> Any:
    """Import the class MODULE:CLASS from a copy of its code, and all modules of this code.

    Raises UserError if another version of a module is already imported.
    """
    for file, content in code.files.items():
        loaded = sys.modules.get(_module_of(file))
        there = getattr(loaded, "__file__", None)
        if loaded and there and _tree_digest(Path(there).read_bytes()) != _tree_digest(content):
            raise UserError(f"{name}: another version of {_module_of(file)} is imported; {RESTART}")
        # The package may have been loaded from another copy; add the modules of this copy.
        if loaded and file.endswith("/__init__.py"):
            loaded.__path__.insert(0, str((code.root / file).parent))
    sys.path.insert(0, str(code.root))
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    importlib.invalidate_caches()
    try:
        import_modules(code)
        return import_class(name)
    finally:
        sys.dont_write_bytecode = writes
        sys.path.remove(str(code.root))


RESTART = "restart this process (in a notebook, the kernel) to use it"


def _module_of(file: str) -> str:
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _tree_digest(content: bytes) -> str:
    return _digest({"": _parsed(content, "")})


def may_run(code: Code, record: str | Path) -> bool:
    """Check if code may run. A file in the folder `record` names this code.

    This file may come from an untrusted source, and so may all code in its folder. Code inside
    `record` may thus not run. Installed code elsewhere may run. Any other code must be a top-level
    module or be in a regular package. It may run if it is outside the working folder, directly in
    the working folder, or in a subfolder of the working folder that does not contain `record`.
    Symbolic links in the working folder must not lead out of it.
    """
    here, record = home(), Path(record)
    file, folder = (code.root / code.file).resolve(), record.resolve()
    if file.is_relative_to(folder):
        return False
    if _is_installed(code.root):
        return True
    packages = Path(code.file).parts[:-1]
    for depth in range(len(packages)):
        if not (code.root.joinpath(*packages[: depth + 1]) / "__init__.py").is_file():
            return False
    place = code.root / code.file
    if not place.is_relative_to(here):
        return True  # The code is elsewhere on Python's path.
    first, *below = place.relative_to(here).parts
    if not below:
        return True
    is_apart = not (here / record).is_relative_to(here / first)
    is_apart = is_apart and not folder.is_relative_to((here / first).resolve())
    return is_apart and file.is_relative_to(here.resolve())


# -- the code of the package -----------------------------------------------------------------------


@cache
def code_digest(*rooms: str) -> str:
    """Return the digest of Python's version and of the source files of psld.

    With arguments, only these subpackages or files of psld are included.
    """
    digest = hashlib.sha256(sys.version.encode())
    for file in _files_of(rooms):
        digest.update(file.read_bytes() + b"\0")
    return digest.hexdigest()


def _files_of(rooms: Sequence[str]) -> list[Path]:
    places = [PACKAGE / room for room in rooms] or [PACKAGE]
    return sorted(
        file for each in places for file in ([each] if each.suffix else each.rglob("*.py"))
    )
