"""Nothing that a configuration, a path or a row says reaches a shell as anything but text."""

import json
import re
import subprocess

import pytest
from conftest import REPOSITORY, environment, snakemake

from posttrain.objectives import OBJECTIVES
from posttrain.runtime.errors import printable
from security.hostile import STRINGS, as_file_name

RULES = sorted((REPOSITORY / "rules").glob("*.smk"))
SHELL = re.compile(r'^ +shell:\n +(""".*?"""|".*?"$)', re.DOTALL | re.MULTILINE)
FIELD = re.compile(r"(?<!{){(?!{)([^}]*)}")
ALL_NAMES = [name for name in dict.fromkeys(map(as_file_name, STRINGS)) if name]
NAMES = [name for name in ALL_NAMES if not set("{<") & set(name) and printable(name) == name]  # the others are refused


def test_the_corpus_is_large_enough():
    assert len(STRINGS) >= 500 and len(NAMES) >= 250


def test_every_value_in_a_shell_command_is_quoted():
    fields = [
        (file.name, field)
        for file in RULES
        for block in SHELL.findall(file.read_text())
        for field in FIELD.findall(block)
    ]
    assert len(fields) > 50
    bare = {(file, field) for file, field in fields if not field.endswith(":q")}
    assert {field for _, field in bare} == {"threads", "wildcards.max_length", "params.script"}
    assert 'max_length="[0-9]+"' in (REPOSITORY / "rules/common.smk").read_text()


def test_no_rule_has_a_command_that_was_not_looked_at():
    for file in RULES:
        text = file.read_text()
        assert len(SHELL.findall(text)) == len(re.findall(r"^ +shell:", text, re.MULTILINE)), file
        assert not re.search(r"^ +(run|script|notebook|wrapper):$", text, re.MULTILINE), file


def test_what_is_not_quoted_is_a_word_of_the_rules_own():
    for file in RULES:
        for script in re.findall(r"\bscript=(.*),", file.read_text()):
            assert script in ('f"train_{objective}.py"', 'f"train_{OBJECTIVES[objective].script or objective}.py"'), (
                file
            )
    for objective, row in OBJECTIVES.items():
        assert re.fullmatch("[a-z]+", row.script or objective)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project whose files, columns, licences and rows are hostile, with a configuration for it."""
    folder = tmp_path_factory.mktemp("hostile")
    data = folder / "data; touch CANARY; $(touch CANARY)"
    data.mkdir()
    rows = [
        json.dumps({"$(touch CANARY)": text, "`touch CANARY`": f"{i} {text}"})
        for i, text in enumerate(STRINGS)
        if text.strip()
    ]
    for i, name in enumerate(NAMES):
        (data / f"{name}.jsonl").write_text(rows[i % len(rows)] + "\n")
    (data / "rows.jsonl").write_text("\n".join(rows) + "\n")
    dataset = {"path": data.name, "format": "prompt_completion", "licence": "'; touch CANARY; '", "validation": 0.5}
    dataset |= {
        "columns": {"prompt": "$(touch CANARY)", "completion": "`touch CANARY`"},
        "near_duplicates": None,
        "max_dropped": 1,
    }
    base = {"source": "path", "path": "$(touch CANARY)", "licence": "`touch CANARY`"}
    run = {"from": "base", "objective": "sft", "data": "rows", "target_modules": "$(touch CANARY)"}
    run |= {"peft_args": {"modules_to_save": STRINGS[:40]}, "trainer_args": {"optim_args": "'; touch CANARY; '"}}
    values = {
        "bases": {"base": base},
        "datasets": {"rows": dataset},
        "runs": {"run": run},
        "tracking": {"mlflow": False},
    }
    (folder / "config.json").write_text(json.dumps(values))
    (folder / "$(touch CANARY)").mkdir()
    return folder


def test_jobs_on_hostile_files_and_rows_run_nothing_of_them(project):
    """The real commands of spec and data; the job's log, its spec and its rows hold the strings as they are."""
    targets = ["results/data/rows/train.parquet", "results/run/spec.json", "results/bases/base/spec.json"]
    run = snakemake(project, "--printshellcmds", *targets, config=project / "config.json")
    assert run.returncode == 0, run.stdout[-3000:]
    assert not list(project.rglob("CANARY*"))
    spec = json.loads((project / "results/run/spec.json").read_text())
    assert spec["peft_args"]["modules_to_save"] == STRINGS[:40]
    summary = json.loads((project / "results/data/rows/data.json").read_text())
    assert summary["train"] + summary["validation"] > 300


def test_a_hostile_target_is_refused_in_a_sentence(project):
    """What a command line asks for by name: each is refused before a job."""
    for text in ("run,rank=$(touch CANARY)", "run,seed=4;touch CANARY\ntouch CANARY"):
        run = snakemake(project, f"results/{text}/eval.json", config=project / "config.json")
        assert run.returncode == 1 and "posttrain: " in run.stdout and "Traceback" not in run.stdout
    assert not list(project.rglob("CANARY*"))


def test_a_configuration_that_is_a_program_is_not_run(project):
    """Snakemake would run it; see docs/security.md for a file that is named with --configfile."""
    (project / "config").mkdir()
    program = '__use_yte__: true\n__definitions__:\n  - import os; os.system("touch CANARY")\n'
    (project / "config/config.yaml").write_text(program)
    where = ["-s", REPOSITORY / "Snakefile", "--directory", project, "--cores", "1", "-n"]
    run = subprocess.run(["snakemake", *where], capture_output=True, text=True, env=environment())
    assert run.returncode == 1 and "posttrain: config/config.yaml: `__use_yte__` makes the file a program" in run.stderr
    assert not list(project.rglob("CANARY*"))
