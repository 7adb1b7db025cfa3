"""Each module of compat/ was checked with the installed versions of the packages whose internals it touches."""

import ast
import re
from importlib.metadata import version

import pytest
from conftest import REPOSITORY

MODULES = sorted((REPOSITORY / "scripts/posttrain/compat").glob("[a-z]*.py"))


def checked(tree: ast.Module) -> dict[str, str]:
    """What CHECKED says in a module, which is not imported."""
    values = {node.targets[0].id: node.value for node in tree.body if isinstance(node, ast.Assign)}
    return ast.literal_eval(values["CHECKED"])


@pytest.mark.parametrize("file", MODULES, ids=lambda file: file.stem)
def test_a_module_was_checked_with_the_installed_versions(file):
    for package, known in checked(ast.parse(file.read_text())).items():
        assert version(package).partition("+")[0] == known, (  # torch 2.13.0+cpu
            f"compat/{file.name} was checked with {package} {known}, and {version(package)} is installed: read what it touches in the "
            "new version, and then change CHECKED"
        )


@pytest.mark.parametrize("file", MODULES, ids=lambda file: file.stem)
def test_a_module_says_what_would_let_it_go(file):
    text = ast.get_docstring(ast.parse(file.read_text()))
    functions = [
        ast.get_docstring(node) or "" for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef)
    ]
    assert re.search(r"(can|could) go\s+(once|if|along)", "\n".join([text, *functions]))
