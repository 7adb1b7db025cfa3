"""What posttrain/compat/snakemake.py takes for granted of Snakemake; a failure here names what a new version has changed."""

import inspect
import io
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY
from snakemake import api, dag, jobs, workflow
from snakemake import io as snakemake_io
from snakemake import logging as snakemake_logging
from snakemake.scheduling import job_scheduler
from snakemake.settings.types import OutputSettings
from snakemake.target_jobs import TargetSpec, parse_target_jobs_cli_args
from snakemake_interface_executor_plugins.executors import real
from snakemake_interface_executor_plugins.utils import encode_target_jobs_cli_args

from posttrain.compat import snakemake

SOURCES = "\n".join(map(inspect.getsource, (api, dag, jobs, snakemake_io, workflow, job_scheduler, snakemake_logging)))


@pytest.mark.parametrize("text", [text for text in snakemake.ROUTINE if not text.startswith("WorkflowError")])
def test_snakemake_still_says_it_so(text):
    assert text in SOURCES, f"Snakemake has no message that begins with '{text}' any more: change compat/snakemake.py"


def test_a_snakefile_is_read_before_its_targets_are_known():
    """Once this fails, `targets` can ask `workflow.dag_settings` instead of the command line."""
    code = inspect.getsource(api.DAGApi.__post_init__)
    assert "self.workflow_api._workflow.dag_settings = self.dag_settings" in code


def test_targets_are_the_results_of_a_command_line():
    assert snakemake.targets(["--cores", "2", "results/a/eval.json", "all", "--", "results/b"]) == [
        "results/a/eval.json", "results/b",
    ]  # fmt: skip


def test_the_jobs_to_run_can_be_asked_for():
    assert not inspect.signature(dag.DAG.needrun_jobs).parameters.keys() - {"self", "exclude_finished"}
    assert "self._onstart(" in inspect.getsource(workflow.Workflow.execute)


def test_the_scheduler_still_asks_for_sizes_once_a_second():
    """Once this fails, look whether `ignore_sizes_in_storage` can go."""
    code = inspect.getsource(job_scheduler.JobScheduler.update_input_sizes)
    assert "return path, await path.size() if await path.exists() else None" in code
    assert "self._input_sizes.update(" in code


def test_variables_of_jobs_reach_their_commands_and_nothing_else(monkeypatch):
    from snakemake.shell import shell

    monkeypatch.setattr(shell, "_process_prefix", None)
    snakemake.job_environment({"POSTTRAIN_TRY": "a {b} 'c'"})
    assert "set -euo pipefail; " in inspect.getsource(shell)
    assert shell('echo "$POSTTRAIN_TRY"', read=True) == "a {b} 'c'\n"
    assert "POSTTRAIN_TRY" not in os.environ


def test_an_executor_without_its_plugin_is_named(monkeypatch, capsys):
    import argparse

    monkeypatch.setattr(argparse.ArgumentParser, "error", argparse.ArgumentParser.error)
    snakemake.name_missing_plugins()
    parser = argparse.ArgumentParser()
    parser.add_argument("--executor", "-e", choices=["local", "slurm"])
    with pytest.raises(SystemExit):
        parser.parse_args(["--executor", "lsf"])
    assert capsys.readouterr().err == (
        "posttrain: there is no executor 'lsf'; pip install snakemake-executor-plugin-lsf, or choose from local, slurm\n"
    )
    with pytest.raises(SystemExit):
        parser.parse_args(["--executes"])
    assert "usage:" in capsys.readouterr().err


def test_snakemake_has_its_own_handler(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    handler = snakemake.default_handler(OutputSettings(verbose=True, nocolor=True))
    record = logging.LogRecord("snakemake.logging", logging.INFO, "", 0, "Select jobs to execute...", None, None)
    assert handler.filter(record)
    handler.emit(record)
    assert sys.stderr.getvalue() == "Select jobs to execute...\n"


CHECKED = """
import sys
sys.path.insert(0, {scripts!r})
from posttrain.compat.snakemake import replaced, start_again

again = []

rule check:
    input: "source"
    output: "check"
    shell: "touch {{output}}"

rule train:
    input: ancient("check")
    output: "trained"
    shell: "touch {{output}}"

rule evaluate:
    input: "trained"
    output: "evaluation"
    shell: "touch {{output}}"

onstart:
    again.append(replaced(workflow, "check"))

onsuccess:
    if {starts_again} and any(again):
        start_again()
"""


@pytest.mark.parametrize("starts_again", [False, True])
def test_what_a_repeated_check_hides_is_built_by_starting_again(tmp_path, starts_again):
    """Once the first case builds the evaluation, Snakemake is mended, and `replaced` can go."""
    scripts = str(REPOSITORY / "scripts")
    (tmp_path / "Snakefile").write_text(CHECKED.format(scripts=scripts, starts_again=starts_again))
    for name, age in (("check", 30), ("trained", 20), ("source", 10)):  # the check is older than what it reads
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    command = [
        Path(sys.executable).parent / "snakemake",
        "--cores",
        "1",
        "--nolock",
        "--workflow-profile",
        "none",
        "evaluation",
    ]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "evaluation").exists() == starts_again


def test_the_parameters_of_rules_functions_are_remembered():
    from snakemake.common import get_function_params, get_input_function_aux_params

    def of_a_rule(wildcards, input):
        return input

    def other(text):
        return text

    snakemake.remember_parameters({"of_a_rule": of_a_rule, "other": other, "number": 1})
    of_a_rule.__wrapped__ = other  # what Python would find instead, if it were asked
    assert list(get_function_params(of_a_rule)) == ["wildcards", "input"]
    assert get_input_function_aux_params(of_a_rule, {"input": [1], "output": [2]}) == {"input": [1]}
    assert list(get_function_params(other)) == ["text"] and not vars(other)


def test_wildcards_with_commas_reach_a_job(monkeypatch):
    """Where the first assertion fails, Snakemake has mended it (snakemake#2366), and `carry_wildcards` can go."""
    given = {"run": "dpo,rank=8,max_length=64", "dataset": "pairs", "form": "", "max_length": "512"}
    wanted = TargetSpec("logprobs", given)
    assert parse_target_jobs_cli_args(encode_target_jobs_cli_args([wanted])) != [wanted]
    seen = []

    async def new_job(self, rule, targetfile=None, format_wildcards=None, wildcards_dict=None):
        seen.append(wildcards_dict)

    monkeypatch.setattr(dag.DAG, "new_job", new_job)
    monkeypatch.setattr(real, "encode_target_jobs_cli_args", real.encode_target_jobs_cli_args)
    snakemake.carry_wildcards.__wrapped__()
    (encoded,) = real.encode_target_jobs_cli_args([wanted])
    assert not set(encoded) & set("\"' $")
    (parsed,) = parse_target_jobs_cli_args([encoded])
    with pytest.raises(StopIteration):  # it awaits nothing; a browser's tests may have left an event loop running here
        dag.DAG.new_job(None, None, wildcards_dict=parsed.wildcards_dict).send(None)
    assert seen == [given]
