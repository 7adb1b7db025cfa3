"""Every mistake of a user has a code, each code a section in docs/errors.md; all sentences are in tests/error_sentences.txt.

After a change of a sentence: `python tests/unit/runtime/test_error_codes.py`, and read the difference.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
SCRIPTS, PAGE = REPOSITORY / "scripts", REPOSITORY / "docs/errors.md"
SENTENCES = REPOSITORY / "tests/error_sentences.txt"
RAISED = ("UserError", "Mistake", "Mistake.told")


def raised() -> Iterator[tuple[str, ast.Call]]:
    """Each place where a mistake of the user's is made into an error: its module and the call."""
    for file in sorted(SCRIPTS.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in RAISED:
                yield str(file.relative_to(SCRIPTS)), node


def template(node: ast.expr) -> str:
    """The text of an argument, with the names of what is filled in."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(template(part) for part in node.values)
    return f"{{{ast.unparse(node.value if isinstance(node, ast.FormattedValue) else node)}}}"


def sentences() -> str:
    lines = sorted(f"{module}: {' | '.join(map(template, call.args))}" for module, call in raised())
    return "".join(f"{line}\n" for line in lines)


def test_every_error_has_a_code():
    other = [f"{module}: {ast.unparse(call)}" for module, call in raised() if not codes_of(call)]
    assert not other


def codes_of(call: ast.Call) -> list[str]:
    """The codes that a call may have: words in the first argument, or the code of another error that is passed on."""
    if not call.args:
        return []
    first = call.args[0]
    words = [node.value for node in ast.walk(first) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    if words:
        return words if all(re.fullmatch("[a-z0-9]+(-[a-z0-9]+)*", word) for word in words) else []
    return [ast.unparse(first)] if ast.unparse(first).endswith("code") else []


def test_each_code_has_a_section():
    codes = {code for _, call in raised() for code in codes_of(call) if "-" in code}
    sections = re.findall("^## (.*)$", PAGE.read_text(), re.MULTILINE)
    assert sections == sorted(sections)
    assert not codes - set(sections), "codes without a section in docs/errors.md"
    source = "".join(file.read_text() for file in SCRIPTS.rglob("*.py"))
    assert not [section for section in sections if f'"{section}"' not in source], (
        "sections of codes that nothing raises"
    )


def test_the_sentences_are_the_ones_that_were_read():
    assert SENTENCES.read_text() == sentences()


if __name__ == "__main__":
    SENTENCES.write_text(sentences())
