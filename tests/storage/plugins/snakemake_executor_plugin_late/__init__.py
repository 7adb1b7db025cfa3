"""Runs each job as a node of a network file system does whose files the other machines see late.

What a job has written is moved away when it ends, and comes back some seconds after its success was reported: declared outputs
first, then what no rule declares.
"""

import subprocess
import tempfile
import threading
from pathlib import Path

from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor
from snakemake_interface_executor_plugins.settings import CommonSettings

DECLARED, UNDECLARED = 3, 6  # seconds
common_settings = CommonSettings(
    non_local_exec=True,
    implies_no_shared_fs=False,
    job_deploy_sources=False,
    pass_default_storage_provider_args=True,
    pass_default_resources_args=True,
    pass_envvar_declarations_to_cmd=True,
    auto_deploy_default_storage_provider=False,
    init_seconds_before_status_checks=0,
)


class Executor(RemoteExecutor):
    """Jobs as processes in the same folder, whose files come late."""

    def run_job(self, job):
        """Start the job's own Snakemake."""
        process = subprocess.Popen(
            ["bash", "-c", self.format_job_exec(job)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.report_job_submission(SubmittedJobInfo(job, aux={"process": process}))

    async def check_active_jobs(self, active_jobs):
        """Those that still run."""
        for info in active_jobs:
            status = info.aux["process"].poll()
            if status is None:
                yield info
            elif status:
                self.report_job_error(info)
            else:
                outputs = [Path(file) for file in info.job.output]
                run = outputs[0].parent
                hide(outputs, DECLARED)
                hide([run / "checkpoints", run / "eval/answers.jsonl"], UNDECLARED)
                self.report_job_success(info)

    def cancel_jobs(self, active_jobs):
        """End them."""
        for info in active_jobs:
            info.aux["process"].terminate()


def hide(files, seconds):
    """Move files and folders away, and back after some seconds."""
    away = Path(tempfile.mkdtemp(dir=".snakemake"))
    hidden = [(file, away / str(number)) for number, file in enumerate(files) if file.exists()]
    for file, place in hidden:
        file.rename(place)

    def show():
        for file, place in hidden:
            if not file.exists():
                place.rename(file)

    threading.Timer(seconds, show).start()
