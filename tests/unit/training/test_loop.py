"""What every objective's training shares: the order of rows, TRL's arguments, checkpoints, the watch, the result's files."""

import dataclasses
import json
import math
import os
import signal
from argparse import Namespace
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from conftest import write_rows
from transformers import TrainerControl, TrainerState
from trl import DPOConfig, GRPOConfig, KTOConfig, RewardConfig, RLOOConfig, SFTConfig
from trl.experimental.cpo import CPOConfig
from trl.experimental.orpo import ORPOConfig

from posttrain.config import schema
from posttrain.data.tokens import questions
from posttrain.methods import METHODS
from posttrain.models import loading, peft_methods
from posttrain.objectives import OBJECTIVES
from posttrain.runtime import script
from posttrain.runtime.errors import UserError
from posttrain.training import loop
from posttrain.training.loop import history, row_order, trainer_arguments
from posttrain.workflow.project import Project

# ---- the order of the rows


def lengths(n: int) -> list[int]:
    """Lengths as real data has them: most short, some long."""
    return np.random.default_rng(3).lognormal(4, 0.7, n).astype(int).tolist()


ORDERS = [  # rows, batch_size, epochs, max_steps -> rows in the order
    (64, 8, 1, None, 64),
    (100, 8, 1, None, 100),
    (100, 8, 3, None, 300),
    (100, 8, 1.5, None, 150),
    (100, 8, 0.25, None, 25),
    (100, 8, 0.001, None, 1),
    (3, 8, 1, None, 3),
    (3, 8, 2.5, None, 8),
    (1, 8, 1, None, 1),
    (100, 8, 1, 5, 40),
    (100, 8, 1, 20, 160),
    (3, 8, 1, 4, 32),
    (100, 1, 1, None, 100),
]


@pytest.mark.parametrize(("n", "batch_size", "epochs", "max_steps", "total"), ORDERS)
def test_every_row_is_seen_as_often_as_every_other_to_within_one(n, batch_size, epochs, max_steps, total):
    order = row_order(lengths(n), batch_size, epochs, max_steps, 42)
    seen = Counter(order)
    assert len(order) == total
    assert set(seen) <= set(range(n))
    assert all(seen[row] in (total // n, math.ceil(total / n)) for row in range(n))


@pytest.mark.parametrize(("n", "batch_size", "epochs", "max_steps", "total"), ORDERS)
def test_the_order_is_the_same_whatever_the_generators_state(n, batch_size, epochs, max_steps, total):
    np.random.seed(1)
    torch.manual_seed(1)
    one = row_order(lengths(n), batch_size, epochs, max_steps, 42)
    np.random.seed(2)
    torch.manual_seed(2)
    assert row_order(lengths(n), batch_size, epochs, max_steps, 42) == one


def test_an_epoch_that_fills_its_windows_is_a_permutation_and_no_epoch_is_like_another():
    order = row_order(lengths(128), 8, 3, None, 42)
    epochs = [order[i : i + 128] for i in range(0, 384, 128)]
    assert all(sorted(epoch) == list(range(128)) for epoch in epochs)
    batches = {frozenset(frozenset(epoch[i : i + 8]) for i in range(0, 128, 8)) for epoch in epochs}
    assert len(batches) == 3  # rows meet other rows each time


def test_the_seed_moves_the_order():
    assert row_order(lengths(64), 8, 1, None, 1) != row_order(lengths(64), 8, 1, None, 2)


def padding(order: list[int], sizes: list[int], batch_size: int) -> int:
    batches = [[sizes[row] for row in order[i : i + batch_size]] for i in range(0, len(order), batch_size)]
    return sum(max(batch) * len(batch) - sum(batch) for batch in batches)


def test_batches_group_similar_lengths_and_are_not_sorted_from_short_to_long():
    sizes = lengths(512)
    order = row_order(sizes, 8, 1, None, 42)
    shuffled = np.random.default_rng(0).permutation(512).tolist()
    assert padding(order, sizes, 8) < 0.4 * padding(shuffled, sizes, 8)
    longest = [max(sizes[row] for row in order[i : i + 8]) for i in range(0, 512, 8)]
    assert sum(one > other for one, other in pairwise(longest)) > 15


def test_what_is_left_of_an_epoch_is_drawn_at_random_and_every_other_batch_is_whole():
    sizes = list(range(100, 0, -1))
    left = []
    for seed in range(20):
        order = row_order(sizes, 8, 1, None, seed)
        window = sorted(sizes[row] for row in order[64:96])
        batches = [sorted(sizes[row] for row in order[i : i + 8]) for i in range(64, 96, 8)]
        assert sorted(batches) == [window[i : i + 8] for i in range(0, 32, 8)]
        left += [sizes[row] for row in order[96:]]
    assert 40 < np.mean(left) < 61  # the longest rows would have 98.5


def test_batches_of_later_epochs_group_similar_lengths_too():
    sizes = lengths(100)
    order = row_order(sizes, 8, 3, None, 42)
    shuffled = [row for epoch in range(3) for row in np.random.default_rng(epoch).permutation(100).tolist()]
    assert padding(order[104:], sizes, 8) < 0.6 * padding(shuffled[104:], sizes, 8)


# ---- from the spec to TRL


@pytest.fixture
def spec(configuration):
    """The spec of one of the small configuration's runs."""

    def resolved(target: str, changes: dict | None = None) -> dict:
        return json.loads(Project(configuration(changes)).spec(target))

    return resolved


TRL = {
    "sft": SFTConfig,
    "dpo": DPOConfig,
    "kto": KTOConfig,
    "orpo": ORPOConfig,
    "cpo": CPOConfig,
    "reward": RewardConfig,
    "grpo": GRPOConfig,
    "rloo": RLOOConfig,
}
PEFT = {
    "lora": peft.LoraConfig,
    "qlora": peft.LoraConfig,
    "adalora": peft.AdaLoraConfig,
    "oft": peft.OFTConfig,
    "vera": peft.VeraConfig,
    "ia3": peft.IA3Config,
    "prefix": peft.PrefixTuningConfig,
    "p_tuning": peft.PromptEncoderConfig,
    "prompt": peft.PromptTuningConfig,
}


def fields(cls) -> set[str]:
    return {field.name for field in dataclasses.fields(cls) if field.init}


@pytest.mark.parametrize("objective", [name for name, row in OBJECTIVES.items() if row.trl_config])
def test_the_fields_read_from_the_source_are_those_of_the_installed_trainer(objective):
    assert fields(TRL[objective]) == schema.trainer_fields(objective)


@pytest.mark.parametrize("method", [name for name, row in METHODS.items() if row.peft_config])
def test_the_fields_read_from_the_source_are_those_of_the_installed_method(method):
    assert fields(PEFT[method]) <= schema.peft_fields(method)


def test_a_spec_becomes_trls_arguments(spec, tmp_path):
    changes = {
        "runs.sft.accumulation": 2,
        "runs.sft.weight_decay": 0.1,
        "runs.sft.precision": "fp32",
        "runs.sft.max_length": 64,
    }
    arguments = SFTConfig(**trainer_arguments(spec("sft", changes), tmp_path), max_length=64)
    assert (arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps) == (4, 2)
    assert (arguments.learning_rate, arguments.weight_decay, arguments.max_grad_norm) == (2e-4, 0.1, 1.0)
    assert (arguments.max_length, arguments.seed, arguments.bf16) == (64, 42, False)
    assert (arguments.lr_scheduler_type.value, arguments.get_warmup_steps(50)) == ("cosine", 5)
    assert arguments.report_to == []


def test_trainer_args_have_the_last_word(spec, tmp_path):
    arguments = SFTConfig(**trainer_arguments(spec("sft", {"runs.sft.trainer_args": {"adam_beta2": 0.95}}), tmp_path))
    assert arguments.adam_beta2 == 0.95


def test_dpo_takes_the_same_arguments(spec, tmp_path):
    dpo = spec("dpo")
    arguments = DPOConfig(**trainer_arguments(dpo, tmp_path), beta=dpo["beta"], loss_type=dpo["loss_type"])
    assert (arguments.learning_rate, arguments.beta, arguments.loss_type) == (1e-4, 0.1, ["sigmoid"])


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_every_schedule_warms_up(spec, tmp_path, schedule):
    from transformers import get_scheduler

    arguments = SFTConfig(**trainer_arguments(spec("sft", {"runs.sft.schedule": schedule}), tmp_path))
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = get_scheduler(arguments.lr_scheduler_type, optimiser, arguments.get_warmup_steps(20), 20)
    rates = []
    for _ in range(20):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step()
    assert rates[:3] == [0, 0.5, 1]
    assert (rates[-1] == 1) == (schedule == "constant")


@pytest.mark.parametrize(("share", "steps"), [(0, 0), (0.1, 10), (0.5, 50), (1, 100)])
def test_warm_up_is_a_share_of_the_steps(spec, tmp_path, share, steps):
    arguments = SFTConfig(**trainer_arguments(spec("sft", {"runs.sft.warmup": share}), tmp_path))
    assert arguments.get_warmup_steps(100) == steps


def test_a_spec_becomes_pefts_configuration(spec, random_tiny_model):
    lora = peft_methods.adapter(spec("sft", {"runs.sft.peft_args": {"use_rslora": True}}), random_tiny_model, 10)
    assert (lora.r, lora.lora_alpha, lora.lora_dropout, lora.target_modules, lora.use_rslora) == (
        8,
        16,
        0.05,
        "all-linear",
        True,
    )
    assert peft_methods.adapter(spec("full"), random_tiny_model, 10) is None


def test_what_peft_refuses_is_one_sentence(spec, random_tiny_model):
    sentence = r"sft: method, peft_args or trainer_args: .*layers_to_transform"
    with pytest.raises(UserError, match=sentence), loop.refusals("sft"):
        peft_methods.adapter(spec("sft") | {"peft_args": {"layers_to_transform": [0]}}, random_tiny_model, 10)


@pytest.mark.parametrize("kind", [TypeError, ValueError, NotImplementedError, ImportError])
def test_what_a_library_refuses_is_its_first_line(kind, capsys):
    with pytest.raises(UserError) as error, loop.refusals("sft"):
        raise kind("no such thing\nand much more")
    assert str(error.value) == "sft: method, peft_args or trainer_args: no such thing"
    assert "and much more" in capsys.readouterr().err  # the log has it all
    with pytest.raises(KeyError), loop.refusals("sft"):
        raise KeyError("a fault of ours")


def test_a_parent_is_trained_in_float32_where_all_weights_move_and_in_its_own_dtype_under_an_adapter(
    spec, random_tiny_model, random_tiny_tokenizer, tmp_path
):
    loading.save(random_tiny_model.to(torch.bfloat16), random_tiny_tokenizer, tmp_path)
    assert loop.load_parent(tmp_path, spec("full")).dtype == torch.float32
    assert loop.load_parent(tmp_path, spec("sft")).dtype == torch.bfloat16


def test_loading_the_parent_seeds_what_draws_the_adapters_first_weights(spec, random_tiny_folder):
    def drawn(seed: int) -> torch.Tensor:
        loop.load_parent(random_tiny_folder, spec("sft", {"runs.sft.seed": seed}))
        return torch.rand(3)

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


COMPACT = [
    ("sft", "lora", {}, True),
    ("sft", "full", {}, True),
    ("dpo", "qlora", {}, True),
    ("kto", "lora", {}, True),
    ("dpo", "lora", {"use_weighting": True}, False),  # WPO needs more of the distribution than one log-probability
    ("sft", "prompt", {}, False),  # the model is handed embeddings
    ("dpo", "prefix", {}, False),
    ("kto", "p_tuning", {}, False),
    ("orpo", "lora", {}, False),  # it reads the logits
    ("reward", "lora", {}, False),  # it has no LM head
]


@pytest.mark.parametrize(("objective", "method", "trainer_args", "can"), COMPACT)
def test_only_what_needs_log_probabilities_alone_gets_the_compact_head(spec, objective, method, trainer_args, can):
    data = "chats" if objective == "sft" else "pairs"
    table = {"from": "base", "objective": objective, "method": method, "data": data, "trainer_args": trainer_args}
    assert loop.can_be_compact(spec("own", {"runs.own": table})) == can


def test_a_4_bit_training_uses_the_paged_optimiser_unless_told_otherwise(spec, tmp_path):
    table = {"from": "base", "objective": "sft", "method": "qlora", "data": "chats"}
    assert trainer_arguments(spec("own", {"runs.own": table}), tmp_path)["optim"] == "paged_adamw_8bit"
    own = table | {"trainer_args": {"optim": "adamw_torch"}}
    assert trainer_arguments(spec("own", {"runs.own": own}), tmp_path)["optim"] == "adamw_torch"
    assert "optim" not in trainer_arguments(spec("sft"), tmp_path)


KERNELS = [  # objective, method, precision, Flash Attention there -> what SFT is given
    ("sft", "lora", "bf16", True, {"padding_free": True, "use_liger_kernel": True}),
    ("sft", "lora", "fp32", True, {"padding_free": False, "use_liger_kernel": True}),
    ("sft", "lora", "bf16", False, {"padding_free": False, "use_liger_kernel": True}),
    ("sft", "prefix", "bf16", True, {"padding_free": False, "use_liger_kernel": True}),
    ("sft", "adapter", "bf16", True, {"padding_free": True, "use_liger_kernel": False}),
    ("dpo", "lora", "bf16", True, {}),
]


@pytest.mark.parametrize(("objective", "method", "precision", "there", "given"), KERNELS)
def test_a_gpu_uses_the_kernels_that_are_installed(
    spec, tmp_path, monkeypatch, objective, method, precision, there, given
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    monkeypatch.setattr(loop, "is_flash_attn_2_available", lambda: there)
    monkeypatch.setattr(loop, "is_liger_kernel_available", lambda: True)
    data = "chats" if objective == "sft" else "pairs"
    table = {"from": "base", "objective": objective, "method": method, "data": data, "precision": precision}
    own = spec("own", {"runs.own": table})
    assert loop.kernels(own) == given
    assert given.items() <= trainer_arguments(own, tmp_path).items()
    assert loop.flash(own) == given.get("padding_free", False)
    if objective == "sft":
        told = spec("own", {"runs.own": table | {"trainer_args": {"use_liger_kernel": False}}})
        assert trainer_arguments(told, tmp_path)["use_liger_kernel"] is False


def test_a_cpu_is_given_no_kernels(spec):
    assert loop.kernels(spec("sft")) == {}
    assert not loop.flash(spec("sft"))


# ---- prompts and judges


def test_prompts_without_room_for_an_answer_are_left_out_and_said(
    spec, in_folder, chats, random_tiny_tokenizer, monkeypatch
):
    said = []
    monkeypatch.setattr(loop, "say", said.append)
    write_rows(Path("data/train.parquet"), chats)
    lengths = [len(row["prompt_ids"]) for row in questions(random_tiny_tokenizer, chats)]
    keys = {"max_length": sorted(lengths)[1] + 8, "max_new_tokens": 8}
    ppo = {"from": "base", "objective": "ppo", "data": "chats", "reward": {"function": "final_number"}} | keys
    kept = loop.read_questions(Namespace(data=Path("data")), spec("ppo", {"runs.ppo": ppo}), random_tiny_tokenizer)
    assert sorted(len(row["prompt_ids"]) for row in kept) == sorted(lengths)[:2]
    room = keys["max_length"] - 8
    assert said == [f"chats: 2 of 4 prompts are longer than {room} tokens, and left out"]
    ppo |= {"max_length": 12}
    with pytest.raises(
        UserError, match=r"every prompt is longer than max_length - max_new_tokens = 4 tokens; write a larger"
    ):
        loop.read_questions(Namespace(data=Path("data")), spec("ppo", {"runs.ppo": ppo}), random_tiny_tokenizer)


def test_what_a_reward_is_made_of_is_a_part_of_the_checkpoints_key(spec, in_folder):
    for name in ("dpo", "reward"):
        Path(f"results/{name}").mkdir(parents=True)
        Path(f"results/{name}/merge.json").touch()
    reward = {"from": "base", "objective": "reward", "data": "pairs"}
    rto = {
        "from": "sft",
        "objective": "ppo",
        "data": "chats",
        "reward": {"from": "dpo", "kind": "implicit", "sequence": "reward"},
    }
    changes = {"runs.reward": reward, "runs.rto": rto, "runs.dpo.from": "base"}
    options = Namespace(manifest=Path("results/sft/merge.json"), data=Path("data"))
    files = loop.judge_files(options, spec("rto", changes))
    judges = ["results/dpo/merge.json", "results/reward/merge.json", "results/bases/base/base.json"]
    assert [str(file) for file in files] == ["results/sft/merge.json", "data/train.parquet", *judges]
    ruled = spec("rto", changes | {"runs.rto": rto | {"reward": {"function": "final_number"}}})
    assert loop.judge_files(options, ruled) == files[:2]


# ---- checkpoints


@pytest.fixture
def work(tmp_path):
    """The stage's folder for a spec and an input."""

    def folder(spec: dict, content: str) -> Path:
        (tmp_path / "spec.json").write_text(json.dumps(spec))
        (tmp_path / "input").write_text(content)
        return loop.work_folder(Namespace(spec=tmp_path / "spec.json"), [tmp_path / "input"])

    return folder


def test_the_work_folder_is_keyed_by_the_spec_and_by_every_input(work):
    one = work({"precision": "fp32", "seed": 1}, "tokens")
    others = [
        ({"precision": "fp32", "seed": 2}, "tokens"),
        ({"precision": "fp32", "seed": 1}, "other"),
        ({"precision": "bf16", "seed": 1}, "tokens"),
    ]
    assert one.is_dir()
    assert one == work({"precision": "fp32", "seed": 1}, "tokens")
    assert len({one, *(work(*other) for other in others)}) == 4


def test_what_is_done_with_the_result_is_no_reason_to_train_again(work):
    spec = {"precision": "fp32", "method": "qlora"}
    assert work(spec | {"merge_into": "original"}, "x") == work(spec | {"merge_into": "dequantised"}, "x")


def test_precision_auto_is_keyed_by_what_this_machine_makes_of_it(work, monkeypatch):
    monkeypatch.setattr(loading, "precision", lambda wanted: "fp32")
    one = work({"precision": "auto"}, "tokens")
    monkeypatch.setattr(loading, "precision", lambda wanted: "bf16")
    assert work({"precision": "auto"}, "tokens") != one


# ---- the watch


@pytest.fixture
def watch(tmp_path, monkeypatch, signals):
    """A watch that saves every `seconds`, of a training on six rows, two a step."""

    def make(seconds: float = 3600) -> loop.Watch:
        monkeypatch.setenv("POSTTRAIN_TRACKING", json.dumps({"mlflow": False, "checkpoint_seconds": seconds}))
        return loop.Watch("sft", tmp_path, lambda step: ["a.csv:1", "a.csv:7"])

    return make


def step(watch, number: int = 1, last: int = 3) -> TrainerControl:
    """What the watch decides after a step."""
    control = TrainerControl()
    watch.on_step_end(None, TrainerState(global_step=number, max_steps=last), control)
    return control


def saved(watch, number: int = 1) -> TrainerControl:
    """What the watch decides after a checkpoint was written."""
    (watch.folder / f"checkpoint-{number}").mkdir()
    control = TrainerControl()
    watch.save_began = 0.0
    watch.on_save(None, TrainerState(global_step=number, max_steps=3), control)
    return control


@pytest.mark.parametrize("number", script.SIGNALS)
def test_a_signal_saves_and_stops_after_the_step_and_the_second_one_kills(watch, capsys, number):
    watching = watch()
    assert not step(watching).should_save
    os.kill(os.getpid(), number)
    assert watching.stopped_by == number
    control = step(watching)
    assert (control.should_save, control.should_training_stop) == (True, True)
    assert signal.getsignal(number) == signal.SIG_DFL
    with pytest.raises(SystemExit) as end:
        watching.leave()
    assert end.value.code == 128 + number


def test_before_the_first_step_there_is_nothing_to_save_and_a_signal_ends_the_stage_at_once(watch):
    script.on_signals(script.end_at_once)
    watch().on_train_begin(None, TrainerState(), TrainerControl())
    with pytest.raises(SystemExit) as end:
        os.kill(os.getpid(), signal.SIGTERM)
    assert end.value.code == 143


def test_a_signal_while_a_checkpoint_is_written_stops_after_it_without_another_step(watch):
    watching = watch(0)
    control = step(watching)
    assert (control.should_save, control.should_training_stop) == (True, False)
    os.kill(os.getpid(), signal.SIGUSR1)
    assert saved(watching).should_training_stop


def test_a_signal_after_the_last_step_waits_for_the_result(watch):
    watching = watch()
    step(watching, 3)
    os.kill(os.getpid(), signal.SIGTERM)
    watching.leave()
    assert watching.ended


def test_a_signal_that_is_ignored_stays_so(watch):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    step(watch())
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_after_a_training_that_failed_a_signal_ends_at_once_again(watch):
    watching = watch()
    step(watching)
    watching.leave()
    assert signal.getsignal(signal.SIGTERM) == script.end_at_once


def test_nothing_is_saved_after_the_last_step(watch):
    watching = watch(0)
    assert step(watching, 2).should_save
    assert not step(watching, 3).should_save


def test_a_checkpoint_is_due_after_its_seconds_and_saving_stays_below_a_twentieth(watch):
    watching = watch(10)
    assert not step(watching).should_save
    watching.saved -= 11
    assert step(watching).should_save
    watching.saving = 1.0  # a slow disk: 20 seconds apart at least
    assert not step(watching).should_save
    watching.saved -= 10
    assert step(watching).should_save


def log(watch, model=None, save: bool = False, **numbers) -> None:
    state = TrainerState(global_step=1, max_steps=3, log_history=[{"step": 1, **numbers}])
    watch.began, watch.first = 0.0, 0
    watch.on_log(None, state, TrainerControl(should_save=save), logs=numbers, model=model)


@pytest.mark.parametrize(
    ("numbers", "sentence"),
    [
        (
            {"loss": math.nan},
            "sft: the loss is nan at step 1 on the rows a.csv:1, a.csv:7; write a lower learning_rate, a",
        ),
        ({"loss": math.inf, "grad_norm": math.nan}, "sft: the loss is inf and the gradient's norm is nan at step 1"),
        ({"loss": 1.0, "grad_norm": math.inf}, "sft: the gradient's norm is inf at step 1"),
    ],
)
def test_a_loss_or_gradient_that_is_no_number_stops_the_run_with_one_sentence(watch, numbers, sentence):
    with pytest.raises(UserError, match=sentence):
        log(watch(), **numbers)


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_weights_that_are_no_numbers_are_not_saved(watch, number):
    model = torch.nn.Linear(2, 2)
    log(watch(), model, save=True, loss=1.0)
    model.bias.data[1] = number
    log(watch(), model, loss=1.0)  # the next step's loss says it
    with pytest.raises(UserError, match=r"sft: the weights are no longer finite at step 1 on the rows a.csv:1"):
        log(watch(), model, save=True, loss=1.0)
    watching = watch()
    step(watching, 3)
    with pytest.raises(UserError, match="no longer finite"):
        log(watching, model, loss=1.0)


def test_each_logged_step_is_a_line_of_train_jsonl(watch, tmp_path):
    log(watch(), loss=1.5, grad_norm=0.5, num_tokens=100)
    line = json.loads((tmp_path / "train.jsonl").read_text())
    assert (line["step"], line["loss"], line["num_tokens"]) == (1, 1.5, 100)
    assert line["memory_gib"] > 0
    assert line["seconds"] >= 0 and 0 <= line["cpu_percent"] <= 100


def test_the_seconds_go_on_where_a_killed_stage_stood(watch, tmp_path):
    watching = watch()
    state = TrainerState(global_step=5, log_history=[{"step": 5, "loss": 1.0, "seconds": 70.0}])
    watching.on_train_begin(None, state, None)
    assert (watching.before, watching.first) == (70.0, 5)


def test_the_history_keeps_the_steps_and_what_is_reported():
    lines = [
        {"step": 1, "loss": 2.0, "learning_rate": 0.1, "epoch": 0.5, "entropy": 0.0, "tokens_per_second": None},
        {"step": 1, "eval_loss": 1.9, "epoch": 0.5},
        {"step": 2, "loss": 0.0, "rewards/margins": 0.25, "memory_gib": 1.5, "entropy": 3.0},
        {"step": 2, "train_runtime": 9.0, "train_loss": 1.0},
    ]
    assert history(lines) == [
        {"step": 1, "loss": 2.0, "learning_rate": 0.1},
        {"step": 1, "eval_loss": 1.9},
        {"step": 2, "loss": 0.0, "rewards/margins": 0.25, "memory_gib": 1.5, "entropy": 3.0},
    ]


# ---- the result


def test_parameters_are_counted(random_tiny_model):
    total = sum(parameter.numel() for parameter in random_tiny_model.parameters())
    random_tiny_model.requires_grad_(False)
    random_tiny_model.lm_head.weight.requires_grad_(True)
    assert loop.trainable(random_tiny_model) == (384 * 32, total)


def test_the_finished_result_is_published_whole_without_pefts_empty_card(tmp_path):
    finished = tmp_path / "checkpoints/key/finished"
    for name in ("trained/weights", "trained/README.md", "train.jsonl", "train.json"):
        (finished / name).parent.mkdir(parents=True, exist_ok=True)
        (finished / name).write_text(name)
    for _ in range(2):  # and again, over the old
        loop.publish(Namespace(spec=tmp_path / "spec.json"), finished.parent)
        assert [path.name for path in (tmp_path / "trained").iterdir()] == ["weights"]
        assert (tmp_path / "train.json").samefile(finished / "train.json")
        assert (tmp_path / "train.jsonl").read_text() == "train.jsonl"
