"""Checkpoints: what counts as whole, what is set aside, and that a training goes on from what is left with the same bits."""

import json
import os
import shutil
import signal
import subprocess
from argparse import Namespace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import refused
from killed import Killed
from killed import saving as saving_after

import tokenize_data
import train_sft
from posttrain.data.rows import read
from posttrain.data.tokens import tokenise
from posttrain.models import out_of_memory
from posttrain.runtime import atomic, hashes, script
from posttrain.runtime.errors import UserError
from posttrain.training import checkpoints
from posttrain.workflow.project import Project

# ---- what counts


def checkpoint(folder: Path, step: int, sealed: bool = True) -> Path:
    """A checkpoint of two files, one of them in a folder of its own."""
    path = folder / f"checkpoint-{step}"
    (path / "value").mkdir(parents=True)
    (path / "optimizer.pt").write_bytes(bytes(range(200)) * step)
    (path / "value/adapter.safetensors").write_bytes(bytes(range(100)))
    if sealed:
        checkpoints.seal(path)
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_no_checkpoint_is_a_start_from_the_beginning(tmp_path):
    assert checkpoints.last(tmp_path) is None


def test_the_newest_is_taken_by_its_number(tmp_path):
    for step in (9, 10):
        checkpoint(tmp_path, step)
    assert checkpoints.last(tmp_path).name == "checkpoint-10"


def test_the_list_can_be_verified_with_sha256sum(tmp_path):
    path = checkpoint(tmp_path, 3)
    subprocess.run(["sha256sum", "--quiet", "--strict", "-c", path / "SHA256SUMS"], cwd=tmp_path, check=True)


def test_sealing_keeps_two_that_count_and_removes_the_third(tmp_path):
    for step in (1, 2):
        checkpoint(tmp_path, step)
    new = checkpoint(tmp_path, 3, sealed=False)
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]  # not before the third counts
    checkpoints.seal(new)
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-3"]


def test_one_that_was_being_removed_when_the_stage_was_killed_is_no_broken_one(tmp_path):
    checkpoint(tmp_path, 1).rename(tmp_path / ".gone-checkpoint-1")
    good = checkpoint(tmp_path, 2)
    assert checkpoints.last(tmp_path) == good
    assert names(tmp_path) == ["checkpoint-2"]


OTHERWISE = {
    "a renamed folder": lambda path: path.rename(path.with_name("checkpoint-7")),
    "a file too many": lambda path: (path / "new").touch(),
    "no files": lambda path: [file.unlink() for file in path.rglob("*") if file.is_file()],
    "an empty folder": lambda path: (shutil.rmtree(path), path.mkdir()),
    "files exchanged": lambda path: shutil.copy(path / "value/adapter.safetensors", path / "optimizer.pt"),
    "a list of another": lambda path: shutil.copy(path.with_name("checkpoint-1") / checkpoints.SEAL, path),
}


@pytest.mark.parametrize("spoil", OTHERWISE.values(), ids=OTHERWISE)
def test_what_is_otherwise_than_it_was_written_is_set_aside_and_the_one_before_taken(tmp_path, spoil):
    good = checkpoint(tmp_path, 1)
    spoil(checkpoint(tmp_path, 2))
    assert checkpoints.last(tmp_path) == good
    assert [name[:17] for name in names(tmp_path)] == ["broken-checkpoint", "checkpoint-1"]


def test_only_the_last_broken_ones_are_kept(tmp_path):
    for step in range(1, 6):
        checkpoint(tmp_path, step, sealed=False)
    assert checkpoints.last(tmp_path) is None
    assert names(tmp_path) == ["broken-checkpoint-4", "broken-checkpoint-5"]
    checkpoint(tmp_path, 5, sealed=False)
    assert checkpoints.last(tmp_path) is None  # a second time under the same name
    checkpoints.clear(tmp_path)
    assert names(tmp_path) == []


def test_the_half_one_of_a_full_disk_is_removed_and_no_other(tmp_path):
    checkpoint(tmp_path, 1)
    checkpoint(tmp_path, 2, sealed=False)
    checkpoints.remove_unfinished(tmp_path)
    assert names(tmp_path) == ["checkpoint-1"]


def test_every_file_and_folder_is_on_the_disk_before_the_list_and_the_list_before_its_name(tmp_path, monkeypatch):
    path, done = checkpoint(tmp_path, 1, sealed=False), []
    sync, rename = checkpoints._sync, Path.rename
    monkeypatch.setattr(checkpoints, "_sync", lambda file: (done.append(file.name), sync(file)))
    monkeypatch.setattr(Path, "rename", lambda file, to: (done.append(f"-> {to.name}"), rename(file, to)))
    checkpoints.seal(path)
    assert {*done[:4]} == {"adapter.safetensors", "optimizer.pt", "checkpoint-1", "value"}
    assert done[4:] == [".SHA256SUMS", "-> SHA256SUMS", "checkpoint-1", tmp_path.name]


# ---- a real training


CLOCKS = ("tokens_per_second", "memory_gib", "seconds", "cpu_percent", "gpu_percent")


@pytest.fixture
def train(in_folder, signals, fp32, configuration, chats, random_tiny_folder, random_tiny_tokenizer):
    """Train a run for six steps by its script, as the same command does each time; returns the result, clocks left out."""
    encoded, _ = tokenise(
        random_tiny_tokenizer, [row | {"id": f"row {i}"} for i, row in enumerate(chats)], "messages", 256
    )
    atomic.write_json(Path("base.json"), {})
    atomic.write_json(Path("tokens/report.json"), {"shape": "messages"})
    for split, rows in (("train", encoded), ("validation", [])):
        pq.write_table(pa.Table.from_pylist(rows, schema=tokenize_data.schema("messages")), f"tokens/{split}.parquet")

    def command(**keys) -> tuple[dict[str, str], list[dict]]:
        table = {"from": "base", "objective": "sft", "data": "chats", "rank": 4, "batch_size": 4, "max_steps": 6}
        spec = Path("results/sft/spec.json")
        spec.parent.mkdir(parents=True, exist_ok=True)
        spec.write_text(Project(configuration({"runs": {"sft": table | keys}, "sweeps": {}})).spec("sft"))
        paths = {"parent": random_tiny_folder, "manifest": Path("base.json"), "tokens": Path("tokens")}
        train_sft.main(Namespace(spec=spec, **paths))
        return hashes.folder_hashes(Path("results/sft/trained")), steps()

    return command


def steps() -> list[dict]:
    """The lines of train.jsonl, without what the clock says."""
    lines = [json.loads(line) for line in Path("results/sft/train.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in CLOCKS} for line in lines]


@pytest.fixture
def saving():
    """See `killed.saving`; undone at the end of the test."""
    patches = []
    yield lambda *steps, **options: patches.append(saving_after(*steps, **options)) or patches[-1]
    for patch in patches:
        patch.undo()


@pytest.fixture
def straight(train, once) -> tuple:
    """The result of a training that nothing interrupts; it leaves no other trace."""
    if "straight" not in once:
        once["straight"] = train()
        shutil.rmtree("results/sft/checkpoints")
    return once["straight"]


@pytest.fixture(scope="module")
def once() -> dict:
    """What is trained once for all tests."""
    return {}


@pytest.fixture
def killed(train, saving, once, tmp_path_factory):
    """The folder of a training that was killed after its second checkpoint."""
    work = Path("results/sft/checkpoints")
    if "killed" not in once:
        patch = saving(2, 4, then=die_after_4)
        with pytest.raises(Killed):
            train()
        patch.undo()
        once["killed"] = shutil.copytree(work, tmp_path_factory.mktemp("killed") / "checkpoints")
    (folder,) = shutil.copytree(once["killed"], work, dirs_exist_ok=True).iterdir()
    assert [path.name for path in sorted(folder.glob("checkpoint-*"))] == ["checkpoint-2", "checkpoint-4"]
    return folder


def die_after_4(step: int) -> None:
    if step == 4:
        raise Killed


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0b100
    file.write_bytes(content)


WAYS = {
    "removed": Path.unlink,
    "truncated": lambda file: os.truncate(file, file.stat().st_size - 1),
    "zeroed": lambda file: file.write_bytes(bytes(file.stat().st_size)),
    "flipped": flip,
}


def test_every_file_of_a_checkpoint_spoilt_in_every_way_is_noticed(killed, tmp_path):
    files = sorted(path.name for path in (killed / "checkpoint-4").iterdir())
    assert {"adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"} < {
        *files
    }
    for name in files:
        for way, spoil in WAYS.items():
            copy = shutil.copytree(killed, tmp_path / f"{name}-{way}")
            spoil(copy / "checkpoint-4" / name)
            assert checkpoints.last(copy).name == "checkpoint-2", (name, way)
            assert (copy / "broken-checkpoint-4").exists()


SOME = [
    ("optimizer.pt", "flipped"),
    ("rng_state.pth", "removed"),
    ("SHA256SUMS", "removed"),
    ("scheduler.pt", "zeroed"),
]


@pytest.mark.parametrize(("name", "way"), SOME)
def test_with_its_newest_checkpoint_spoilt_it_ends_with_the_same_bits(straight, killed, train, name, way):
    WAYS[way](killed / "checkpoint-4" / name)
    assert train() == straight
    assert atomic.read_json(Path("results/sft/train.json"))["resumed_from"] == "checkpoint-2"
    assert not list(killed.glob("*checkpoint-*"))


def test_with_both_spoilt_it_starts_again_and_ends_with_the_same_bits(straight, killed, train):
    for step in (2, 4):
        flip(killed / f"checkpoint-{step}/optimizer.pt")
    assert train() == straight
    assert atomic.read_json(Path("results/sft/train.json"))["resumed_from"] is None


def test_rows_of_tokens_that_are_trained_beside_an_adapter_end_with_the_same_bits(train, saving):
    rows = {"trainable_token_indices": {"embed_tokens": [1, 30], "lm_head": [1, 30]}}
    straight = train(peft_args=rows)
    shutil.rmtree("results/sft/checkpoints")
    patch = saving(2, 4, then=die_after_4)
    with pytest.raises(Killed):
        train(peft_args=rows)
    patch.undo()
    assert train(peft_args=rows) == straight
    assert atomic.read_json(Path("results/sft/train.json"))["resumed_from"] == "checkpoint-4"


def test_an_adapters_configuration_is_saved_in_one_order(train):
    """PEFT keeps the modules in a set, whose order depends on the process."""
    train(max_steps=1)
    modules = json.loads(Path("results/sft/trained/adapter_config.json").read_text())["target_modules"]
    assert len(modules) > 5 and modules == sorted(modules)


def test_another_setting_never_goes_on_from_this_ones_checkpoint(straight, killed, train):
    train(learning_rate=1e-3)
    assert atomic.read_json(Path("results/sft/train.json"))["resumed_from"] is None
    assert (killed / "checkpoint-4").exists()  # so that the old setting goes on where it was
    assert train() == straight
    assert atomic.read_json(Path("results/sft/train.json"))["resumed_from"] == "checkpoint-4"


# ---- signals at bad moments


@pytest.fixture
def signalled(train, monkeypatch):
    """Train with a signal in one of transformers' functions, whose n-th call it comes in; returns the exit status."""

    def run(function: str, call: int) -> int:
        import trl

        calls, original = [], getattr(trl.SFTTrainer, function)

        def hit(self, *args, **options):
            calls.append(None)
            if len(calls) == call:
                os.kill(os.getpid(), signal.SIGTERM)
            return original(self, *args, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trl.SFTTrainer, function, hit)
            script.on_signals(script.end_at_once)
            with pytest.raises(SystemExit) as end:
                train()
        return end.value.code

    return run


MOMENTS = [  # a function, its call, the checkpoint that is left
    ("create_optimizer", 1, None),
    ("training_step", 1, None),
    ("training_step", 4, 4),
    ("_save_optimizer_and_scheduler", 1, 2),
    ("_save_rng_state", 1, 2),
]


@pytest.mark.parametrize(("function", "call", "left"), MOMENTS)
def test_a_signal_at_a_bad_moment_loses_no_step_and_no_bit(train, straight, saving, signalled, function, call, left):
    patch = saving(2)
    assert signalled(function, call) == 143
    patch.undo()
    (folder,) = Path("results/sft/checkpoints").iterdir()
    last = checkpoints.last(folder)
    assert last == (folder / f"checkpoint-{left}" if left else None)
    assert not list(folder.glob("broken*")) and not (folder / "at_work.json").exists()
    assert train() == straight


# ---- no memory, no numbers, no space


@pytest.fixture
def starved(monkeypatch):
    """Let torch's real allocator refuse a step with more than so many rows at once, from the n-th call on."""
    import torch
    import trl

    def limit(rows: int, after: int = 0) -> None:
        calls, original = [], trl.SFTTrainer.training_step

        def training_step(self, model, inputs, *args):
            calls.append(None)
            if len(inputs["input_ids"]) > rows and len(calls) > after:
                torch.empty(2**60)
            return original(self, model, inputs, *args)

        monkeypatch.setattr(trl.SFTTrainer, "training_step", training_step)

    return limit


def test_out_of_memory_at_once_it_is_the_training_with_more_accumulation(train, starved):
    smaller = train(accumulation=4)
    starved(rows=1)
    assert train() == smaller
    summary = atomic.read_json(Path("results/sft/train.json"))
    assert (summary["micro_batch"], summary["accumulation"], summary["resumed_from"]) == (1, 4, None)
    assert [(one["micro_batch"], one["last_step"]) for one in summary["attempts"]] == [(4, 0), (2, 0)]
    assert "can't allocate memory" in summary["attempts"][0]["why"]


def test_out_of_memory_later_it_goes_on_from_its_checkpoint_with_the_same_rows(train, saving, starved):
    _, straight = train(dropout=0)
    shutil.rmtree("results/sft/checkpoints")
    saving(3)
    starved(rows=2, after=4)
    _, ours = train(dropout=0)
    for line, other in zip(ours, straight, strict=True):
        assert line == pytest.approx(other, rel=1e-4)
    summary = atomic.read_json(Path("results/sft/train.json"))
    assert (summary["micro_batch"], summary["resumed_from"]) == (2, "checkpoint-3")
    assert [(one["micro_batch"], one["last_step"]) for one in summary["attempts"]] == [(4, 4)]


def test_where_not_even_one_row_fits_it_is_said_what_would_and_the_next_start_tries_one_row(train, starved, capsys):
    starved(rows=0)
    with refused("out-of-memory", "sft"):
        train()
    starved(rows=4)
    capsys.readouterr()
    (folder,) = Path("results/sft/checkpoints").iterdir()
    assert [one["micro_batch"] for one in out_of_memory.recorded(folder)] == [4, 2, 1]
    with refused("out-of-memory", "sft"):
        train()


def test_after_a_kill_for_memory_the_next_start_halves_and_after_another_kill_it_does_not(straight, killed, train):
    counts = out_of_memory.kernel_kills()
    mark = killed / out_of_memory.MARK
    assert counts  # this kernel counts
    atomic.write_json(mark, counts)
    assert train() == straight
    shutil.rmtree(killed / "finished")
    for now in ({name: count - 1 for name, count in counts.items()}, {"another boot": 0}):
        atomic.write_json(mark, now)
        train()
        shutil.rmtree(killed / "finished")
        (attempt,) = out_of_memory.recorded(killed)
        assert attempt["why"] == "killed by the kernel's out-of-memory killer"


def test_a_training_that_diverges_names_its_rows_and_keeps_the_checkpoint_before(train, saving):
    import torch
    from safetensors.torch import load_file

    places = [
        {"id": row["id"], "place": f"chats.jsonl:{i}"} for i, row in enumerate(read(Path("tokens/train.parquet")))
    ]
    Path("results/data/chats").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(places), "results/data/chats/train.parquet")
    saving(1, 2, 3, 4, 5)
    with refused("not-finite", "sft"):
        train(learning_rate=1e30, schedule="constant", warmup=0)
    (folder,) = Path("results/sft/checkpoints").iterdir()
    for checkpoint in folder.glob("checkpoint-*"):
        weights = load_file(checkpoint / "adapter_model.safetensors").values()
        assert all(torch.isfinite(weight).all() for weight in weights)


@pytest.fixture
def small_disk(in_folder):
    """A file system of 1 MiB for the training's folder."""
    folder = in_folder / "results/sft"
    folder.mkdir(parents=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_on_a_full_disk_no_half_checkpoint_is_left_and_with_space_it_ends_with_the_same_bits(
    small_disk, train, straight, saving
):

    def fill(step: int) -> None:
        (small_disk / "other").write_bytes(bytes(shutil.disk_usage(small_disk).free - 20_000))

    patch = saving(2, 4, then=fill)
    sentence = r"results/sft/checkpoints/\w+: the disk is full; free some space .* it resumes"
    with pytest.raises(UserError, match=sentence), script._faults():
        train()
    patch.undo()
    (folder,) = Path("results/sft/checkpoints").iterdir()
    assert [path.name for path in folder.glob("*checkpoint-*")] == ["checkpoint-2"]
    (small_disk / "other").unlink()
    assert train() == straight
