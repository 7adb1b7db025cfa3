"""The library's structure: packages import downwards only, without cycles, and nothing in them is too long."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from posttrain.methods import METHODS
from posttrain.objectives import OBJECTIVES

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
LIBRARY = SCRIPTS / "posttrain"
# In the order in which data flows: each may import itself and what stands before it.
LAYERS = (
    "runtime compat objectives methods exports documents metrics data models inference training evaluation export serving preflight "
    "config workflow diagnosis reports provenance planning guidance importing cli"
).split()
MAX_FILE, MAX_CLASS, MAX_FUNCTION = 400, 200, 60  # lines
FILES = sorted(LIBRARY.rglob("*.py"))


def layer(module: str) -> str:
    return module.split(".")[1]


def imported(tree: ast.Module) -> Iterator[str]:
    """Modules of the library that a file imports, in functions and for type checkers too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("posttrain."):
            yield from (
                [f"{node.module}.{name.name}" for name in node.names] if node.module.count(".") == 1 else [node.module]
            )
        elif isinstance(node, ast.ImportFrom) and node.module == "posttrain":
            yield from (f"posttrain.{name.name}" for name in node.names)
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.startswith("posttrain."))


def module_of(file: Path) -> str:
    return ".".join(file.relative_to(SCRIPTS).with_suffix("").parts)


def test_every_package_is_one_of_the_layers():
    there = {path.stem for path in LIBRARY.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert there - {"__init__"} == set(LAYERS)


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_imports_point_downwards(file):
    if file.parent == LIBRARY and file.stem == "__init__":
        return
    own = LAYERS.index(layer(module_of(file)))
    upwards = [name for name in imported(ast.parse(file.read_text())) if LAYERS.index(layer(name)) > own]
    assert not upwards


def test_no_modules_import_each_other_in_a_cycle():
    graph = {module_of(file): set(imported(ast.parse(file.read_text()))) for file in FILES}
    while leaves := [name for name, needs in graph.items() if not needs & graph.keys()]:
        for name in leaves:
            del graph[name]
    needed = set().union(*graph.values()) if graph else set()
    assert not graph.keys() & needed


@pytest.mark.parametrize("file", [*FILES, *sorted(SCRIPTS.glob("*.py"))], ids=module_of)
def test_nothing_is_too_long(file):
    text = file.read_text()
    assert len(text.splitlines()) <= MAX_FILE
    for node in ast.walk(ast.parse(text)):
        limit = {ast.ClassDef: MAX_CLASS, ast.FunctionDef: MAX_FUNCTION, ast.AsyncFunctionDef: MAX_FUNCTION}.get(
            type(node)
        )
        if limit:
            assert node.end_lineno - node.lineno < limit, f"{node.name} has more than {limit} lines"


# What a stage keeps beside all results, and what it reads of a dataset only to name a row or a licence.
BESIDE_RESULTS = (
    "compat/snakemake.py config/plain_values.py data/licences.py runtime/script.py runtime/storage_faults.py training/loop.py "
    "training/mlflow_tracking.py training/trackers.py workflow/paths.py"
).split()


@pytest.mark.parametrize(
    "file", [file for file in FILES if str(file.relative_to(LIBRARY)) not in BESIDE_RESULTS], ids=module_of
)
def test_only_one_place_knows_where_results_lie(file):
    texts = [node.value for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Constant)]
    found = [text for text in texts if isinstance(text, str) and (text == "results" or text.startswith("results/"))]
    assert not [text for text in found if "\n" not in text and "{" not in text]


def test_packages_start_empty():
    assert not [file for file in LIBRARY.rglob("__init__.py") if file.parent != LIBRARY and file.read_text()]


def test_objectives_and_methods_are_compared_nowhere_else():
    """Code asks for a property of a row of the two tables; no comparison has the name of one."""
    found = []
    for file in [*FILES, *sorted(SCRIPTS.glob("*.py"))]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Compare):
                sides = [node.left, *node.comparators]
                names = {part.value for side in sides for part in ast.walk(side) if isinstance(part, ast.Constant)}
                asked = any(re.search(r"(objective|method)('\])?$", ast.unparse(side)) for side in sides)
                if asked and names & (OBJECTIVES.keys() | METHODS.keys()):
                    found.append(f"{module_of(file)}: {ast.unparse(node)}")
    assert not found
