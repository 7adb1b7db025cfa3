"""Results in an S3 bucket: moto on the loopback, and jobs that run elsewhere."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY, SIDE_BY_SIDE, TINY, environment
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
    for command in ("init", "add -A", "-c user.name=user -c user.email=user@example.org commit -m project"):
        subprocess.run(["git", *command.split()], cwd=folder, check=True, capture_output=True)
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


def without_seconds(record: dict) -> dict:
    return {key: value for key, value in record.items() if key not in ("seconds", "seal")}


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


@pytest.mark.slow
def test_the_road_on_nodes_that_share_nothing(server, tmp_path):
    """Every job runs in an empty folder; the submitter reads no weights, no rows and no tokens."""
    elsewhere = ("--executor", "elsewhere", "--jobs", "2", "--seconds-between-status-checks", "1")
    ours = {"PYTHONPATH": f"{PLUGINS}:{REPOSITORY / 'scripts'}", "POSTTRAIN_CHECKPOINTS": str(tmp_path / "seen_by_all")}
    here = checkout(tmp_path / "here")
    server.requests.clear()
    build(server, here, *elsewhere, ROAD, prefix="road", **ours)
    sent = [request for request in server.requests if request.sender == "submitter"]
    jobs = [request for request in server.requests if request.sender == "job"]
    local = ("spec.json", "data.json", "context.json")  # compared with the configuration; `base` needs the internet
    read = [request.address for request in sent if request.is_download]
    base = {"/team/road/results/data/gsm8k/train.parquet"}  # what a random base's tokenizer is made from
    assert {address for address in read if not address.endswith(local)} <= base
    assert any("merged/model.safetensors" in request.address for request in jobs if request.is_download)
    print(Counter((request.sender, request.method) for request in server.requests))

    # the same bits as in one folder
    alone = tmp_path / "alone"
    shutil.copytree(REPOSITORY / "examples", alone / "examples")
    subprocess.run(
        [SNAKEMAKE, *SIDE_BY_SIDE, "-s", REPOSITORY / "Snakefile", "--configfile", TINY, "--cores", "2", ROAD],
        cwd=alone,
        env=environment(),
        check=True,
        capture_output=True,
    )
    for run in ("sft_lora", "dpo_lora"):
        stored = server.client().get_object(Bucket="team", Key=f"road/results/{run}/provenance.json")["Body"].read()
        expected = json.loads((alone / f"results/{run}/provenance.json").read_text())
        for key in ("spec", "parent", "tokens", "rows", "logprobs", "trained", "merged"):
            assert json.loads(stored)[key] == expected[key], (run, key)

    server.requests.clear()
    assert "Nothing to be done" in build(server, here, *elsewhere, ROAD, prefix="road", **ours)
    print("nothing to do:", len(server.requests))
    assert "Nothing to be done" in build(server, checkout(tmp_path / "there"), ROAD, prefix="road")

    # a node that was lost: the next one finds in the folder that all see what the first has left there
    for name in ("trained/adapter_model.safetensors", "trained/.snakemake_timestamp", "train.json", "train.jsonl"):
        server.client().delete_object(Bucket="team", Key=f"road/results/dpo_lora/{name}")
    finished = next((tmp_path / "seen_by_all/dpo_lora").glob("checkpoints/*/finished/train.json"))
    before = finished.stat().st_mtime
    build(server, here, *elsewhere, "--force", "results/dpo_lora/train.json", prefix="road", **ours)
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
