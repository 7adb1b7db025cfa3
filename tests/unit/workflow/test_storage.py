"""Results in an S3 bucket: what is refused before a job, and what makes a stored spec stale."""

import json
import logging
import os
from pathlib import Path

import pytest
from conftest import refused
from s3_server import serve

from posttrain.runtime.hashes import sha256
from posttrain.workflow.storage import LONG_AGO, Storage

plugin = pytest.importorskip("snakemake_storage_plugin_s3")
SPEC = "results/data/rows/spec.json"
RECORD = "results/data/rows/data.json"


@pytest.fixture(scope="module")
def server():
    with serve() as server:
        yield server


def storage(server, folder: Path, prefix: str = "s3://team/project", url: str | None = None, **keys: str) -> Storage:
    keys = keys or {"access_key": "testing", "secret_key": "testing"}
    settings = plugin.StorageProviderSettings(endpoint_url=url or server.url, retries=1, **keys)
    provider = plugin.StorageProvider(folder / "copies", logging.getLogger(), settings=settings, is_default=True)
    return Storage(provider, prefix)


@pytest.fixture
def project(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return storage(server, tmp_path)


def test_a_storage_that_answers_is_accepted_and_written_to(server, project, tmp_path):
    project.check()
    project.announce("config/config.yaml")
    assert server.client().get_object(Bucket="team", Key="project/results/.configuration")["Body"].read() == (
        b"config/config.yaml\n"
    )
    assert project.folder == str(tmp_path / "copies/team/project/results")


def test_a_missing_key_is_refused(server, tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)  # which keeps the keys that it has once found
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with refused("no-storage", "s3://team/project") as error:
        storage(server, tmp_path, region="us-east-1").check()
    assert "credentials" in error.value.problem


def test_a_missing_bucket_is_refused_and_not_made(server, tmp_path):
    with refused("no-storage", "s3://teem/project") as error:
        storage(server, tmp_path, "s3://teem/project").check()
    assert "no bucket 'teem'" in error.value.problem
    assert [bucket["Name"] for bucket in server.client().list_buckets()["Buckets"]] == ["team"]


def test_a_storage_without_a_prefix_is_refused(server, tmp_path):
    with refused("no-storage", "--default-storage-prefix"):
        storage(server, tmp_path, "").check()


def test_an_address_where_nobody_listens_is_refused(server, tmp_path):
    with refused("no-storage") as error:
        storage(server, tmp_path, url="http://127.0.0.1:9").check()
    assert "Could not connect" in error.value.problem


def test_a_bucket_that_may_only_be_read_is_refused(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    resource = "arn:aws:s3:::team/readonly/*"
    deny = {"Effect": "Deny", "Principal": "*", "Action": "s3:PutObject", "Resource": resource}
    server.client().put_bucket_policy(Bucket="team", Policy=json.dumps({"Version": "2012-10-17", "Statement": [deny]}))
    own = storage(server, tmp_path, "s3://team/readonly")
    own.check()
    with refused("no-storage") as error:
        own.announce("config/config.yaml")
    server.client().delete_bucket_policy(Bucket="team")
    assert error.value.problem == "it cannot be written to (Forbidden)"


def age(file: str) -> float:
    return Path(file).stat().st_mtime


def put(server, key: str, text: str) -> None:
    server.client().put_object(Bucket="team", Key=f"project/{key}", Body=text.encode())


def test_a_spec_is_young_only_where_the_stored_one_says_something_else(server, project, tmp_path):
    assert age(project.text("{}", SPEC)) == LONG_AGO  # nothing is stored
    put(server, SPEC, "{}\n")
    assert age(storage(server, tmp_path).text("{}", SPEC)) == LONG_AGO
    put(server, SPEC, '{"seed": 1}\n')
    assert age(storage(server, tmp_path).text("{}", SPEC)) > LONG_AGO


def test_a_spec_is_young_where_the_stored_rows_are_of_other_files(server, project, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "one"}\n')
    put(server, SPEC, "{}\n")
    put(server, RECORD, json.dumps({"files": {"rows.jsonl": sha256(rows)}}))
    sources = {RECORD: ["rows.jsonl"]}
    os.utime(rows)  # a checkout's files are young
    assert age(project.text("{}", SPEC, sources)) == LONG_AGO
    rows.write_text('{"text": "two"}\n')
    assert age(storage(server, tmp_path).text("{}", SPEC, sources)) > LONG_AGO


def test_a_folder_that_another_machine_has_written_is_found(server, project):
    from posttrain.compat.s3_storage import look_again

    look_again(project.provider)
    folder = project.provider.object("s3://team/project/results/run/model")
    assert not folder.exists()
    put(server, "results/run/model/config.json", "{}")
    assert folder.exists() and folder.is_dir()
    file = project.provider.object("s3://team/project/results/run/model/config.json")
    server.requests.clear()
    assert file.exists() and not file.is_dir()
    assert len(server.requests) == 1  # what is an object of its own is not listed
