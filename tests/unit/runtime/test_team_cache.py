"""A team's cache in a folder and in a bucket: what is found, what is refused, two writers, damage, what is removed."""

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY, refused

from posttrain.runtime import cache_folder, team_cache
from posttrain.runtime.errors import UserError

FILES = {"trained/adapter.safetensors": b"\0\1" * 500, "train.json": b"{}"}


@pytest.fixture(scope="module")
def bucket():
    """The address of an empty bucket that moto serves."""
    boto3 = pytest.importorskip("boto3")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="team")
        yield "s3://team"
    server.stop()


@pytest.fixture(params=["folder", pytest.param("bucket", marks=pytest.mark.storage)])
def path(request, tmp_path, monkeypatch) -> str:
    """Where an empty cache is; it is the configured one."""
    if request.param == "folder":
        (tmp_path / "team").mkdir()
        found = str(tmp_path / "team")
    else:
        found = f"{request.getfixturevalue('bucket')}/{tmp_path.name}"
    configure(monkeypatch, found)
    return found


def configure(monkeypatch, path: str, **settings) -> None:
    values = {"path": path, "max_size_gib": 1, "read_only": False} | settings
    monkeypatch.setenv(team_cache.VARIABLE, json.dumps(values))


@pytest.fixture
def said(monkeypatch) -> list[str]:
    found = []
    monkeypatch.setattr(team_cache, "say", lambda message, kind="note": found.append(message))
    return found


def result(folder: Path, files: dict[str, bytes] = FILES) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def keys(path: str) -> list[str]:
    return sorted(entry.key for entry in team_cache.open_store(path).entries())


def test_what_one_stores_another_finds(path, tmp_path, said):
    assert team_cache.fetch("sft", "a" * 64, tmp_path / "mine") is None
    team_cache.store("sft", "a" * 64, result(tmp_path / "theirs"))
    entry = team_cache.fetch("sft", "a" * 64, tmp_path / "mine")
    assert content(tmp_path / "mine") == FILES
    assert entry.keys() == {"who", "when"}
    assert said == [f"sft: found in the team's cache, by {entry['who']}, {entry['when']}"]
    (tmp_path / "mine/train.json").write_text("changed")
    assert team_cache.fetch("sft", "a" * 64, tmp_path / "again") and content(tmp_path / "again") == FILES


def test_a_single_file_is_an_entry_too(path, tmp_path, said):
    (tmp_path / "pairs,max_length=8.parquet").write_bytes(b"rows")
    team_cache.store("sft", "b", tmp_path / "pairs,max_length=8.parquet")
    assert team_cache.fetch_file("other", "b", tmp_path / "mine/other.parquet")
    assert content(tmp_path / "mine") == {"other.parquet": b"rows"}
    assert not team_cache.fetch_file("other", "c", tmp_path / "mine/none.parquet")


def damaged(data: bytes) -> dict[str, bytes]:
    """An entry's bytes, spoilt in different ways."""
    inside = data.index(FILES["trained/adapter.safetensors"]) + 100
    more = io.BytesIO(data)
    with tarfile.open(fileobj=more, mode="a") as tar:
        tar.addfile(tarfile.TarInfo("trained/more"))
    return {
        "a bit": data[:inside] + b"\xff" + data[inside + 1 :],
        "cut": data[: inside + 200],
        "empty": b"",
        "one more file": more.getvalue(),
    }


@pytest.mark.parametrize("how", ["a bit", "cut", "empty", "one more file"])
def test_a_damaged_entry_is_set_aside_and_stored_anew(path, tmp_path, said, how):
    team_cache.store("sft", "d", result(tmp_path / "theirs"))
    there = team_cache.open_store(path)
    with there.reading("d") as stream:
        spoilt = damaged(stream.read())[how]
    there.remove("d")
    there.put("d", lambda stream: stream.write(spoilt))
    assert team_cache.fetch("sft", "d", tmp_path / "mine") is None
    assert not (tmp_path / "mine").exists()
    assert [line for line in said if "damaged" in line and line.endswith("set aside as broken-d")]
    assert keys(path) == ["broken-d"]
    team_cache.store("sft", "d", tmp_path / "theirs")
    assert team_cache.fetch("sft", "d", tmp_path / "mine") and keys(path) == ["broken-d", "d"]


def test_an_entry_cannot_write_outside_of_the_result(path, tmp_path, said):
    def hostile(stream):
        with tarfile.open(fileobj=stream, mode="w|") as tar:
            tar.addfile(tarfile.TarInfo("../outside"))

    team_cache.open_store(path).put("e", hostile)
    assert team_cache.fetch("sft", "e", tmp_path / "deep/mine") is None
    assert not list(tmp_path.rglob("outside")) and keys(path) == ["broken-e"]


def test_the_first_of_two_writers_stays(path, tmp_path):
    there = team_cache.open_store(path)

    def slow(stream):
        stream.write(b"second")
        there.put("f", lambda other: other.write(b"first"))

    there.put("f", slow)
    with there.reading("f") as stream:
        assert stream.read() == b"first"


WRITER = """
import sys
from pathlib import Path
from posttrain.runtime import team_cache
for number in range(5):
    team_cache.store("sft", f"key{number}", Path(sys.argv[1]))
    assert team_cache.fetch("sft", f"key{number}", Path(sys.argv[2])), number
"""


def test_processes_that_store_and_read_the_same_at_once(path, tmp_path):
    for number in range(3):  # each with bits of its own, as on machines of different kinds
        result(tmp_path / str(number), {"weights": bytes([number]) * 300_000, "who": b"%d" % number})
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "scripts")}
    commands = [[sys.executable, "-c", WRITER, tmp_path / str(n), tmp_path / f"read{n}"] for n in range(3)]
    writers = [subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) for command in commands]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    found = [content(tmp_path / f"read{n}") for n in range(3)]
    assert found[0] == found[1] == found[2] == content(tmp_path / found[0]["who"].decode())
    assert keys(path) == [f"key{number}" for number in range(5)]


def test_the_entries_not_used_for_longest_are_removed_above_the_size(path, tmp_path, monkeypatch, said):
    configure(monkeypatch, path, max_size_gib=3.9 * 2**20 / 2**30)
    for key in "ab":
        team_cache.store("sft", key, result(tmp_path / key, {"weights": key.encode() * 2**20}))
    time.sleep(1.1 if path.startswith("s3") else 0.02)  # S3 tells whole seconds
    assert team_cache.fetch("sft", "a", tmp_path / "mine")
    for key in "cd":
        team_cache.store("sft", key, result(tmp_path / key, {"weights": key.encode() * 2**20}))
    assert keys(path) == ["a", "c", "d"]
    team_cache.store("sft", "e", result(tmp_path / "e", {"weights": b"e" * 4 * 2**20}))
    assert said[-1] == "sft: larger than cache.max_size_gib, so not stored in the team's cache"
    assert keys(path) == ["a", "c", "d"]


def test_a_reader_keeps_an_entry_that_another_removes(tmp_path, monkeypatch):
    (tmp_path / "team").mkdir()
    configure(monkeypatch, str(tmp_path / "team"))
    team_cache.store("sft", "a", result(tmp_path / "theirs"))
    there = team_cache.open_store(str(tmp_path / "team"))
    with there.reading("a") as stream:
        there.remove("a")
        (tmp_path / "mine").mkdir()
        team_cache._unpack(stream, tmp_path / "mine")
    assert content(tmp_path / "mine") == FILES and not list((tmp_path / "team").iterdir())


@pytest.mark.storage
def test_a_large_entry_is_uploaded_in_parts(bucket, tmp_path, monkeypatch):
    from posttrain.runtime import cache_bucket

    monkeypatch.setattr(cache_bucket, "PART_BYTES", 5 * 2**20)
    configure(monkeypatch, f"{bucket}/parts")
    files = {"weights": os.urandom(12 * 2**20)}
    team_cache.store("sft", "a", result(tmp_path / "theirs", files))
    assert team_cache.fetch("sft", "a", tmp_path / "mine") and content(tmp_path / "mine") == files


def test_read_only_stores_nothing_and_finds_all_the_same(path, tmp_path, monkeypatch):
    team_cache.store("sft", "a", result(tmp_path / "theirs"))
    configure(monkeypatch, path, read_only=True)
    team_cache.store("sft", "b", tmp_path / "theirs")
    assert keys(path) == ["a"] and team_cache.fetch("sft", "a", tmp_path / "mine")


def test_no_cache_is_configured(tmp_path, monkeypatch):
    monkeypatch.delenv(team_cache.VARIABLE, raising=False)
    team_cache.store("sft", "a", result(tmp_path / "theirs"))
    assert team_cache.fetch("sft", "a", tmp_path / "mine") is None
    assert not team_cache.fetch_file("sft", "a", tmp_path / "mine.parquet")


def test_entries_can_be_read_by_the_team_whatever_the_umask(tmp_path, monkeypatch):
    (tmp_path / "team").mkdir()
    configure(monkeypatch, str(tmp_path / "team"))
    before = os.umask(0o077)
    try:
        team_cache.store("sft", "a", result(tmp_path / "theirs"))
    finally:
        os.umask(before)
    assert (tmp_path / "team/a.tar").stat().st_mode & 0o777 == 0o444


def test_what_a_killed_writer_left_goes_after_a_day(tmp_path, monkeypatch):
    (tmp_path / "team").mkdir()
    configure(monkeypatch, str(tmp_path / "team"))
    for name, age in (("old", 1.1), ("new", 0.5)):
        left = tmp_path / f"team/.{name}.part"
        left.touch()
        os.utime(left, times=(time.time() - age * cache_folder.ABANDONED_SECONDS,) * 2)
    team_cache.store("sft", "a", result(tmp_path / "theirs"))
    assert sorted(file.name for file in (tmp_path / "team").iterdir()) == [".new.part", "a.tar"]


def test_a_cache_that_cannot_be_used_is_refused(path, tmp_path):
    settings = {"path": path, "read_only": False}
    team_cache.check(settings)
    assert keys(path) == []
    away = f"{path[:5]}away/x" if path.startswith("s3") else f"{path}/away"
    for read_only in (False, True):
        with refused("unusable-cache", "cache.path"):
            team_cache.check({"path": away, "read_only": read_only})
    team_cache.check({"path": None, "read_only": False})


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_colleague_without_the_right_to_write_can_read():
    with tempfile.TemporaryDirectory() as folder:
        team = Path(folder) / "team"
        team.mkdir()
        Path(folder).chmod(0o755)
        os.seteuid(65534)
        try:
            team_cache.check({"path": str(team), "read_only": True})
            with pytest.raises(UserError, match=r"this user cannot write to it \(Permission denied\)"):
                team_cache.check({"path": str(team), "read_only": False})
        finally:
            os.seteuid(0)
        team.chmod(0o700)
        os.seteuid(65534)
        try:
            with pytest.raises(UserError, match=r"this user cannot read it \(Permission denied\)"):
                team_cache.check({"path": str(team), "read_only": True})
        finally:
            os.seteuid(0)


@pytest.mark.parametrize("path", ["/proc/none", "s3://team/x"])
def test_a_cache_that_is_away_only_costs_time(path, tmp_path, monkeypatch, said):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "us-east-1")
    configure(monkeypatch, path)
    assert team_cache.fetch("sft", "a", tmp_path / "mine") is None
    team_cache.store("sft", "a", result(tmp_path / "theirs"))
    assert said[-1].startswith("sft: not stored in the team's cache (")
