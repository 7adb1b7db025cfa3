"""`posttrain serve`: what it refuses, what it plans, and the command itself with a tiny model until Ctrl-C or kill -9."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from argparse import Namespace
from pathlib import Path

import openai
import psutil
import pytest
import tiny_bases
import yaml
from conftest import REPOSITORY, TINY, refused

from posttrain.cli import serve
from posttrain.workflow.project import Project

TOOL = Path(sys.executable).parent / "posttrain"


def options(name, export=None, adapters=()):
    return Namespace(name=name, export=export, adapters=list(adapters))


@pytest.fixture
def project(tmp_path, monkeypatch):
    """The tiny project, in a folder of its own, with the folders that some runs have when they are built."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(REPOSITORY / "examples", "examples")
    for folder in ("sft_lora/model", "bases/tiny/model", "sft_lora/export/bf16", "sft_lora/export/gguf-q8_0"):
        Path("results", folder).mkdir(parents=True)
    Path("results/sft_lora/export/adapter").mkdir()
    for kind in ("gguf-q8_0", "adapter"):
        Path(f"results/sft_lora/export/{kind}.json").write_text("{}")
    values = yaml.safe_load(TINY.read_text())
    reward = {"from": "tiny", "objective": "reward", "method": "lora", "data": "gsm8k_pairs"}
    return Project(values | {"runs": values["runs"] | {"judge": reward}}, "config.yaml")


@pytest.mark.parametrize(
    ("asked", "code", "words"),
    [
        (options("sft_lorra"), "unknown-name", "did you mean 'sft_lora'"),
        (options("sft_full"), "not-built", "it is not built yet"),
        (options("judge"), "unsupported-model", "reward model"),
        (options("sft_lora", "gguf-q9"), "unsupported-export", "did you mean 'gguf-q"),
        (options("tiny", "bf16"), "unsupported-export", "it is a base"),
        (options("sft_lora", "bf16"), "not-built", "its export bf16 is not proved to be the trained model"),
        (
            options("sft_lora", "fp16"),
            "not-built",
            "its export fp16 is not built yet; run: snakemake --conf",
        ),
        (options("sft_full", "adapter"), "unsupported-export", "has no adapter"),
        (options("tiny", "bf16", ["sft_lora"]), "unsupported-combination", "leave out --export or --adapters"),
        (options("tiny", None, ["dpo_lora"]), "not-built", "export/adapter"),
        (options("tiny", None, ["nobody"]), "unknown-name", "nobody"),
    ],
)
def test_what_cannot_be_served_is_refused(project, asked, code, words):
    if asked.export == "bf16" and asked.adapters:
        asked.name = "sft_lora"
    with refused(code) as error:
        serve.planned(project, asked)
    assert words in str(error.value)


def test_what_is_served(project):
    plan = serve.planned(project, options("sft_lora"))
    assert (plan.names, plan.folder) == (["sft_lora"], Path("results/sft_lora/model"))
    assert plan.servers == ("vllm", "transformers")
    plan = serve.planned(project, options("sft_lora", "gguf-q8_0"))
    assert (plan.folder, plan.servers) == (Path("results/sft_lora/export/gguf-q8_0"), ("llama.cpp",))
    plan = serve.planned(project, options("tiny", adapters=["sft_lora"]))
    assert (plan.names, plan.folder) == (["tiny", "sft_lora"], Path("results/bases/tiny/model"))
    plan = serve.planned(project, options("sft_lora", "adapter"))
    assert (plan.names, plan.name) == (["sft_lora"], "tiny")


def test_without_llama_server_a_gguf_file_is_refused(project, monkeypatch):
    monkeypatch.setenv("PATH", "")
    plan = serve.planned(project, options("sft_lora", "gguf-q8_0"))
    with refused("missing-package"):
        serve._check_installed(plan)


# ---- the command


@contextlib.contextmanager
def command(folder: Path, *arguments: str, **environment: str):
    """A running `posttrain serve`, what it has told, and its port."""
    line = [TOOL, "serve", *arguments, "--port", "0", "--directory", folder, "--configfile", TINY]
    process = subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | environment
    )
    told = []
    while not told or not told[-1].startswith("print("):
        told.append(process.stdout.readline())
        assert told[-1], process.stderr.read()
    yield process, "".join(told)
    process.kill()
    process.communicate()


def url_of(told: str) -> str:
    return told.split(" at ")[1].split(";")[0]


def ended(pid: int) -> bool:
    """Whether a process ends within some seconds."""
    for _ in range(100):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.1)
    return False


@pytest.fixture
def built(tmp_path):
    shutil.copytree(REPOSITORY / "examples", tmp_path / "examples")
    tiny_bases.save(tmp_path / "results/sft_lora/model", tiny_bases.chatml())
    return tmp_path


@pytest.mark.slow
def test_the_printed_lines_work_and_ctrl_c_ends_it(built):
    with command(built, "sft_lora", POSTTRAIN_API_KEY="k") as (process, told):
        lines = told.splitlines()
        python = "\n".join(lines[lines.index("import os, openai") :])
        environment = os.environ | {"POSTTRAIN_API_KEY": "k"}
        subprocess.run([sys.executable, "-c", python], env=environment, check=True, capture_output=True)
        curl = "\n".join(lines[lines.index("") + 1 : lines.index("import os, openai") - 1])
        found = subprocess.run(["bash", "-c", curl], env=environment, check=True, capture_output=True)
        assert json.loads(found.stdout)["object"] == "chat.completion"
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert process.stderr.read() == ""


@pytest.mark.slow
def test_sigterm_ends_it_while_an_answer_is_written(built):
    with command(built, "sft_lora") as (process, told):
        client = openai.OpenAI(base_url=url_of(told), api_key="none", max_retries=0)
        stream = client.chat.completions.create(
            model="sft_lora", messages=[{"role": "user", "content": "Hi"}], stream=True, temperature=2, seed=1
        )
        next(stream)
        process.terminate()
        assert process.wait(30) == 128 + signal.SIGTERM


@pytest.fixture
def gguf(built):
    """The project with a GGUF export, if llama-server can be found."""
    if shutil.which("llama-server") is None:
        pytest.skip("llama.cpp's llama-server is not on the PATH")
    from posttrain.export import gguf_file

    kind = built / "results/sft_lora/export/gguf-f16"
    kind.mkdir(parents=True)
    gguf_file.write(built / "results/sft_lora/model", kind, "F16")
    kind.with_suffix(".json").write_text("{}")
    return built


@pytest.mark.slow
@pytest.mark.llama_cpp
def test_llama_server_answers_and_ends_with_this_process(gguf):
    form = {
        "type": "json_schema",
        "json_schema": {"name": "a", "schema": {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}},
    }  # fmt: skip
    with command(gguf, "sft_lora", "--export", "gguf-f16") as (process, told):
        client = openai.OpenAI(base_url=url_of(told), api_key="none", max_retries=0)
        ask = {"model": "sft_lora", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 40}
        whole = client.chat.completions.create(**ask)
        stream = client.chat.completions.create(**ask, stream=True)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        assert text == whole.choices[0].message.content
        stop = text[3:5]
        assert client.chat.completions.create(**ask, stop=stop).choices[0].message.content == text.split(stop)[0]
        answer = client.chat.completions.create(**ask, response_format=form)
        if answer.choices[0].finish_reason == "stop":
            assert json.loads(answer.choices[0].message.content).keys() == {"a"}
        assert answer.choices[0].message.content.startswith("{")
        (child,) = psutil.Process(process.pid).children()
        process.kill()
        process.wait()
        assert ended(child.pid)


@pytest.mark.slow
@pytest.mark.llama_cpp
def test_a_killed_llama_server_is_told_and_ends_the_command(gguf):
    with command(gguf, "sft_lora", "--export", "gguf-f16") as (process, told):
        client = openai.OpenAI(base_url=url_of(told), api_key="none", max_retries=0)
        (child,) = psutil.Process(process.pid).children()
        child.suspend()
        asked = threading.Thread(target=refused_by_server, args=[client, found := []])
        asked.start()
        time.sleep(2)  # it waits for its answer
        child.kill()
        asked.join(30)
        assert found == ["llama-server was ended by SIGKILL"]
        assert process.wait(30) == 1
        assert "posttrain: llama-server was ended by SIGKILL; start it again\n" in process.stderr.read()


def refused_by_server(client: openai.OpenAI, found: list[str]) -> None:
    try:
        client.chat.completions.create(model="sft_lora", messages=[{"role": "user", "content": "Hi"}])
    except openai.APIStatusError as error:
        found.append(error.body["message"])
