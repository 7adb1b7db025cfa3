"""The memory that a machine has for a training."""

from types import SimpleNamespace

from posttrain.models import machine


def test_the_first_gpu_is_what_is_there(monkeypatch):
    asked = []

    def run(command, **_):
        asked.append(command[-1])
        return SimpleNamespace(stdout="NVIDIA H100 80GB HBM3, 81559, 80000, 9.0\n")

    monkeypatch.setattr(machine.subprocess, "run", run)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    there = machine.available()
    assert there == ("gpu", "NVIDIA H100 80GB HBM3", 81559 * 2**20, 80000 * 2**20, True)
    assert asked == ["2"]


def test_without_a_gpu_the_machines_memory_is_what_is_there(monkeypatch):
    def missing(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(machine.subprocess, "run", missing)
    there = machine.available()
    assert there.device == "cpu"
    assert 0 < there.free <= there.total


def test_processes_share_a_machines_memory_and_have_a_gpu_each():
    here = machine.Memory("cpu", "this machine", 64, 60, False)
    assert machine.of_one_process(here, 4) == ("cpu", "this machine for each of 4 processes", 16, 15, False)
    assert machine.of_one_process(here, 1) == here
    gpu = here._replace(device="gpu")
    assert machine.of_one_process(gpu, 4) == gpu
