"""Results in an S3 bucket: moto on the loopback, and jobs that run elsewhere."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY, SIDE_BY_SIDE, TINY, command, environment
from s3_server import Server, serve

pytest.importorskip("snakemake_storage_plugin_s3")
SNAKEMAKE = Path(sys.executable).with_name("snakemake")
PLUGINS = Path(__file__).with_name("plugins")
ROWS = "results/data/gsm8k/data.json"
ROAD = "results/dpo_lora/eval.json"


@pytest.fixture(scope="module")
def server():
    with serve() as server:
        yield server


def checkout(folder: Path) -> Path:
    """A user's clone of the project: jobs without a shared file system get what git knows of it."""
    folder.mkdir()
    for name in ("Snakefile", "rules", "scripts", "config", "examples", "profiles", "envs"):
        source = REPOSITORY / name
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(source, folder / name, ignore=ignored) if source.is_dir() else shutil.copy(
            source, folder / name
        )
    (folder / ".gitignore").write_text(".snakemake/\nresults/\n__pycache__/\n")
    for words in ("init", "add -A", "-c user.name=user -c user.email=user@example.org commit -m project"):
        subprocess.run(["git", *words.split()], cwd=folder, check=True, capture_output=True)
    return folder


def build(
    server: Server, folder: Path, *arguments: str, prefix: str = "project", config: Path = TINY, **variables: str
) -> str:
    """Run a command whose results are in the bucket; returns what it says."""
    own = ["-s", folder / "Snakefile" if (folder / "Snakefile").exists() else REPOSITORY / "Snakefile"]
    store = ["--default-storage-provider", "s3", "--default-storage-prefix", f"s3://team/{prefix}"]
    done = subprocess.run(
        [
            str(part)
            for part in (SNAKEMAKE, *SIDE_BY_SIDE, *own, "--configfile", config, *store, "--cores", 2, *arguments)
        ],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment() | server.environment() | {"AWS_SDK_UA_APP_ID": "submitter"} | variables,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def planned(text: str) -> set[str]:
    """The first words of a dry run's lines, such as `data` and `sft`."""
    return {line.split()[0] for line in text.splitlines() if line.endswith((" built yet", "is built again"))}


def test_a_second_machine_builds_nothing_again_unless_something_differs(server, folder, tmp_path_factory):
    build(server, folder, ROWS)
    assert not (folder / ROWS).exists()
    here = {item["Key"] for item in server.client().list_objects_v2(Bucket="team")["Contents"]}
    assert {
        f"project/{ROWS}",
        "project/results/data/gsm8k/train.parquet",
        "project/results/data/gsm8k/spec.json",
    } <= here

    other = tmp_path_factory.mktemp("other")  # whose copy of the data is younger than the results
    shutil.copytree(REPOSITORY / "examples", other / "examples", copy_function=shutil.copyfile)
    server.requests.clear()
    assert "Nothing to be done" in build(server, other, ROWS)
    few = len(server.requests)

    config = yaml.safe_load(TINY.read_text())
    config["datasets"] |= {f"more_{i}": config["datasets"]["gsm8k"] for i in range(20)}
    (other / "more.yaml").write_text(yaml.safe_dump(config))
    server.requests.clear()
    assert "Nothing to be done" in build(server, other, ROWS, config=other / "more.yaml")
    assert len(server.requests) == few  # look-ups grow with what is asked for, not with what is configured

    rows = other / "examples/data/gsm8k_train.jsonl"
    rows.write_text(rows.read_text() + json.dumps({"question": "What is 1 + 1?", "answer": "2\n#### 2"}) + "\n")
    assert "data" in planned(build(server, other, "-n", ROWS))


ELSEWHERE = ("--executor", "elsewhere", "--jobs", "2", "--seconds-between-status-checks", "1")


@pytest.fixture(scope="module")
def road(server, tmp_path_factory):
    """The road, each job in an empty folder: the submitter's folder, its variables, and the requests."""
    folder = checkout(tmp_path_factory.mktemp("road") / "here")
    variables = {
        "PYTHONPATH": f"{PLUGINS}:{REPOSITORY / 'scripts'}",
        "POSTTRAIN_CHECKPOINTS": str(folder.parent / "seen"),
    }
    server.requests.clear()
    build(server, folder, *ELSEWHERE, ROAD, prefix="road", **variables)
    return folder, variables, list(server.requests)


@pytest.mark.slow
def test_large_files_do_not_pass_through_the_submitter(road):
    *_, requests = road
    read = {sender: set() for sender in ("submitter", "job")}
    for request in requests:
        if request.is_download and request.sender in read:
            read[request.sender].add(request.address.removeprefix("/team/road/results/"))
    compared = {address for address in read["submitter"] if address.endswith(("spec.json", "data.json"))}
    assert read["submitter"] - compared <= {"data/gsm8k/train.parquet"}  # which a random base's tokenizer is made from
    assert {"sft_lora/merged/model.safetensors", "dpo_lora/trained/adapter_model.safetensors"} <= read["job"]


@pytest.mark.slow
def test_the_bits_are_those_of_one_folder(road, server, folder):
    subprocess.run(command(folder, ROAD), env=environment(), check=True, capture_output=True)
    for run in ("sft_lora", "dpo_lora"):
        stored = server.client().get_object(Bucket="team", Key=f"road/results/{run}/provenance.json")["Body"].read()
        expected = json.loads((folder / f"results/{run}/provenance.json").read_text())
        for key in ("spec", "parent", "tokens", "rows", "logprobs", "trained", "merged"):
            assert json.loads(stored)[key] == expected[key], (run, key)


@pytest.mark.slow
def test_another_checkout_has_nothing_to_do(road, server, tmp_path):
    assert "Nothing to be done" in build(server, checkout(tmp_path / "there"), ROAD, prefix="road")


@pytest.mark.slow
def test_a_node_finds_what_a_lost_one_has_left(road, server):
    """Where POSTTRAIN_CHECKPOINTS names a folder that both see: the result is not trained again."""
    folder, variables, _ = road
    finished = next((folder.parent / "seen/dpo_lora").glob("checkpoints/*/finished"))
    before = finished.stat().st_mtime
    build(server, folder, *ELSEWHERE, "--force", "--", "results/dpo_lora/train.json", prefix="road", **variables)
    assert finished.stat().st_mtime == before
    assert server.client().head_object(Bucket="team", Key="road/results/dpo_lora/trained/adapter_model.safetensors")


@pytest.mark.slow
def test_the_sweep_and_the_report_find_their_files(server, folder):
    build(server, folder, "results/report.html", "results/sweeps/rank/report.html", prefix="pages")
    page = server.client().get_object(Bucket="team", Key="pages/results/report.html")["Body"].read().decode()
    assert "dpo_full" in page and "gsm8k_pairs" in page
    assert "Nothing to be done" in build(server, folder, "results/report.html", prefix="pages")


def test_plugins_that_are_not_installed_are_named():
    options = {"capture_output": True, "text": True, "env": environment() | {"PYTHONPATH": str(REPOSITORY / "scripts")}}
    done = subprocess.run([SNAKEMAKE, "--executor", "googlebatch", "--jobs", "1", "-n"], cwd=REPOSITORY, **options)
    assert done.returncode == 2
    assert done.stderr.startswith("posttrain: there is no executor 'googlebatch'")
    assert "pip install snakemake-executor-plugin-googlebatch" in done.stderr and done.stderr.count("\n") == 1
