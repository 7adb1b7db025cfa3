"""The commands that README and docs show are real: planned by Snakemake, known to make, known to the command."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import REPOSITORY, environment, write_made_data

from posttrain.cli.parser import parser
from posttrain.exports import EXPORTS

PAGES = [
    REPOSITORY / "README.md",
    *(path for name in ("", "guide") for path in sorted((REPOSITORY / "docs" / name).glob("*.md"))),
]


def commands() -> Iterator[tuple[str, str]]:
    """Each page and each command line that it shows."""
    for page in PAGES:
        for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.S):
            yield from ((page.name, line) for line in block.splitlines() if line.strip() and not line.startswith("#"))
    listed = re.search(r"## Commands\n(.*?)\n## ", (REPOSITORY / "docs/llms.txt").read_text(), re.S)
    yield from (("llms.txt", line) for line in re.findall(r"`((?:make|snakemake|posttrain) [^`]+)`", listed[1]))


SHOWN = [(page, line.split("  #")[0].strip()) for page, line in commands()]
COMMANDS = {line: page for page, line in reversed(SHOWN) if not line.startswith("snakemake ")}
# Snakemake's: the options of a dry run, without those that do not change it, and the targets that are shown with them.
PLANNED: dict[str, list[str]] = {}
for _, line in SHOWN:
    if line.startswith("snakemake "):
        words = re.sub(r" -n\b| --cores \d+", "", line.removeprefix("snakemake"))
        targets = re.findall(r" results/\S+", words)
        options = re.sub(r" results/\S+", "", words).strip().removesuffix(" --")
        PLANNED.setdefault(options, []).extend(target for target in targets if target not in PLANNED.get(options, []))


@pytest.mark.parametrize("options", PLANNED)
def test_documented_targets_are_planned(folder, options):
    if profile := re.search(r"--workflow-profile (\w+)", options):  # of an executor, which is an extra
        pytest.importorskip(f"snakemake_executor_plugin_{profile[1]}")
    for name in re.findall(r"--configfile (config/\S+)", options):
        write_made_data(folder, REPOSITORY / name)
    words = options.replace("config/", f"{REPOSITORY}/config/") + " --" + "".join(PLANNED[options])
    command = f"{Path(sys.executable).parent}/snakemake -s {REPOSITORY}/Snakefile --dry-run --cores 1 {words}"
    run = subprocess.run(
        ["bash", "-c", command],
        cwd=folder, capture_output=True, text=True, env=environment(),
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize(("line", "page"), COMMANDS.items(), ids=[f"{COMMANDS[line]}: {line}" for line in COMMANDS])
def test_a_documented_command(folder, line, page):
    inner = re.fullmatch(r'eval "\$\((.*)\)"', line)  # what a shell evaluates is printed by a command
    program, *rest = (inner[1] if inner else line).split(maxsplit=1)
    words = rest[0] if rest else ""
    if program == "make":
        check = ["make", "-n", *words.split()]
        where = REPOSITORY
    elif program == "posttrain":
        own = re.split(r" [|<>] ", words)[0]
        parser().parse_args(shlex.split(own))
        return
    elif program == "python":
        check, where = [sys.executable, REPOSITORY / words.split()[0], "--help"], folder
    elif program == "ollama":  # which is not here: it reads a file that an export has
        assert re.search(
            rf" -f results/\w+/export/({'|'.join(k for k in EXPORTS if EXPORTS[k].gguf)})/Modelfile$", line
        )
        return
    else:
        assert program in ("git", "cd", "rm", "source", "pip"), f"{page} shows a command that no test knows: {line}"
        return
    run = subprocess.run(check, cwd=where, capture_output=True, text=True, env=environment())
    assert run.returncode == 0, run.stdout + run.stderr


# The fork server is started by the workflow alone.
SCRIPTS = [file for file in sorted((REPOSITORY / "scripts").glob("*.py")) if file.name != "fork_server.py"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda file: file.name)
def test_a_script_says_how_to_run_it_by_hand(script):
    run = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True)
    assert run.returncode == 0 and f"python scripts/{script.name}" in run.stdout
