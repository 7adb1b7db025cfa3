"""What stage scripts share: whole files or none, the lock, the log, and a user's mistake told in one line."""

import errno
import io
import json
import os
import resource
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from posttrain.runtime import atomic, console, script, storage_faults
from posttrain.runtime.atomic import link, whole_file, whole_folder, write_json
from posttrain.runtime.errors import UserError
from posttrain.runtime.hashes import folder_hashes, sha256

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"


def names(folder: Path) -> list[str]:
    """Everything in a folder, hidden files too."""
    return [path.name for path in folder.iterdir()]


# ---- whole files and folders


def test_a_file_takes_its_place_only_when_the_block_ends_well(tmp_path):
    path = tmp_path / "new/result.json"
    with whole_file(path) as beside:
        beside.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert names(path.parent) == ["result.json"]


def test_a_failed_file_keeps_the_old_and_leaves_nothing(tmp_path):
    path = tmp_path / "result.json"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), whole_file(path) as beside:
        beside.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert names(tmp_path) == ["result.json"]


def test_a_file_that_the_block_does_not_write_is_an_error_and_keeps_the_old(tmp_path):
    path = tmp_path / "result.json"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), whole_file(path):
        pass
    assert path.read_text() == "old"


def test_a_folder_takes_the_place_of_the_old_whole(tmp_path):
    path = tmp_path / "new/model"
    for name in ("one", "two"):
        with whole_folder(path) as beside:
            (beside / name).write_text(name)
            assert not (path / name).exists()
        assert names(path) == [name]
    assert names(path.parent) == ["model"]


def test_a_failed_folder_keeps_the_old_and_leaves_nothing(tmp_path):
    path = tmp_path / "model"
    with whole_folder(path) as beside:
        (beside / "weights").write_text("old")
    with pytest.raises(OSError, match="disk full"), whole_folder(path) as beside:
        (beside / "weights").write_text("half")
        raise OSError("disk full")
    assert (path / "weights").read_text() == "old"
    assert names(tmp_path) == ["model"]


@pytest.mark.parametrize("stale", [".model.ab12", ".model.cd34"])
def test_what_a_killed_process_left_of_a_folder_is_removed(tmp_path, stale):
    (tmp_path / stale).mkdir()
    with whole_folder(tmp_path / "model"):
        pass
    assert names(tmp_path) == ["model"]


def test_what_a_killed_process_left_of_a_file_is_removed_and_nothing_of_a_living_one(tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    host = socket.gethostname()
    kept = {
        f".a[1].json.{host}.1",
        f".b.json.{host}.{dead.pid}",
        f".a[1].json.{host}.old",
        f".a[1].json.other.{dead.pid}",
    }
    for name in (f".a[1].json.{host}.{dead.pid}", *kept):
        (tmp_path / name).touch()
    write_json(tmp_path / "a[1].json", {})
    assert {*names(tmp_path)} == {"a[1].json", *kept}  # the processes of another machine cannot be seen


def test_a_folder_that_is_replaced_is_away_for_one_rename_only(tmp_path, monkeypatch):
    """Another command may be about to read it."""
    path, removed = tmp_path / "model", []
    with whole_folder(path):
        pass
    remove = atomic.shutil.rmtree
    monkeypatch.setattr(
        atomic.shutil, "rmtree", lambda *a, **o: (removed.append((a[0], path.exists())), remove(*a, **o))
    )
    with whole_folder(path):
        pass
    assert removed and all(there and folder != path for folder, there in removed)


def test_a_folder_can_be_read_by_others(tmp_path):
    with whole_folder(tmp_path / "model"):
        pass
    assert (tmp_path / "model").stat().st_mode & 0o777 == 0o755


def test_json_that_cannot_be_written_keeps_the_old(tmp_path):
    path = tmp_path / "report.json"
    write_json(path, {"naïve": [1, None]})
    assert path.read_text() == '{\n  "naïve": [\n    1,\n    null\n  ]\n}\n'
    with pytest.raises(TypeError):
        write_json(path, {"path": Path()})
    assert atomic.read_json(path) == {"naïve": [1, None]}
    assert names(tmp_path) == ["report.json"]


def test_hashes_name_every_visible_file_of_a_folder(tmp_path):
    for name in ("b", "a/c", ".hidden"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of "abc", from FIPS 180-2
    assert folder_hashes(tmp_path) == {"a/c": known, "b": known}
    assert sha256(tmp_path / "b") == known


def test_a_link_is_the_same_file_and_follows_symbolic_links(tmp_path):
    (tmp_path / "weights").write_text("x")
    (tmp_path / "symbolic").symlink_to("weights")
    link(tmp_path / "symbolic", tmp_path / "deep/weights")
    assert (tmp_path / "deep/weights").samefile(tmp_path / "weights")
    assert not (tmp_path / "deep/weights").is_symlink()


def test_a_link_is_a_copy_where_the_file_system_cannot_link(tmp_path, monkeypatch):
    (tmp_path / "weights").write_text("x")
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("another device")))
    link(tmp_path / "weights", tmp_path / "copy")
    assert (tmp_path / "copy").read_text() == "x"
    assert not (tmp_path / "copy").samefile(tmp_path / "weights")


# ---- a script's run


def command_of(folder: Path, body: str, options: str = "") -> list[str]:
    """The command line of a stage script whose main() has this body; `options` of its `run`."""
    head = "import os, sys, time\nfrom pathlib import Path\n"
    head += "from posttrain.runtime import atomic, console, script\nfrom posttrain.runtime.errors import UserError\n"
    main = "".join(f"    {line}\n" for line in body.splitlines())
    file = folder / "script.py"
    file.write_text(f"{head}def main(options):\n{main}\nscript.run(script.arguments('doc', name=str), main{options})\n")
    return [sys.executable, str(file), "--name", "x"]


def run(command: list[str], **options) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(SCRIPTS)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, **options)


MISTAKE = "raise UserError('invalid-row', 'data.csv line 3', 'the text is empty', 'take the row out')"


@pytest.mark.parametrize("log", [[], ["--log", "logs/x.log"]], ids=["no log", "log"])
def test_a_users_mistake_is_one_line_and_exit_status_1(tmp_path, log):
    done = run([*command_of(tmp_path, MISTAKE), *log], cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "posttrain: data.csv line 3: the text is empty; take the row out\n"
    assert done.stdout == ""
    if log:
        assert (tmp_path / "logs/x.log").read_text() == done.stderr


def test_the_log_gets_what_is_printed_and_the_terminal_what_is_said(tmp_path):
    body = "print('python')\nos.system('echo a program')\nprint('error', file=sys.stderr)\nconsole.say('step 1')"
    done = run([*command_of(tmp_path, body), "--log", "logs/x.log"], cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "step 1\n")
    assert sorted((tmp_path / "logs/x.log").read_text().splitlines()) == ["a program", "error", "python"]


def test_without_a_log_everything_is_on_the_terminal(tmp_path):
    done = run(command_of(tmp_path, "print('python')\nconsole.say('step 1')"))
    assert (done.stdout, done.stderr) == ("python\n", "step 1\n")


def test_a_bug_of_ours_keeps_its_traceback_and_fails(tmp_path):
    done = run([*command_of(tmp_path, "1 / 0"), "--log", "logs/x.log"], cwd=tmp_path)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr + (tmp_path / "logs/x.log").read_text()


def test_the_traceback_of_a_bug_is_in_the_log(tmp_path):
    run([*command_of(tmp_path, "1 / 0"), "--log", "logs/x.log"], cwd=tmp_path)
    assert "ZeroDivisionError" in (tmp_path / "logs/x.log").read_text()


def test_an_exit_status_of_its_own_is_kept(tmp_path):
    assert run([*command_of(tmp_path, "sys.exit(143)"), "--log", "logs/x.log"], cwd=tmp_path).returncode == 143


def test_a_missing_option_is_told_with_the_usage(tmp_path):
    done = run(command_of(tmp_path, "pass")[:2])
    assert done.returncode == 2
    assert "the following arguments are required: --name" in done.stderr


def test_an_option_with_a_dash_is_the_argument_with_a_line():
    options = script.arguments("doc", max_length=int).parse_args(["--max-length", "3"])
    assert (options.max_length, options.log) == (3, None)


# ---- signals


@pytest.mark.parametrize("number", script.SIGNALS)
def test_a_signal_ends_a_stage_with_its_number_and_leaves_no_half_file(tmp_path, number):
    body = (
        "with atomic.whole_file(Path('out/result.json')) as file, atomic.whole_folder(Path('out/model')) as folder:\n"
        "    file.write_text('half')\n    (folder / 'weights').write_text('half')\n"
        f"    os.kill(os.getpid(), {int(number)})\n    time.sleep(20)"
    )
    done = run([*command_of(tmp_path, body), "--log", "logs/x.log"], cwd=tmp_path)
    assert (done.returncode, done.stderr) == (128 + number, "")
    assert names(tmp_path / "out") == []


def test_a_signal_that_is_ignored_where_a_stage_starts_stays_so(tmp_path):
    body = "os.kill(os.getpid(), 1)\nconsole.say('alive')"
    done = run(["nohup", *command_of(tmp_path, body)], cwd=tmp_path, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "alive")


# ---- a disk that is full, read-only or gone


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount(folder, "-t", "tmpfs", "-o", "size=1m", "none")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def mount(folder: Path, *options: str) -> None:
    done = subprocess.run(["mount", *options, folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")


WRITERS = {
    "text": "Path('{0}').write_bytes(bytes(2**21))",
    "torch": "import torch; torch.save(torch.zeros(2**19), '{0}')",
    "safetensors": "import numpy; from safetensors.numpy import save_file; save_file(dict(a=numpy.zeros(2**19)), '{0}')",
    "parquet": "import numpy, pyarrow as pa, pyarrow.parquet as pq\n"
    "pq.write_table(pa.table(dict(a=numpy.random.rand(2**19))), '{0}')",
    "sqlite": "import sqlite3; store = sqlite3.connect('{0}'); store.execute('create table t (a)')\n"
    "store.executemany('insert into t values (?)', [['y' * 1000]] * 3000); store.commit()",
}


def full(writer: str) -> str:
    """What is said of a writer that writes 2 MiB or more to `disk/result`, through `whole_file`."""
    with pytest.raises(UserError) as told, script._faults(), whole_file(Path("disk/result")) as file:
        exec(WRITERS[writer].format(file))
    return str(told.value)


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_one_sentence_whoever_writes_and_leaves_nothing(small_disk, monkeypatch, writer):
    monkeypatch.chdir(small_disk.parent)
    told = full(writer)
    assert told.startswith("disk/result: the disk is full; free some space ") and told.endswith(": it resumes")
    assert [name for name in names(small_disk) if not name.endswith("journal")] == []  # SQLite's, of an open store


def test_a_script_whose_disk_is_full_fails_with_one_line_though_its_log_lies_there_too(small_disk):
    body = "with atomic.whole_folder(Path('out/model')) as folder:\n    (folder / 'weights').write_bytes(bytes(2**21))"
    done = run([*command_of(small_disk, body), "--log", "logs/x.log"], cwd=small_disk)
    assert done.returncode != 0
    assert done.stderr.startswith("posttrain: out/model: the disk is full; ")
    assert done.stderr.count("\n") == 1
    assert names(small_disk / "out") == []


def test_a_read_only_disk_is_one_sentence(tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    mount(folder, "--bind", str(folder))
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
        for log in ([], ["--log", "results/logs/x.log"]):
            done = run([*command_of(tmp_path, "atomic.write_json(Path('results/a.json'), {})"), *log], cwd=tmp_path)
            assert done.returncode == 1
            assert "the file system is read-only; mount it for writing" in done.stderr
            assert done.stderr.startswith("posttrain: results/") or not log
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_file_where_a_folder_should_be_is_one_sentence(tmp_path):
    (tmp_path / "results").touch()
    done = run([*command_of(tmp_path, "pass"), "--log", "results/logs/x.log"], cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("posttrain: results/logs: a parent of this path is a file; move that file away")


@pytest.mark.parametrize("number", storage_faults.FAULTS)
def test_every_fault_of_a_disk_is_told_with_its_path(number):
    error = OSError(number, os.strerror(number), "results/sft/model")
    what, cure = storage_faults.FAULTS[number]
    told = storage_faults.storage_fault(error)
    assert (told.code, told.place) == ("storage-fault", "results/sft/model")
    assert str(told).startswith(f"results/sft/model: {what}; {cure}")
    wrapped = RuntimeError("could not save")
    wrapped.__cause__ = error
    assert storage_faults.storage_fault(wrapped).args == told.args


@pytest.mark.parametrize(
    "error", [ValueError("a bug"), FileNotFoundError(errno.ENOENT, "no such file", "x"), KeyError(1)]
)
def test_other_errors_are_no_fault_of_the_disk(error):
    assert storage_faults.storage_fault(error) is None


def test_a_terminal_that_was_closed_is_no_reason_to_stop(monkeypatch):
    with pytest.raises(OSError, match="No space"), Path("/dev/full").open("w") as closed:
        monkeypatch.setattr(console, "_console", closed)
        console.say("step 1")
        closed.write("step 2")  # where it is not caught
        closed.flush()


# ---- the lock


def wait_for(condition, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def two_at_once(tmp_path):
    """Start a script twice on one log; it ends when `go` exists and notes its start and its end in `notes`."""
    body = (
        "note = lambda word: Path('notes').open('a').write(f'{os.getpid()} {word}\\n')\n"
        "note('start')\nprint('at work', os.getpid(), flush=True)\n"
        "end = time.monotonic() + 30\n"
        "while not Path('go').exists() and time.monotonic() < end: time.sleep(0.02)\n"
        "note('end')"
    )
    command = [*command_of(tmp_path, body), "--log", "x.log"]
    options = {
        "cwd": tmp_path,
        "env": os.environ | {"PYTHONPATH": str(SCRIPTS)},
        "stderr": subprocess.PIPE,
        "text": True,
    }
    first = subprocess.Popen(command, **options)
    wait_for(lambda: (tmp_path / "notes").exists())
    second = subprocess.Popen(command, **options)
    holder = f"process {first.pid} on {socket.gethostname()} (script.py --name x --log x.log)"
    assert second.stderr.readline() == f"x: waiting for {holder}, which is at work on it\n"
    yield first, second
    for process in (first, second):
        process.kill()
        process.communicate()


def notes(folder: Path) -> list[str]:
    return (folder / "notes").read_text().splitlines()


def test_a_second_process_waits_until_the_first_has_ended(tmp_path, two_at_once):
    first, second = two_at_once
    assert notes(tmp_path) == [f"{first.pid} start"]
    (tmp_path / "go").touch()
    assert (first.wait(30), second.wait(30)) == (0, 0)
    assert notes(tmp_path) == [f"{pid} {word}" for pid in (first.pid, second.pid) for word in ("start", "end")]


def test_a_killed_process_leaves_no_lock(tmp_path, two_at_once):
    first, second = two_at_once
    first.kill()
    (tmp_path / "go").touch()
    assert second.wait(30) == 0


def test_a_process_that_waits_leaves_the_log_of_the_one_at_work_alone(tmp_path, two_at_once):
    first, _ = two_at_once
    assert f"at work {first.pid}" in (tmp_path / "x.log").read_text()


def test_a_stage_writes_what_it_took_beside_its_log(tmp_path, monkeypatch, signals):
    log = tmp_path / "dpo,learning_rate=0.1.log"
    monkeypatch.setattr(sys, "argv", ["x", "--log", str(log)])
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    script.run(script.arguments("x"), lambda options: subprocess.run([sys.executable, "-c", "bytearray(10**9)"]))
    names, values = (tmp_path / "dpo,learning_rate=0.1.tsv").read_text().splitlines()
    assert names.split("\t") == ["s", "max_rss", "cpu_time"]
    seconds, memory, processor = map(float, values.split("\t"))
    ours = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    assert seconds > 0 and processor > 0 and 900 < memory < max(ours, 1000) + 500


# ---- progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def shown(monkeypatch):
    """What a person sees, at a terminal or not."""

    def stream(kind: type[io.StringIO]) -> io.StringIO:
        monkeypatch.setattr(console, "_console", kind())
        monkeypatch.setitem(console._progress, "shown", float("-inf"))
        return console._console

    return stream


def test_progress_at_a_terminal_is_one_line_that_changes_and_then_ends(shown, monkeypatch):
    stream = shown(Terminal)
    monkeypatch.setenv("COLUMNS", "40")
    console.progress("sft: step 1/3 " + "x" * 80, 1, 3)
    assert stream.getvalue().startswith("\r\x1b[Ksft: step 1/3") and "\n" not in stream.getvalue()
    assert len(stream.getvalue()) == len("\r\x1b[K") + 39
    console.progress("sft: step 2/3", 2, 3)  # too soon to be read
    assert "2/3" not in stream.getvalue()
    console.say("saved")
    console.progress("sft: step 3/3", 3, 3)
    assert stream.getvalue().endswith("\nsaved\n\r\x1b[Ksft: step 3/3\n")


def test_without_a_terminal_progress_is_plain_lines_now_and_then(shown):
    stream = shown(io.StringIO)
    for step in range(1, 101):
        console.progress(f"sft: step {step}/100", step, 100)
    assert stream.getvalue() == "sft: step 1/100\nsft: step 100/100\n"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.4, "0 s"),
        (45, "45 s"),
        (89, "89 s"),
        (100, "2 min"),
        (3000, "50 min"),
        (7260, "2 h 01 min"),
        (1e5, "27 h 47 min"),
    ],
)
def test_a_time_is_said_as_people_say_it(seconds, said):
    assert console.duration(seconds) == said


# ---- several GPUs

SHOW = "console.say(os.environ.get('CUDA_VISIBLE_DEVICES', 'none'))"


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"CUDA_VISIBLE_DEVICES": "1,3"}, ["one GPU is used, 1; 1 more can be seen and stay idle", "1"]),
        ({"CUDA_VISIBLE_DEVICES": "GPU-8f6,GPU-1a2,MIG-7"}, ["one GPU is used, GPU-8f6; 2 more can be seen and stay idle", "GPU-8f6"]),
        ({"CUDA_VISIBLE_DEVICES": "2"}, ["2"]),
        ({"CUDA_VISIBLE_DEVICES": ""}, [""]),
        ({"CUDA_VISIBLE_DEVICES": "0,1", "LOCAL_RANK": "1"}, ["0,1"]),  # the launcher chooses
    ],
)  # fmt: skip
def test_a_stage_uses_one_gpu_and_says_so(tmp_path, monkeypatch, environment, said):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    done = run(command_of(tmp_path, SHOW), cwd=tmp_path)
    assert (done.returncode, done.stderr.splitlines()) == (0, said)


WORLD = "console.say(' of '.join(os.environ.get(name, 'none') for name in ('RANK', 'WORLD_SIZE')))"


@pytest.mark.parametrize(
    ("strategy", "said"),
    [
        ("ddp", ["0 of 2"]),
        ("zero2", ["0 of 2"]),
        ("fsdp", ["2 GPUs are used, 0,1; 1 more can be seen and stay idle", "none of none"]),
        ("zero3", ["2 GPUs are used, 0,1; 1 more can be seen and stay idle", "none of none"]),
    ],
)
def test_a_model_that_one_gpu_may_not_hold_is_evaluated_by_one_process_with_all_gpus(
    tmp_path, monkeypatch, strategy, said
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    monkeypatch.setenv("POSTTRAIN_HARDWARE", json.dumps({"processes": 2, "strategy": strategy}))
    done = run(command_of(tmp_path, WORLD, ", replicas=True"), cwd=tmp_path)
    assert (done.returncode, done.stderr.splitlines()) == (0, said)
