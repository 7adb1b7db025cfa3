"""A base of a stranger's: nothing of it is run, and what it lies about is told in a sentence."""

import json
import os
import pickle
import shutil
import struct
import sys
import zipfile
from argparse import Namespace
from pathlib import Path

import pytest
import safetensors

import make_base
from posttrain.models import base_inspection, loading
from posttrain.runtime import atomic, hashes
from posttrain.runtime.errors import UserError

CANARY = 'import pathlib; pathlib.Path("CANARY").touch()\n'


@pytest.fixture
def stranger(in_folder, random_tiny_folder) -> Path:
    """A model's folder to spoil."""
    return Path(shutil.copytree(random_tiny_folder, in_folder / "stranger"))


def build(**spec) -> None:
    atomic.write_json(Path("spec.json"), {"source": "path", "path": "stranger"} | spec)
    make_base.main(Namespace(spec=Path("spec.json"), text=None, whole=None, output=Path("results/bases/b")))


def refusal(**spec) -> str:
    with pytest.raises(UserError) as error:
        build(**spec)
    assert not Path("results/bases/b/model").exists() and not Path("CANARY").exists()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json"])
def test_a_file_that_is_json_of_another_kind_is_refused(stranger, name):
    (stranger / name).write_text("[1]")
    assert f"base b: {name} does not hold a JSON object" in refusal()


def spoil(file: Path, **changes) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


# ---- code


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "generation_config.json"])
def test_code_of_a_models_own_is_refused_and_not_imported(stranger, file):
    (stranger / "modeling_mine.py").write_text(CANARY + "class Mine: pass\n")
    spoil(stranger / file, auto_map={"AutoConfig": "modeling_mine.Mine", "AutoModelForCausalLM": "modeling_mine.Mine"})
    assert f"`auto_map` in {file} names code" in refusal()


def test_code_in_a_part_of_the_configuration_is_refused_too(stranger):
    spoil(stranger / "config.json", text_config={"auto_map": {"AutoConfig": "evil/repository--modeling.Mine"}})
    assert "`auto_map` in config.json names code" in refusal()


def test_a_kernel_from_the_hub_is_refused(stranger):
    spoil(stranger / "config.json", attn_implementation="evil/kernel")
    assert "`attn_implementation` in config.json names code" in refusal()


def test_the_loaders_run_no_code_either_whoever_made_the_folder(stranger):
    """What the check above keeps out, once more: nobody is asked on the terminal whether to trust it."""
    (stranger / "modeling_mine.py").write_text(CANARY + "class Mine: pass\n")
    spoil(stranger / "config.json", model_type="mine", auto_map={"AutoConfig": "modeling_mine.Mine"})
    spoil(stranger / "tokenizer_config.json", auto_map={"AutoTokenizer": ["modeling_mine.Mine", None]})
    with pytest.raises(UserError, match="not a model that can be loaded"):
        loading.load(stranger)
    assert loading.tokenizer(stranger).eos_token == "<|im_end|>"
    assert not Path("CANARY").exists()


def test_nothing_asks_for_remote_code():
    for file in (Path(make_base.__file__).parent).rglob("*.py"):
        assert "trust_remote_code=True" not in file.read_text(), file


# ---- weights


class Evil:
    def __reduce__(self):
        return (os.system, ("touch CANARY",))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pkl", "model.ckpt"])
def test_a_pickle_is_refused_with_the_command_that_converts_it(stranger, name):
    (stranger / "model.safetensors").unlink()
    (stranger / name).write_bytes(pickle.dumps(Evil()))
    said = refusal()
    assert "no .safetensors file" in said and "save_pretrained" in said and "can run any program" in said


def test_a_pickle_beside_safetensors_is_left_behind(stranger):
    (stranger / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    build()
    assert not Path("results/bases/b/model/pytorch_model.bin").exists() and not Path("CANARY").exists()


def test_a_pickle_by_the_name_of_safetensors_is_no_safetensors(stranger):
    (stranger / "model.safetensors").write_bytes(pickle.dumps(Evil()))
    assert "is not a complete safetensors file" in refusal()


def header(entries: dict, data: bytes = b"", length: int | None = None) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(shape: list, offsets: list, dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


LIES = {
    "nothing": b"",
    "half a length": b"\0\0",
    "a header of exabytes": header({}, length=2**62),
    "a header longer than the file": header({}, length=1000),
    "no JSON": struct.pack("<Q", 5) + b"hello",
    "a tensor longer than the file": header({"a": tensor([1000], [0, 4000])}, b"\0" * 8),
    "a shape of exabytes": header({"a": tensor([2**40, 2**40], [0, 8])}, b"\0" * 8),
    "offsets that overlap": header({"a": tensor([2], [0, 8]), "b": tensor([2], [4, 12])}, b"\0" * 12),
    "offsets before the file": header({"a": tensor([2], [-8, 0])}),
    "offsets turned round": header({"a": tensor([2], [8, 0])}, b"\0" * 8),
    "a hole": header({"a": tensor([1], [0, 4]), "b": tensor([1], [8, 12])}, b"\0" * 12),
    "an unknown type": header({"a": tensor([2], [0, 8], "F99")}, b"\0" * 8),
    "deeply nested": struct.pack("<Q", 200_000) + b"[" * 200_000,
}


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies_is_told(stranger, lie):
    (stranger / "model.safetensors").write_bytes(LIES[lie])
    assert "model.safetensors is not a complete safetensors file" in refusal()


def test_weights_of_another_shape_than_the_configuration_says_are_told(stranger):
    spoil(stranger / "config.json", hidden_size=64)
    with pytest.raises(UserError, match="not a model that can be loaded"):
        loading.load(stranger)


def test_layers_without_weights_are_not_made_up_at_random(stranger):
    spoil(stranger / "config.json", num_hidden_layers=3)
    assert "says that it has 3 layers, and it has weights for 2" in refusal()
    spoil(stranger / "config.json", num_hidden_layers=10**12)
    assert "says that it has 1,000,000,000,000 layers" in refusal()


@pytest.mark.parametrize("shard", ["../../secret.safetensors", "/etc/passwd", "model-00002.safetensors"])
def test_an_index_names_no_file_elsewhere(stranger, shard):
    (stranger / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "model.safetensors", "b": shard}})
    )
    assert f"names {shard}, which is not in the folder" in refusal()


@pytest.mark.parametrize(
    ("file", "text"), [("config.json", "{"), ("config.json", "[" * 100_000), ("tokenizer_config.json", "\0")]
)
def test_a_file_that_is_no_json_is_told(stranger, file, text):
    (stranger / file).write_text(text)
    assert f"{file} is not valid JSON" in refusal()


def test_a_pipe_in_the_folder_is_not_waited_for(stranger):
    os.mkfifo(stranger / "extra.json")
    os.mkfifo(stranger / "README.md")
    build()
    assert not {"extra.json", "README.md"} & {file.name for file in Path("results/bases/b/model").iterdir()}


def test_a_revision_of_the_caches_layout_stays_in_its_folder(in_folder, stranger):
    Path("cache/snapshots/1").mkdir(parents=True)
    Path("cache/refs").mkdir()
    Path("cache/refs/main").write_text("../../stranger")
    assert "is no model" in refusal(path="cache")


def test_a_template_of_megabytes_is_refused(stranger):
    (stranger / "chat_template.jinja").write_text("x" * (base_inspection.MAX_TEMPLATE + 1))
    assert "chat_template.jinja is longer than" in refusal()


# ---- wheels


def wheel(members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile("x.whl", "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return Path("x.whl")


@pytest.mark.parametrize(
    "name", ["../../CANARY.gguf", "/tmp/CANARY.gguf", "a/../../CANARY.gguf", "C:\\CANARY.gguf", "CANARY.gguf"]
)
def test_a_wheels_names_decide_nothing(in_folder, name):
    Path("deep/er").mkdir(parents=True)
    target = Path("deep/er/model.gguf")
    base_inspection.unpack(wheel({name: b"x", "x/__init__.py": CANARY.encode()}), None, target, "b")
    assert target.read_bytes() == b"x"
    assert [file for file in in_folder.rglob("*") if file.is_file()] == [target.resolve(), in_folder / "x.whl"] or (
        {file.name for file in in_folder.rglob("*") if file.is_file()} == {"model.gguf", "x.whl"}
    )
    assert not Path("/tmp/CANARY.gguf").exists()


def test_a_link_in_a_wheel_is_its_text(in_folder):
    with zipfile.ZipFile("x.whl", "w") as file:
        link = zipfile.ZipInfo("model.gguf")
        link.external_attr = 0o120777 << 16
        file.writestr(link, "/etc/passwd")
    base_inspection.unpack(Path("x.whl"), None, Path("model.gguf"), "b")
    assert not Path("model.gguf").is_symlink() and Path("model.gguf").read_text() == "/etc/passwd"


def test_a_wheel_that_unpacks_to_much_more_is_refused(in_folder, monkeypatch):
    monkeypatch.setattr(base_inspection, "SMALL", 1 << 20)
    bomb = wheel({"model.gguf": b"\0" * (1 << 23)})
    with pytest.raises(UserError, match=r"would unpack from .* to 8,388,608 bytes"):
        base_inspection.unpack(bomb, None, Path("model.gguf"), "b")
    assert not Path("model.gguf").exists()


def test_a_wheel_that_is_broken_is_told(in_folder):
    whole = wheel({"model.gguf": b"some bytes" * 100}).read_bytes()
    for broken in (b"", b"PK", whole[: len(whole) // 2], whole.replace(b"model.gguf", b"other.gguf", 1), b"x" * 100):
        Path("x.whl").write_bytes(broken)
        with pytest.raises(UserError, match="is not a complete wheel"):
            base_inspection.unpack(Path("x.whl"), None, Path("model.gguf"), "b")


def test_a_wheel_with_another_hash_is_refused(in_folder, monkeypatch):
    """Without a network: pip finds the wheel in a folder."""
    name = "evil_model-1.0-py3-none-any.whl"
    info = "evil_model-1.0.dist-info"
    files = {
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: evil-model\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\n",
    }
    Path("index").mkdir()
    wheel({**{key: value.encode() for key, value in files.items()}, f"{info}/RECORD": b"", "m.gguf": b"GGUF"}).rename(
        f"index/{name}"
    )
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(in_folder / "index"))
    spec = {"source": "wheel", "package": "evil-model==1.0", "file": None, "sha256": "0" * 64}
    assert "and not the configuration's 000" in refusal(**spec)
    spec["sha256"] = hashes.sha256(Path(f"index/{name}"))
    assert "the GGUF file cannot be read" in refusal(**spec)


# ---- GGUF


def gguf(keys: list[bytes], tensors: int = 0, count: int | None = None) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, len(keys) if count is None else count) + b"".join(keys)


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


ARRAY, UINT32 = 9, 4
GGUF = {
    "nothing": b"",
    "a magic number": b"GGUF",
    "no version": gguf([])[:8],
    "an array of exabytes": gguf([text(b"a") + struct.pack("<IIQ", ARRAY, UINT32, 2**60)]),
    "a text of exabytes": gguf([struct.pack("<Q", 2**60) + b"a"]),
    "keys of exabytes": gguf([], count=2**60),
    "tensors of exabytes": gguf([], tensors=2**60),
    "more layers than weights": gguf([text(b"llama.block_count") + struct.pack("<II", UINT32, 10**9)]),
    "a pickle": pickle.dumps(Evil()),
}


@pytest.mark.parametrize("lie", GGUF)
def test_a_gguf_file_that_lies_is_told(in_folder, lie, monkeypatch):
    monkeypatch.setattr(base_inspection, "GGUF_SECONDS", 1)
    Path("model.gguf").write_bytes(GGUF[lie])
    with pytest.raises(UserError, match="base b: "):
        base_inspection.check_gguf(Path("model.gguf"), "b")
    assert not Path("CANARY").exists()


def test_the_smallest_whole_files_pass(in_folder):
    Path("model.safetensors").write_bytes(safetensors.serialize({}))
    assert base_inspection.tensors_in(Path("model.safetensors"), "b") == []
    assert sys.byteorder == "little"
    Path("model.gguf").write_bytes(gguf([text(b"general.alignment") + struct.pack("<II", UINT32, 32)]) + b"\0" * 64)
    base_inspection.check_gguf(Path("model.gguf"), "b")
