"""A reward or a metric of the user's own, `FILE.py:NAME`: a function of (answer, reference), both texts, that returns a number; and
classes, such as an environment.

The file is run as `python FILE.py` would run it: what lies beside it can be imported. The files that it imports from its own
folder, and what those import from there, belong to the spec with it. What it opens, or imports by a computed name, is not seen.
"""

import ast
import hashlib
import importlib.util
import math
import re
import reprlib
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

from posttrain.runtime.errors import UserError, nearest

NAME = re.compile(r"[\w./-]+\.py:\w+")

Function = Callable[[str, str], float]


def is_own(name: str) -> bool:
    """Whether `name` has the form `FILE.py:NAME`."""
    return NAME.fullmatch(name) is not None


def label(name: str) -> str:
    """The last part of `FILE.py:NAME`, which is what a column or a metric is called; any other name is its own."""
    return name.rpartition(":")[2] if is_own(name) else name


# ---- before it runs


def files(name: str, folder: Path = Path()) -> list[Path]:
    """The file of `FILE.py:NAME` and, sorted, those of its own folder that it imports, and that these import.

    Args:
        folder: what the path of the file is relative to; the paths that are returned are relative to it as well.
    """
    file = Path(name.partition(":")[0])
    found, waiting = {file}, [file]
    while waiting:
        here = waiting.pop()
        for other in _imported(here, file.parent, folder):
            if other not in found:
                found.add(other)
                waiting.append(other)
    return [file, *sorted(found - {file})]


def refusal(name: str, folder: Path = Path()) -> str | None:
    """Why `FILE.py:NAME` cannot be called with an answer and its reference, as far as its text tells; None where it may."""
    path, _, wanted = name.partition(":")
    tree = _tree(name, folder)
    if isinstance(tree, str):
        return tree
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    if wanted in functions:
        node = functions[wanted]
        if node.decorator_list or _takes_two(node.args):
            return None
        return (
            f"{wanted} in {path} is called with an answer and its reference; write `def {wanted}(answer, reference):`"
        )
    if _bound(tree) & {wanted, "*"}:
        return None
    return (
        f"{path} has no function '{wanted}'; {nearest(wanted, functions) if functions else f'define `{wanted}` in it'}"
    )


def class_refusal(name: str, folder: Path = Path()) -> str | None:
    """Why the class `FILE.py:NAME` cannot be loaded, as far as the file's text tells; None where it may."""
    path, _, wanted = name.partition(":")
    tree = _tree(name, folder)
    if isinstance(tree, str):
        return tree
    if _bound(tree) & {wanted, "*"}:
        return None
    classes = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
    return f"{path} has no class '{wanted}'; {nearest(wanted, classes) if classes else f'define `{wanted}` in it'}"


def _tree(name: str, folder: Path) -> ast.Module | str:
    """The syntax tree of the file of `FILE.py:NAME`, or why it cannot be run."""
    path = name.partition(":")[0]
    if not (folder / path).is_file():
        return f"there is no file '{path}'; write one that exists"
    try:
        tree = ast.parse((folder / path).read_bytes())
    except (SyntaxError, ValueError, RecursionError) as error:
        return f"{_place(path, getattr(error, 'lineno', None))}: {getattr(error, 'msg', error)}; mend the file"
    for helper in files(name, folder)[1:]:
        if (module := helper.relative_to(Path(path).parent).parts[0].removesuffix(".py")) in sys.stdlib_module_names:
            return f"{path} imports '{module}', which is a module of Python's own as well as {helper}; rename that file"
    return tree


def clash(names: list[str], folder: Path = Path()) -> str | None:
    """Why these functions, `FILE.py:NAME`, cannot be loaded in one process: two helpers with one name; None where they can."""
    found: dict[Path, Path] = {}
    for name in names:
        file, *helpers = files(name, folder)
        for helper in helpers:
            other = found.setdefault(helper.relative_to(file.parent), helper)
            if other != helper:
                return f"{other} and {helper} have one name, of which Python imports one; rename one of them"
    return None


def _bound(tree: ast.Module) -> set[str]:
    """The names that are defined, imported or assigned anywhere in a module; `*` where all of another's are."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.alias):
            names.add(node.asname or node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def _takes_two(arguments: ast.arguments) -> bool:
    places = len(arguments.posonlyargs) + len(arguments.args)
    needed = [None for default in arguments.kw_defaults if default is None]
    return places - len(arguments.defaults) <= 2 and (places >= 2 or arguments.vararg is not None) and not needed


def _imported(file: Path, root: Path, folder: Path) -> Iterator[Path]:
    """The files under `root` that `file` imports; none where it cannot be read or parsed, which is told elsewhere."""
    try:
        tree = ast.parse((folder / file).read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _modules(root, alias.name, folder)
        elif isinstance(node, ast.ImportFrom) and node.level <= len(file.parents):
            base = file.parents[node.level - 1] if node.level else root
            if base == root or root in base.parents:
                for alias in node.names:
                    yield from _modules(base, f"{node.module or ''}.{alias.name}".strip("."), folder)


def _modules(base: Path, module: str, folder: Path) -> Iterator[Path]:
    """The files that importing a dotted name from a folder runs: each package's, and the module's."""
    for part in module.split("."):
        base /= part
        for file in (base / "__init__.py", base.with_name(f"{part}.py")):
            if (folder / file).is_file():
                yield file


# ---- to run it


def load(name: str, where: str = "") -> Function:
    """The function NAME in FILE.py for `FILE.py:NAME`, which is checked at every call.

    Args:
        where: the key that names it, for the sentences.

    Returns:
        The user's function, whose value is a finite float.

    Raises:
        UserError: the file cannot be run, or has no such function; at a call, where the function raises or returns no number.
    """
    file, _, wanted = name.partition(":")
    folder = Path(file).absolute().parent
    if why := refusal(name):
        raise UserError("invalid-function", where, why)
    module = _module(Path(file), where)
    function = getattr(module, wanted, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if callable(value)]
        raise UserError("invalid-function", where, f"{file} has no function '{wanted}'", nearest(wanted, known))

    def checked(answer: str, reference: str) -> float:
        try:
            value = function(answer, reference)
        except MemoryError:
            raise
        except Exception as error:  # whatever the user's code raises
            problem = f"{name} failed for the completion {_short(answer)}: {_told(error, folder)}"
            raise UserError("invalid-function", where, problem) from error
        return _number(value, where, name, answer)

    return checked


def load_class(name: str, where: str = "") -> type:
    """The class NAME in FILE.py for `FILE.py:NAME`.

    Args:
        where: the key that names it, for the sentences.

    Raises:
        UserError: the file cannot be run, or has no such class.
    """
    file, _, wanted = name.partition(":")
    if why := class_refusal(name):
        raise UserError("invalid-function", where, why)
    module = _module(Path(file), where)
    found = getattr(module, wanted, None)
    if not isinstance(found, type):
        known = [key for key, value in vars(module).items() if isinstance(value, type)]
        raise UserError("invalid-function", where, f"{file} has no class '{wanted}'", nearest(wanted, known))
    return found


def _module(file: Path, where: str) -> ModuleType:
    """The file as a module of a name of its own in sys.modules, where dataclasses and the like look; run once a process."""
    path = file.absolute()
    name = f"user_code_{hashlib.sha256(str(path).encode()).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    folder = str(path.parent)
    sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's code raises
        del sys.modules[name]
        raise UserError("invalid-function", where, f"{file} cannot be imported: {_told(error, path.parent)}") from error
    finally:
        sys.path.remove(folder)
        sys.path.append(folder)  # for an import inside a function; our own imports come first
    try:
        _check_siblings(file, where)
    except UserError:
        del sys.modules[name]
        raise
    return module


def _check_siblings(file: Path, where: str) -> None:
    """Refuse a helper whose name another module had already: that one was used in its place."""
    for sibling in files(f"{file}:")[1:]:
        parts = sibling.relative_to(file.parent).with_suffix("").parts
        module = sys.modules.get(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
        there = getattr(module, "__file__", None)
        if there and Path(there).resolve() != sibling.resolve():
            problem = f"{file} imports '{module.__name__}', which is already {there} in this process, not {sibling}"
            raise UserError("invalid-function", where, problem, "rename the file")


def _number(value: object, where: str, name: str, answer: str) -> float:
    try:
        number = math.nan if isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):  # RuntimeError: a tensor of several numbers
        number = math.nan
    if not math.isfinite(number):
        problem = f"{name} returned {reprlib.repr(value)} for the completion {_short(answer)}"
        raise UserError("invalid-function", where, problem, "return a finite number")
    return number


def _told(error: Exception, folder: Path) -> str:
    """An exception and the last line of the files in `folder` that it went through."""
    traceback.print_exception(error)  # to the log
    if isinstance(error, SyntaxError):
        return f"{_place(error.filename, error.lineno)}: {error.msg}"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).is_relative_to(folder) and "site-packages" not in frame.filename
    ]
    said = ": ".join(filter(None, (type(error).__name__, " ".join(str(error).split())[:300])))
    return f"{_place(frames[-1].filename, frames[-1].lineno)}: {said}" if frames else said


def _place(file: str | None, line: int | None) -> str:
    return f"{Path(file).name if file else 'the file'}{f', line {line}' if line else ''}"


def _short(answer: str) -> str:
    text = " ".join(answer.split())
    return f"'{text if len(text) <= 60 else text[:59] + '…'}'"
