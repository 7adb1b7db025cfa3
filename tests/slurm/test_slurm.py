"""The workflow by `--executor slurm` on a real Slurm of one node: the same bits as on this machine, whatever Slurm does to its jobs."""

import hashlib
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from cluster import Cluster, missing, running
from conftest import REPOSITORY, TINY, snakemake

pytestmark = [pytest.mark.slow, pytest.mark.skipif(missing() is not None, reason=str(missing()))]

SNAKEMAKE = Path(sys.executable).with_name("snakemake")
HERE = ("--default-resources", "slurm_partition=main", "slurm_account=none")
# A job uses one CPU, as it does in the local runs that results are compared with; a node this small is asked often.
ONE_NODE = ("--cores", "1", "--max-threads", "1", "--jobs", "4", "--slurm-init-seconds-before-status-checks", "8")
LONG = "results/long/train.json"
MINUTES = 15 * 60


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running() as cluster:
        yield cluster


def command(folder: Path, *arguments: str, config: Path = TINY, where: tuple[str, ...] = HERE) -> list[str]:
    """A command line that sends jobs to Slurm."""
    project = ["-s", REPOSITORY / "Snakefile", "--directory", folder, "--configfile", config]
    return list(map(str, [SNAKEMAKE, *project, "--workflow-profile", "slurm", *where, *ONE_NODE, *arguments]))


def by_slurm(cluster: Cluster, folder: Path, *arguments: str, config: Path = TINY, **options) -> str:
    """Build by Slurm; returns what the command said."""
    run = subprocess.run(
        command(folder, *arguments, config=config, **options),
        env=cluster.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=MINUTES,
    )
    assert run.returncode == 0, run.stdout
    return run.stdout


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def losses(folder: Path, run: str) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / f"results/{run}/train.jsonl").read_text().splitlines()]


# ---- the road and a sweep


ROAD = ("results/dpo_lora/eval.json", "results/sweeps/rank/table.tsv")
RUNS = ("sft_lora", "dpo_lora", "dpo_lora,rank=2")
# All that the two dpo jobs of the sweep need: jobs that are ready at the same time are sent as one array.
BEFORE_DPO = (
    "results/sft_lora/logprobs/gsm8k_pairs,max_length=1024.parquet",
    *(f"results/{run}/preflight.json" for run in RUNS),
)


@pytest.fixture(scope="module")
def roads(cluster, tmp_path_factory) -> dict[str, Path]:
    """The same targets, built on this machine and by Slurm; the runs of the sweep are sent as arrays."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("local", "slurm")}
    for folder in folders.values():
        shutil.copytree(REPOSITORY / "examples", folder / "examples")
    local = snakemake(folders["local"], *ROAD)
    assert local.returncode == 0, local.stdout
    by_slurm(cluster, folders["slurm"], *BEFORE_DPO)
    said = by_slurm(cluster, folders["slurm"], "--slurm-array-jobs", "dpo,merge", *ROAD)
    (folders["slurm"] / "said.txt").write_text(said)
    return folders


@pytest.mark.parametrize("run", RUNS)
def test_slurm_gives_the_same_bits(roads, run):
    for file in ("model/model.safetensors", "merged/model.safetensors"):
        assert sha256(roads["slurm"] / f"results/{run}/{file}") == sha256(roads["local"] / f"results/{run}/{file}")
    assert losses(roads["slurm"], run) == losses(roads["local"], run)


@pytest.mark.parametrize("run", ["tiny", "dpo_lora"])
def test_slurm_gives_the_same_metrics(roads, run):
    here, there = (json.loads((roads[name] / f"results/{run}/eval.json").read_text()) for name in ("local", "slurm"))
    assert here["metrics"] == there["metrics"] and here["against"] == there["against"]


def test_the_points_of_a_sweep_are_one_array(cluster, roads):
    arrays = {job for job, (comment, _) in cluster.jobs().items() if "_" in job and comment.startswith("rule_dpo")}
    assert len(arrays) >= 2 and {state for _, state in cluster.jobs().values()} == {"COMPLETED"}


def test_the_command_says_what_a_local_one_says(roads):
    said = (roads["slurm"] / "said.txt").read_text()
    assert "dpo dpo_lora: done" in said and "SLURM jobid" not in said and "run ID" not in said


# ---- a training that takes longer than a job


@pytest.fixture(scope="module")
def long_config(tmp_path_factory) -> Path:
    """One run of 800 steps, of which a job of two minutes does some."""
    config = yaml.safe_load(TINY.read_text())
    run = {"from": "tiny", "objective": "sft", "method": "lora", "data": "gsm8k", "rank": 4, "epochs": 200}
    config["runs"] = {"long": run}
    config.pop("sweeps")
    config["tracking"]["checkpoint_seconds"] = 5
    file = tmp_path_factory.mktemp("long") / "long.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


@pytest.fixture(scope="module")
def prepared(long_config, tmp_path_factory) -> Path:
    """A project in which only the training is left to do."""
    folder = tmp_path_factory.mktemp("prepared")
    shutil.copytree(REPOSITORY / "examples", folder / "examples")
    run = snakemake(folder, "results/long/preflight.json", config=long_config)
    assert run.returncode == 0, run.stdout
    return folder


@pytest.fixture(scope="module")
def whole(prepared, long_config, tmp_path_factory) -> Path:
    """The training done on this machine, in one go."""
    folder = shutil.copytree(prepared, tmp_path_factory.mktemp("whole") / "project")
    run = snakemake(folder, LONG, config=long_config)
    assert run.returncode == 0, run.stdout
    return folder


class Training:
    """The long training by Slurm, in the background."""

    def __init__(self, cluster: Cluster, prepared: Path, folder: Path, config: Path) -> None:
        self.cluster, self.config = cluster, config
        self.folder = shutil.copytree(prepared, folder / "project")

    def start(self, *arguments: str, stop_seconds: int = 60) -> subprocess.Popen:
        """Start the command; its training stops that long before the job's time limit."""
        self.before = set(self.cluster.jobs())
        self.said = (self.folder / "said.txt").open("w")
        return subprocess.Popen(
            command(self.folder, *arguments, "--", LONG, config=self.config),
            env=self.cluster.environment | {"POSTTRAIN_STOP_SECONDS": str(stop_seconds)},
            stdout=self.said,
            stderr=subprocess.STDOUT,
        )

    @property
    def job(self) -> str:
        """The number of its job in Slurm."""
        (job,) = set(self.cluster.jobs()) - self.before
        return job

    @property
    def state(self) -> str:
        return self.cluster.jobs()[self.job][1]

    @property
    def restarts(self) -> int:
        """How often Slurm has started the job again."""
        shown = self.cluster.run("scontrol", "show", "job", self.job)
        return int(next(word for word in shown.split() if word.startswith("Restarts=")).removeprefix("Restarts="))

    def wait_for_checkpoint(self) -> None:
        self.cluster.wait(lambda: list(self.folder.glob("results/long/checkpoints/*/checkpoint-*")), MINUTES)

    def check(self, process: subprocess.Popen, whole: Path) -> None:
        """It ends well, with the bits of the training that nothing has cut."""
        status = process.wait(MINUTES)
        assert status == 0, (self.folder / "said.txt").read_text()
        weights = "results/long/trained/adapter_model.safetensors"
        assert sha256(self.folder / weights) == sha256(whole / weights)
        assert losses(self.folder, "long") == losses(whole, "long")


@pytest.fixture
def training(cluster, prepared, long_config, tmp_path) -> Training:
    return Training(cluster, prepared, tmp_path, long_config)


def test_a_job_that_its_time_limit_cuts_twice(training, whole):
    process = training.start("--retries", "0", "--set-resources", "sft:runtime=2", stop_seconds=95)
    training.wait_for_checkpoint()
    training.cluster.wait(lambda: training.restarts == 2 and training.state == "RUNNING", MINUTES)
    training.cluster.run(
        "scontrol", "update", f"JobId={training.job}", "TimeLimit=60"
    )  # a busy machine cuts it for ever
    training.check(process, whole)
    assert training.restarts == 2  # one job, which Slurm has started three times


def test_a_job_that_is_cancelled(training, whole):
    process = training.start("--retries", "0")
    training.wait_for_checkpoint()
    training.cluster.run("scancel", training.job)
    assert process.wait(MINUTES) == 1
    assert training.state == "CANCELLED" and training.restarts == 0
    assert "CANCELLED" in (training.folder / "said.txt").read_text()
    training.check(training.start(), whole)
    assert training.restarts == 0


def test_ctrl_c_cancels_the_jobs(training, whole):
    process = training.start()
    training.wait_for_checkpoint()
    process.send_signal(signal.SIGINT)
    assert process.wait(MINUTES) != 0
    training.cluster.wait(lambda: training.state == "CANCELLED", 60)


def test_a_preempted_job(training, whole):
    process = training.start("--retries", "0")
    training.wait_for_checkpoint()
    cluster = training.cluster
    mine = training.job
    cluster.run("sbatch", "--partition=urgent", "--cpus-per-task=2", "--output=/dev/null", "--wrap", "sleep 5")
    cluster.wait(lambda: "urgent" in cluster.run("squeue", "-h", "--states=all", "-o", "%P").split(), 60)
    training.before |= set(cluster.jobs()) - {mine}
    training.check(process, whole)
    assert training.restarts == 1


def test_a_controller_that_is_restarted_and_a_node_that_is_drained(training, whole):
    cluster = training.cluster
    cluster.run("scontrol", "update", "NodeName=node1", "State=DRAIN", "Reason=test")
    process = training.start()
    cluster.wait(lambda: set(cluster.jobs()) - training.before, 120)
    assert training.state == "PENDING"
    cluster.run("scontrol", "update", "NodeName=node1", "State=RESUME")
    training.wait_for_checkpoint()
    cluster.end("slurmctld")
    with pytest.raises(subprocess.CalledProcessError):
        cluster.jobs()
    cluster.run("slurmctld")
    training.check(process, whole)
    assert training.restarts == 0


# ---- what is refused before anything is sent


@pytest.mark.parametrize(
    ("where", "sentence"),
    [
        (("slurm_partition=gpus", "slurm_account=none"), "there is no partition 'gpus'; the cluster has main, urgent"),
        (("slurm_partition=main",), "slurm_account: no account is named"),
    ],
)
def test_a_partition_and_an_account_are_checked_first(cluster, prepared, long_config, where, sentence):
    before = set(cluster.jobs())
    run = subprocess.run(
        command(prepared, LONG, config=long_config, where=("--default-resources", *where)),
        env=cluster.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert run.returncode == 1 and sentence in run.stdout, run.stdout
    assert "Traceback" not in run.stdout and set(cluster.jobs()) == before


def test_two_jobs_do_not_share_a_gpu(cluster, tmp_path):
    jobs = [f"echo $CUDA_VISIBLE_DEVICES > {tmp_path}/{n}; sleep 5" for n in range(2)]
    for text in jobs:
        cluster.run("sbatch", "--gpus=1", "--mem=100", "--output=/dev/null", "--wrap", text)
    cluster.wait(lambda: all((tmp_path / str(n)).exists() for n in range(2)), 60)
    seen = {(tmp_path / str(n)).read_text().strip() for n in range(2)}
    assert len(seen) == 2 and "" not in seen, seen
