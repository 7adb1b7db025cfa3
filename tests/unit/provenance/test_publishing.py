"""Publishing, against a hub of our own on the loopback: what is refused, what is sent, and what comes back when it is downloaded."""

import shutil
import time
from pathlib import Path

import hub_server
import made_up_card
import pytest
import yaml
from conftest import refused
from huggingface_hub import ModelCard, constants, snapshot_download

from posttrain.cli import parser, publish
from posttrain.provenance import publishing
from posttrain.runtime.hashes import folder_hashes
from posttrain.workflow.project import Project

CONFIG = {
    "bases": {"base": {"source": "hub", "model": "org/model", "licence": "apache-2.0"}},
    "datasets": {"chats": {"hub": "org/chats"}, "sums": {"path": "sums.jsonl", "licence": "mit"},
                 "mixed": {"mix": {"chats": {}, "sums": {}}}},
    "runs": {"sft_0": {"from": "base", "objective": "sft", "method": "lora", "data": "mixed"},
             "dpo_1": {"from": "sft_0", "objective": "dpo", "method": "lora", "data": "chats"}},
}  # fmt: skip


@pytest.fixture
def project(in_folder, random_tiny_folder) -> Project:
    """A project in which `dpo_1` is built: a random tiny model with the records that `verify` reads."""
    made_up_card.write()
    for run, parent in (("sft_0", {}), ("dpo_1", {"config.json": "0"})):
        folder = Path("results", run)
        shutil.copytree(random_tiny_folder, folder / "model")
        (folder / "model/README.md").write_text("the short one")
        made_up_card.change(f"{run}/merge.json", files={"config.json": "0"})
        record = {"steps": {}, "merge": {}, "model": folder_hashes(folder / "model"), "settings": None}
        record |= {"parent": {"name": {"sft_0": "base", "dpo_1": "sft_0"}[run], "files": parent}}
        record["training"] = made_up_card.read_json(folder / "train.json")
        made_up_card.change(f"{run}/provenance.json", **record)
        made_up_card.change(f"{run}/provenance.json", versions={})
    Path("results/bases/base/model").mkdir()
    return Project(CONFIG)


@pytest.fixture
def hub(monkeypatch):
    """The hub that huggingface_hub talks to, and a login."""
    with hub_server.serve() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", hub_server.TOKEN)
        yield server


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    """The seconds that were waited for, without waiting."""
    found: list[float] = []
    monkeypatch.setattr(time, "sleep", found.append)
    return found


def prepared(project: Project, kind: str | None = None) -> publishing.Upload:
    return publishing.prepare(project, "dpo_1", "org/mine", kind)


# ---- what is sent


def test_a_published_model_comes_back_byte_by_byte_and_loads(project, hub, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    address = publishing.send(prepared(project))
    assert address.startswith(f"{hub.url}/org/mine/commit/")
    here = Path(snapshot_download("org/mine", cache_dir=tmp_path / "cache"))
    own = Path("results/dpo_1/model")
    assert {path.name for path in here.iterdir()} == {path.name for path in own.iterdir()}
    for file in own.iterdir():
        assert file.name == "README.md" or (here / file.name).read_bytes() == file.read_bytes()
    card = ModelCard((here / "README.md").read_text())
    assert card.data.base_model == "org/model" and 'model="org/mine"' in card.text and "FOLDER" not in card.text
    first, second = (AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in (own, here))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert len(hub.files("org/mine")[1]) == len(prepared(project).sizes)


def test_the_same_again_sends_nothing_and_a_change_is_a_new_commit(project, hub):
    publishing.send(prepared(project))
    before = dict(hub.received)
    publishing.send(prepared(project))
    assert hub.received == before and len(hub.repositories["org/mine"]["branches"]["main"]) == 2
    publishing.send(prepared(project)._replace(card="---\nlicense: mit\n---\nother\n"))
    assert hub.received == before and len(hub.repositories["org/mine"]["branches"]["main"]) == 3


def test_a_branch_is_made_and_a_private_repository_stays_private(project, hub):
    publishing.send(prepared(project), private=True, branch="trial")
    found = hub.repositories["org/mine"]
    assert found["private"] and len(found["branches"]["trial"]) == 2 and len(found["branches"]["main"]) == 1
    publishing.send(prepared(project), private=True)
    assert len(found["branches"]["main"]) == 2


def test_a_repository_that_is_public_is_not_taken_for_a_private_one(project, hub):
    hub.create("org/mine")
    with refused("hub-refused", "org/mine"):
        publishing.send(prepared(project), private=True)


def test_files_of_another_model_are_refused_or_on_request_removed(project, hub):
    hub.create(
        "org/mine", **{"pytorch_model.bin": b"x", ".gitattributes": b"", "config.json": b"{}", "LICENSE": b"MIT"}
    )
    with refused("other-content", "org/mine") as error:
        publishing.send(prepared(project))
    assert "do not belong to this model: pytorch_model.bin;" in str(error.value) and not hub.received
    publishing.send(prepared(project), replace=True)
    files = hub.files("org/mine")[1]
    assert "pytorch_model.bin" not in files and {".gitattributes", "LICENSE"} <= files.keys()
    assert files["config.json"] == Path("results/dpo_1/model/config.json").read_bytes()


def test_an_export_goes_with_a_card_of_its_own(project, hub):
    made_up_card.write_proof("gguf-q8_0")
    publishing.send(prepared(project, "gguf-q8_0"))
    files = hub.files("org/mine")[1]
    assert files.keys() == {"README.md", "dpo_1.gguf"}
    assert "llama-server -hf org/mine" in files["README.md"].decode()


# ---- what is refused


@pytest.mark.parametrize(
    "name", ["mine", "org/mine/x", "org/a b", "org/", "-/x", "org/한국어", "org/mine.git", "o" * 99 + "/x", "../x"]
)
def test_a_malformed_repository_is_refused(project, name):
    with refused("invalid-repository", name):
        publishing.prepare(project, "dpo_1", name)


def test_a_run_that_is_not_as_it_was_built_is_refused(project):
    Path("results/dpo_1/model/config.json").write_text("{}")
    with refused("changed-file", "dpo_1") as error:
        prepared(project)
    assert "dpo_1: model/config.json is edited" in str(error.value)


@pytest.mark.parametrize("file", ["eval.json", "merge.json"])
def test_a_run_without_evaluation_or_proof_is_refused(project, file):
    Path("results/dpo_1", file).unlink()
    with refused("not-built", "dpo_1") as error:
        prepared(project)
    assert f"results/dpo_1/{file}" in str(error.value)


def test_an_export_without_a_proof_or_of_no_kind_is_refused(project):
    made_up_card.write_proof("gguf-q8_0").with_name("gguf-q8_0.json").unlink()
    with refused("not-built", "dpo_1") as error:
        prepared(project, "gguf-q8_0")
    assert "its proof is missing (results/dpo_1/export/gguf-q8_0.json)" in str(error.value)
    with refused("unsupported-export", "dpo_1: gguf"):
        prepared(project, "gguf")


def test_a_licence_that_forbids_the_use_is_refused(project):
    made_up_card.change("data/chats/data.json", licence="cc-by-nc-4.0")
    assert prepared(project).closed == []
    with refused("licence-forbids", "dpo_1"):
        prepared(Project(CONFIG | {"use": "commercial"}))


def test_what_a_licence_keeps_for_oneself_goes_to_a_private_repository_only(project, hub):
    made_up_card.change("data/chats/data.json", licence="CC BY-ND 4.0")
    upload = prepared(project)
    with refused("licence-forbids", "dpo_1"):
        publishing.send(upload)
    publishing.send(upload, private=True)
    assert hub.repositories["org/mine"]["private"]


def test_a_file_that_names_the_projects_folder_is_refused(project):
    made_up_card.write_proof("gguf-q8_0", files={"config.json": f'{{"path": "{Path.cwd()}/x"}}'})
    with refused("local-path", "dpo_1: config.json"):
        prepared(project, "gguf-q8_0")


def test_nobody_publishes_without_a_login(project, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with refused("no-login"):
        publishing.send(prepared(project))


# ---- what the hub and the network do


def test_500_now_and_then_is_waited_for(project, hub, waits):
    hub.fail("POST /api/repos/create", 500, times=1)
    hub.fail("PUT /lfs", 503, times=2)
    hub.fail("POST /api/models/org/mine/commit", 502, times=1)
    publishing.send(prepared(project))
    assert "model.safetensors" in hub.files("org/mine")[1] and 0 < sum(waits) < 60


def test_500_always_ends_in_a_sentence_and_what_has_arrived_is_not_sent_again(project, hub, waits):
    hub.fail("/commit/", 500)
    with refused("unreachable-server", "org/mine") as error:
        publishing.send(prepared(project))
    assert "the hub failed after 3 tries" in str(error.value) and len(hub.asked) < 40 and sum(waits) < 120
    assert list(hub.received.values()) == [1]
    hub.failures.clear()
    publishing.send(prepared(project))
    assert list(hub.received.values()) == [1] and "model.safetensors" in hub.files("org/mine")[1]


def test_500_for_each_file_is_given_up_on(project, hub, waits):
    hub.fail("PUT /lfs", 500)
    with refused("unreachable-server", "org/mine"):
        publishing.send(prepared(project))
    assert sum("PUT" in what for what in hub.asked) == 3 * 6 and hub.files("org/mine")[1] == {}


@pytest.mark.parametrize(
    ("order", "said"),
    [
        (("/api/models", 403), "this token may not write there"),
        (("/commit/", 404), "the hub knows no such"),
        (("/commit/", 409), "somebody else changed it"),
        (("/preupload/", 413), "the hub answered 413"),
        (("/validate-yaml", 400), "the hub refused it: Invalid metadata in README.md"),
    ],
)
def test_what_another_try_would_not_mend_is_one_sentence_at_once(project, hub, waits, order, said):
    hub.create("org/mine")
    hub.fail(*order)
    with refused("hub-refused", "org/mine") as error:
        publishing.send(prepared(project))
    assert said in str(error.value) and "\n" not in str(error.value) and not waits
    assert hub_server.TOKEN not in str(error.value)


def test_another_organisation_and_another_token_are_refused(project, hub, monkeypatch):
    with refused("hub-refused", "theirs/mine") as error:
        publishing.send(prepared(project)._replace(repository="theirs/mine"))
    assert "may not write" in str(error.value)
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    with refused("hub-refused", "org/mine") as error:
        publishing.send(prepared(project))
    assert "does not know this token" in str(error.value)


def test_no_network_is_one_sentence(project, monkeypatch, waits):
    with hub_server.serve() as gone:
        monkeypatch.setattr(constants, "ENDPOINT", gone.url)
    monkeypatch.setenv("HF_TOKEN", hub_server.TOKEN)
    with refused("unreachable-server", "org/mine"):
        publishing.send(prepared(project))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with refused("unreachable-server", "org/mine") as error:
        publishing.send(prepared(project))
    assert "HF_HUB_OFFLINE is set" in str(error.value)


def test_an_export_that_is_not_the_one_that_was_proved_is_refused(project):
    folder = made_up_card.write_proof("gguf-q8_0")
    (folder / "dpo_1.gguf").write_bytes(b"GGUF another")
    with refused("changed-file", "dpo_1") as error:
        prepared(project, "gguf-q8_0")
    assert "gguf-q8_0/dpo_1.gguf is edited" in str(error.value)


def test_the_command_shows_what_it_sends_and_sends_nothing_on_trial(project, hub, capsys):
    Path("project.yaml").write_text(yaml.safe_dump(CONFIG))
    words = ["publish", "dpo_1", "org/mine", "--configfile", "project.yaml"]
    publish.run(parser.parser().parse_args([*words, "--dry-run"]))
    said = capsys.readouterr().out
    size = Path("results/dpo_1/model/model.safetensors").stat().st_size
    assert f"{size:>15,}  model.safetensors\n" in said and "\nbase_model: org/model\n" in said
    assert said.endswith("nothing was sent: --dry-run\n") and hub.asked == [] and hub.repositories == {}
    publish.run(parser.parser().parse_args(words))
    said = "".join(capsys.readouterr())
    assert f"published: {hub.url}/org/mine/commit/" in said and hub_server.TOKEN not in said
