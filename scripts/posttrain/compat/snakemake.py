"""Every touch of Snakemake that its documentation does not promise.

Checked with Snakemake 9.27.1; tests/unit/compat/test_snakemake.py fails when one of these changes.

- `targets`: the Snakefile is read before `workflow.dag_settings` is set (api.py, `DAGApi.__post_init__`), so the command line is
  read. It could go if a Snakefile were told its targets.
- `planned_outputs`: `onstart` is told nothing of the jobs, so `workflow.dag` is asked. It could go if `onstart` had the jobs, or if
  Snakemake's lock made a second command wait instead of failing.
- `stages_here`: neither is it told where jobs run; `workflow.local_exec` and the settings of the deployment know.
- `scheduler`, `chosen`: nor is it told which executor sends its jobs where, and which resources the command line sets; the workflow
  and its settings know.
- `carry_wildcards`: a job that is sent elsewhere is named to the Snakemake there by its wildcards, which are taken apart at each comma
  (snakemake#2366): `run=dpo,rank=8` would build `dpo`. In an array of Slurm's the quotes are lost as well. It could go with that fault.
- `replaced`: a job that must run hides, from all jobs below it, that they must run for reasons of their own, and does not start them
  where they read its files as `ancient` (dag.py, `update_needrun`): a changed check of the preflight hides a missing evaluation, and
  Snakemake ends as if all were built. It could go if the jobs that `masked` holds were looked at.
- `start_again`: no hook can have Snakemake work out its jobs anew, so the process replaces itself. It could go along with it.
- `default_storage`: a Snakefile is not told whether and where `--default-storage-prefix` puts its files.
- `ignore_sizes_in_storage`: once a second, while a job waits, the scheduler asks the storage for the size of each input of all jobs that
  wait (job_scheduler.py, `update_input_sizes`), three requests a file, to start those with the largest inputs first. It could go if
  the sizes were remembered.
- `job_environment`: `os.environ` would reach the Snakefile itself as well when it starts again; `shell.prefix` reaches jobs alone, and
  takes the place of Snakemake's own (shell.py, `_get_process_prefix`). It could go if a rule could set variables.
- `name_missing_plugins`: an executor whose plugin is not installed, on the command line or in a profile, is refused with 128 lines of
  usage (argparse, `invalid choice`) and no word of what to install. It could go if that error named the plugin.
- `remember_parameters`: Snakemake asks Python for the signature of a rule's function twice a job and input, a fifteenth of what planning
  takes; it takes the answer that `overwrite_function_params` leaves on a function. It could go if Snakemake kept the answers.
- `default_handler`: a logger plugin cannot ask for Snakemake's own output, as under `--verbose`.
- `INTERRUPTED`, `REPEATED`, `ROUTINE`: events without a type of their own, which are told apart by how their text begins.
"""

import argparse
import functools
import inspect
import logging
import os
import re
import shlex
import sys
from typing import Any, NoReturn
from urllib.parse import quote, unquote

from snakemake_interface_executor_plugins.settings import ExecMode

from posttrain.runtime.fork_server import VARIABLE as FORK_SERVER

CHECKED = {"snakemake": "9.27.1"}
# SIGTERM to Snakemake alone, and Ctrl-C.
GRACEFUL = "Will exit after finishing currently running jobs"
INTERRUPTED = (GRACEFUL, "Terminating processes on user request")
# Says again that a job failed, after the job's own event.
REPEATED = (
    "At least one job did not complete successfully",
    "WorkflowError:\nAt least one job did not complete successfully",
    "Exiting because a job execution failed",
)
# What every command says, and what is said otherwise.
ROUTINE = (
    "Storing in storage:",
    "Finished upload",
    "Retrieving from storage:",
    "Finished retrieval",
    "Removing local copy of storage file:",
    "Skipped removing non-empty directory",
    *INTERRUPTED,
    *REPEATED,
    "Assuming unrestricted shared filesystem usage",
    "Building DAG of jobs",
    "Using shell:",
    "Provided remote nodes",
    "Conda environments: ignored",
    "Singularity containers: ignored",
    "Group jobs: inactive",
    "Select jobs to execute",
    "Shutting down, this might take some time",
    "Removing output files of failed job",
    "Complete log(s):",
    "Elapsed time:",
    "This was a dry-run",
    "Reasons:",
    "Some jobs were triggered by provenance information",
    "Rules with provenance triggered jobs",
    "Would remove temporary output",
)

# What the Slurm plugin says of every command and of every job.
ROUTINE_OF_PLUGINS = (
    "SLURM run ID:",
    "Cleaning up SLURM log files",
    "Array job submission does not allow for multiple different",
    "Both 'sacctmgr' and 'sshare' returned empty results",
)
SUBMITTED = ("has been submitted with SLURM jobid", "Submitted array job with Snakemake IDs")


def is_routine(text: str) -> bool:
    """Whether a message says what every command says, or a command's every job."""
    return text.startswith((*ROUTINE, *ROUTINE_OF_PLUGINS)) or any(part in text for part in SUBMITTED)


def targets(arguments: list[str]) -> list[str]:
    """The files under results/ that a command line names."""
    return [argument for argument in arguments if argument.startswith("results/")]


def planned_outputs(workflow: Any) -> list[str]:
    """The files that the jobs of this command will make; to be called from `onstart`."""
    return [str(file) for job in workflow.dag.needrun_jobs() for file in job.output]


def stages_here(workflow: Any) -> int:
    """The number of jobs that load a model, where they run on this machine in Snakemake's own environment; otherwise 0."""
    here = workflow.local_exec and not workflow.deployment_settings.deployment_method
    return sum("gpu" in job.rule.resources for job in workflow.dag.needrun_jobs()) if here else 0


def scheduler(workflow: Any) -> str | None:
    """The executor by which this command sends its jobs elsewhere; None for jobs on this machine, a plan, and within a job."""
    plugin = workflow.executor_plugin
    return plugin.name if plugin and workflow.non_local_exec and workflow.exec_mode == ExecMode.DEFAULT else None


def chosen(workflow: Any, resource: str, rule: str = "") -> str:
    """What the command line or the profile says of a resource, for one rule or by default; nothing where they do not."""
    settings = workflow.resource_settings
    for resources in (settings._parsed_overwrite_resources.get(rule, {}), settings._parsed_default_resources):
        if resource in resources:
            return str(resources[resource].raw)
    return ""


@functools.cache
def carry_wildcards() -> None:
    """Let a job that is sent elsewhere keep wildcards with commas, such as the overrides of a run; once a process."""
    from snakemake import dag
    from snakemake_interface_executor_plugins.executors import real

    new_job = dag.DAG.new_job

    def encoded(jobs: list[Any]) -> list[str]:
        values = [",".join(f"{key}={quote(value)}" for key, value in job.wildcards_dict.items()) for job in jobs]
        return [f"{job.rulename}:{value}" for job, value in zip(jobs, values, strict=True)]

    async def decoded(self: Any, rule: Any, *rest: Any, wildcards_dict: dict | None = None, **more: Any) -> Any:
        values = wildcards_dict and {key: unquote(value) for key, value in wildcards_dict.items()}
        return await new_job(self, rule, *rest, wildcards_dict=values, **more)

    real.encode_target_jobs_cli_args = encoded
    dag.DAG.new_job = decoded


def replaced(workflow: Any, rule: str) -> bool:
    """Whether jobs of a rule will write files anew that are there; to be called from `onstart`."""
    outputs = [file for job in workflow.dag.needrun_jobs() if job.rule.name == rule for file in job.output]
    return any(workflow.async_run(output.exists()) for output in outputs)  # which may be in a storage


def default_storage(workflow: Any) -> tuple[Any, str] | None:
    """The provider and the prefix of the storage that results are in, or None where they are in the folder."""
    provider = workflow.storage_registry.default_storage_provider
    return (provider, workflow.storage_settings.default_storage_prefix) if provider else None


def ignore_sizes_in_storage() -> None:
    """Let the scheduler take files in a storage as equally large."""
    from snakemake.scheduling.job_scheduler import JobScheduler

    async def update_input_sizes(self: Any, jobs: Any) -> None:
        for file in {file for job in jobs for file in job.input}:
            there = not file.is_storage and await file.exists()
            self._input_sizes[file] = await file.size() if there else 0

    JobScheduler.update_input_sizes = update_input_sizes


def job_environment(variables: dict[str, str]) -> None:
    """Set variables for the commands of all jobs, and for nothing else."""
    from snakemake.shell import shell

    exports = "".join(f"export {name}={shlex.quote(value)}; " for name, value in variables.items())
    shell.prefix(exports.replace("{", "{{").replace("}", "}}") + "set -euo pipefail; ")


def start_again() -> None:
    """Replace this process by the same command, which works out anew what there is to do; it never returns."""
    logging.shutdown()  # the terminal's last lines
    os.environ.pop(FORK_SERVER, None)  # it ends with this program
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def name_missing_plugins() -> None:
    """Let an executor whose plugin is not installed be refused in one sentence; to be called before the command line is read."""
    before = argparse.ArgumentParser.error

    def error(self: argparse.ArgumentParser, message: str) -> NoReturn:
        if found := re.match(r"argument --executor/-e: invalid choice: '([^']*)' \(choose from (.*)\)", message):
            name, installed = found.groups()
            hint = f"pip install snakemake-executor-plugin-{name}, or choose from {installed.replace(chr(39), '')}"
            self.exit(2, f"posttrain: there is no executor '{name}'; {hint}\n")
        before(self, message)

    argparse.ArgumentParser.error = error


def remember_parameters(names: dict[str, Any]) -> None:
    """Note the parameters of the rules' functions among some global names."""
    from snakemake.common import overwrite_function_params

    for function in filter(inspect.isfunction, names.values()):
        parameters = inspect.signature(function).parameters
        if next(iter(parameters), None) == "wildcards":
            overwrite_function_params(function, parameters)


def default_handler(settings: Any) -> logging.Handler:
    """Snakemake's own handler for the terminal.

    Args:
        settings: the `OutputSettings` that a logger plugin is given.
    """
    from snakemake.logging import ColorizingTextHandler, DefaultFilter, DefaultFormatter

    quiet = set(settings.quiet or ())
    return ColorizingTextHandler(
        nocolor=settings.nocolor,
        stream=sys.stdout if settings.stdout else sys.stderr,
        formatter=DefaultFormatter(quiet, settings.show_failed_logs),
        filter=DefaultFilter(quiet, settings.debug_dag, settings.verbose, settings.dryrun, settings.printshellcmds),
    )
