"""What only a GPU can tell, on tiny models: every objective trains, resumes and answers for want of memory; scores agree with a CPU's.

python -m pytest -m gpu tests/gpu
"""

import math
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY, environment

from posttrain.inference import scoring
from posttrain.models import loading
from posttrain.runtime import atomic

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU"),
]

SAMPLING = {"reward": {"function": "answer_format"}, "max_new_tokens": 8, "max_steps": 1}
KEYS = {
    "sft": {},
    "dpo": {},
    "orpo": {},
    "cpo": {},
    "kto": {},
    "reward": {},
    "ppo": SAMPLING,
    "grpo": SAMPLING | {"generations": 2},
    "rloo": SAMPLING | {"generations": 2},
}
IN_4_BITS = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")


def write_weights(folder: Path) -> None:
    """Give a folder the weights that are drawn for it."""
    loading.load(folder).save_pretrained(folder)


def test_auto_is_bf16_where_the_gpu_multiplies_it():
    able = torch.cuda.is_bf16_supported(including_emulation=False)
    assert loading.precision("auto") == ("bf16" if able else "fp32")
    assert loading.DEVICE == "cuda"


@pytest.mark.parametrize("method", ["lora", "full", pytest.param("qlora", marks=IN_4_BITS)])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("objective", KEYS)
def test_every_objective_trains(rows, bench, objective, precision, method):
    keys = KEYS[objective] | {"precision": precision}
    given = rows.options(bench, "run", objective, method, "1b", **keys)
    if objective == "dpo":
        rows.score_reference(given, method)
    if (objective, method) == ("rloo", "full"):
        write_weights(given.parent)  # TRL reads its reference from the folder
    lines = rows.train(objective, given)
    assert all(math.isfinite(line["loss"]) and line["memory_gib"] > 0 for line in lines)
    made = atomic.read_json(given.spec.parent / "train.json")
    assert (made["memory_of"], made["precision"], made["attempts"]) == ("gpu", precision, [])


@pytest.mark.parametrize("method", ["prefix", "p_tuning", "prompt", "ia3", "oft", "vera", "adapter", "adalora"])
def test_every_method_trains(rows, bench, method):
    [*_, last] = rows.train("sft", rows.options(bench, "run", "sft", method, "1b"))
    assert math.isfinite(last["loss"])


CONTROLS = [
    {"packing": True},
    {"packing": True, "trainer_args": {"use_liger_kernel": False}},
    {"neftune": 5},
    {"keep": "best", "measure_every": 1, "max_steps": 4},
    {"method": "full", "freeze": ["layers.0"], "learning_rates": {".*norm": 1e-4}},
]


@pytest.mark.parametrize("keys", CONTROLS, ids=str)
def test_what_controls_training_trains(rows, bench, keys):
    given = rows.options(bench, "run", "sft", **{"method": "lora", "shape": "1b"} | keys)
    lines = rows.train("sft", given)
    assert all(math.isfinite(line["loss"]) for line in lines if "loss" in line)
    if "keep" in keys:
        measured = [line["eval_loss"] for line in lines if "eval_loss" in line]
        assert atomic.read_json(given.spec.parent / "train.json")["held_out"]["best"]["value"] == min(measured)


@pytest.mark.skipif(find_spec("flash_attn") is None, reason="flash_attn is not installed")
def test_flash_attention_starts_and_lays_rows_end_to_end(rows, bench):
    given = rows.options(bench, "run", "sft", "lora", "1b")
    rows.train("sft", given)
    made = atomic.read_json(given.spec.parent / "train.json")
    assert (made["attention"], made["padding_free"]) == ("flash_attention_2", True)


@pytest.mark.parametrize("keys", [{}, {"trainer_args": {"full_determinism": True}}])
def test_a_killed_training_goes_on(bench, keys):
    import gpu_proofs

    note = gpu_proofs.resumed(bench, "0.6b", **keys)["note"]
    assert "killed after checkpoint-" in note
    if keys:
        assert "the same bits" in note
    else:  # no further from an undisturbed training than two of those may be from each other
        assert "the same bits" in note or "two undisturbed trainings differ by 0;" not in note + ";"


def test_a_batch_that_does_not_fit_is_split(rows, bench):
    import gpu_proofs

    bench.dry, bench.work = (
        False,
        rows.inputs.FULL_WORK._replace(rows=32, steps=2),
    )  # a batch outweighs the allocator's blocks
    note = gpu_proofs.out_of_memory(bench, "0.6b")["note"]
    assert "8 rows, then 4 at once" in note


def test_scores_are_those_of_a_cpu(rows, bench, monkeypatch):
    monkeypatch.setattr(loading, "precision", lambda wanted: "fp32")
    columns = rows.inputs.sft_rows(bench.work, bench.config("1b")["vocab_size"])
    sequences = [tuple(map(tuple, row)) for row in zip(columns["input_ids"], columns["labels"], strict=True)]
    model = loading.load(bench.model("1b"), dtype=torch.float32).eval()
    on_gpu = scoring.log_probs(model, sequences, 256)
    on_cpu = scoring.log_probs(model.to("cpu"), sequences, 256)
    assert [n for _, n in on_gpu] == [n for _, n in on_cpu]
    assert [x for x, _ in on_gpu] == pytest.approx([x for x, _ in on_cpu], rel=1e-4)


def test_answers_are_those_of_a_cpu(rows, bench, monkeypatch):
    monkeypatch.setattr(loading, "precision", lambda wanted: "fp32")
    model, tokenizer = loading.load(bench.model("1b"), dtype=torch.float32).eval(), loading.tokenizer(bench.model("1b"))
    model.generation_config.eos_token_id = rows.inputs.EOS
    asked = rows.prompts(bench)
    on_gpu = scoring.generate(model, tokenizer, asked, 8)
    assert on_gpu == scoring.generate(model.to("cpu"), tokenizer, asked, 8)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is at most one GPU")
def test_a_model_on_two_gpus_scores_and_answers_as_on_one(rows, bench, monkeypatch):
    monkeypatch.setattr(loading, "precision", lambda wanted: "fp32")
    columns = rows.inputs.sft_rows(bench.work, bench.config("1b")["vocab_size"])
    sequences = [tuple(map(tuple, row)) for row in zip(columns["input_ids"], columns["labels"], strict=True)]
    tokenizer, asked = loading.tokenizer(bench.model("1b")), rows.prompts(bench)

    def measured() -> tuple[set, list, list]:
        model = loading.load(bench.model("1b"), dtype=torch.float32).eval()
        model.generation_config.eos_token_id = rows.inputs.EOS
        found = scoring.log_probs(model, sequences, 256), scoring.generate(model, tokenizer, asked, 8)
        return {parameter.device.index for parameter in model.parameters()}, *found

    on_one = measured()
    monkeypatch.setenv("POSTTRAIN_HARDWARE", '{"processes": 2, "strategy": "fsdp"}')
    on_two = measured()
    assert (on_one[0], on_two[0]) == ({0}, {0, 1})
    assert [x for x, _ in on_one[1]] == pytest.approx([x for x, _ in on_two[1]], rel=1e-5)
    assert on_one[2] == on_two[2]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is at most one GPU")
@pytest.mark.parametrize("objective", ["sft", "ppo"])
def test_two_gpus_do_not_end_in_data_parallel(rows, bench, objective):
    given = rows.options(bench, "run", objective, "lora", "1b", **KEYS[objective])
    write_weights(given.parent)  # the script itself draws no random ones
    rows_of = {"sft": "--tokens", "ppo": "--data"}[objective]
    options = ["--spec", given.spec, "--parent", given.parent, "--manifest", given.manifest, rows_of, given.data]
    command = [sys.executable, REPOSITORY / f"scripts/train_{objective}.py", *options]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    assert atomic.read_json(given.spec.parent / "train.json")["memory_of"] == "gpu"
