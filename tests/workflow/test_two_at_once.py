"""Three shells: one target twice, and another target that shares a parent. One trains, the others wait and say for whom."""

import re
import subprocess
import time
from pathlib import Path

from conftest import command, environment


def start(folder: Path, name: str, target: str) -> subprocess.Popen:
    with (folder / name).open("w") as output:
        return subprocess.Popen(command(folder, target), stdout=output, stderr=output, env=environment())


def test_one_trains_and_the_others_wait_for_it(folder):
    first = start(folder, "first.txt", "results/sft_lora/merge.json")
    end = time.monotonic() + 60
    while not list(folder.glob(".snakemake/posttrain/*.json")):
        assert time.monotonic() < end and first.poll() is None
        time.sleep(0.1)
    others = [
        start(folder, "same.txt", "results/sft_lora/merge.json"),
        start(folder, "child.txt", "results/dpo_lora/preflight.json"),
    ]
    assert [process.wait(300) for process in (first, *others)] == [0, 0, 0]
    said = {file.stem: file.read_text() for file in folder.glob("*.txt")}
    assert "waiting for" not in said["first"]
    for name in ("same", "child"):
        assert f"posttrain: waiting for process {first.pid} on" in said[name]
    built = re.compile(r"^(base|sft|merge) [\w,=]+: started", re.M)
    ran = {name: set(built.findall(text)) for name, text in said.items()}
    assert ran == {"first": {"base", "sft", "merge"}, "same": set(), "child": set()}
    assert "Nothing to be done" in said["same"]
