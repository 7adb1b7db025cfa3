"""Runs each job as a cluster without a shared file system does: in an empty folder of its own, which is gone afterwards.

The job gets the sources by the storage and no file of the submitter's. Its requests carry `app/job` in their user agent.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor
from snakemake_interface_executor_plugins.settings import CommonSettings

common_settings = CommonSettings(
    non_local_exec=True,
    implies_no_shared_fs=True,
    job_deploy_sources=True,
    pass_default_storage_provider_args=True,
    pass_default_resources_args=True,
    pass_envvar_declarations_to_cmd=True,
    auto_deploy_default_storage_provider=False,
    init_seconds_before_status_checks=0,
)


class Executor(RemoteExecutor):
    """Jobs as processes, each in a temporary folder."""

    def run_job(self, job):
        """Start the job's own Snakemake."""
        folder = tempfile.TemporaryDirectory(prefix="node-")
        # Of the submitter's environment, a node has no more than what a container's image would have.
        keep = ("PYTHONPATH", "OMP_NUM_THREADS", "HOME", *(name for name in os.environ if name.startswith("AWS_")))
        environment = {name: os.environ[name] for name in keep if name in os.environ}
        environment |= {"PATH": f"{Path(sys.executable).parent}:{os.defpath}", "AWS_SDK_UA_APP_ID": "job"}
        with Path(self.workflow.persistence.aux_path, f"{job.name}-{job.jobid}.log").open("w") as log:
            command = ["bash", "-c", self.format_job_exec(job)]
            process = subprocess.Popen(command, cwd=folder.name, env=environment, stdout=log, stderr=subprocess.STDOUT)
        self.report_job_submission(SubmittedJobInfo(job, aux={"process": process, "folder": folder}))

    async def check_active_jobs(self, active_jobs):
        """Those that still run."""
        for info in active_jobs:
            status = info.aux["process"].poll()
            if status is None:
                yield info
                continue
            info.aux["folder"].cleanup()
            if status:
                self.report_job_error(info)
            else:
                self.report_job_success(info)

    def cancel_jobs(self, active_jobs):
        """End them."""
        for info in active_jobs:
            info.aux["process"].terminate()
