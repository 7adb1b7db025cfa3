"""GRPO in an environment on a real trainer: what is trained, what is logged, and a kill in the middle of a rollout."""

import json
import shutil
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from conftest import write_rows
from killed import Killed, saving

import train_grpo
from posttrain.compat import trl_trainers
from posttrain.runtime import atomic, hashes
from posttrain.workflow.project import Project

HERMES = Path(__file__).resolve().parents[3] / "scripts/posttrain/models/templates/hermes.jinja"
CALL = '<tool_call>\n{"name": "calculate", "arguments": {"expression": "3 * 4"}}\n</tool_call>'
SAID = [CALL, "12", CALL.replace("4", "5"), "15"]


@pytest.fixture
def parent(random_tiny_folder, tmp_path_factory) -> Path:
    """The random tiny model with a template that shows tools."""
    folder = shutil.copytree(random_tiny_folder, tmp_path_factory.mktemp("with_tools") / "model")
    (folder / "chat_template.jinja").write_text(HERMES.read_text())
    return folder


@pytest.fixture
def train(in_folder, fp32, signals, configuration, parent, monkeypatch):
    """Train a run in the calculator by its script. What a random model samples, calls nothing: it chooses among a few texts instead.

    Returns the hashes of what was trained, and the batches that the loss was computed of.
    """
    real = trl_trainers.agent_sampler
    seen = []

    def scripted(play):
        class Scripted(real(play)):
            def continued(self, texts, room):
                sampled = super().continued(texts, 1)
                tokenizer = self.processing_class
                said = [tokenizer(SAID[ids[0] % len(SAID)], add_special_tokens=False)["input_ids"] for ids in sampled]
                return [[*ids, tokenizer.eos_token_id] for ids in said]

            def _compute_loss(self, model, inputs):
                loss = super()._compute_loss(model, inputs)
                seen.append({key: value.clone() for key, value in inputs.items() if isinstance(value, torch.Tensor)})
                seen[-1]["loss"] = loss.detach()
                return loss

        return Scripted

    monkeypatch.setattr(trl_trainers, "agent_sampler", scripted)

    def run(**keys) -> tuple[dict[str, str], list[dict]]:
        tasks = [{"answer": answer} for answer in (12, 15, 3)]
        rows = [
            {"id": f"{i}", "place": "", "prompt": [{"role": "user", "content": "Compute."}], "task": json.dumps(task)}
            for i, task in enumerate(tasks)
        ]
        write_rows(Path("data/train.parquet"), rows, "tasks")
        atomic.write_json(Path("data/data.json"), {"shape": "tasks"})
        atomic.write_json(Path("base.json"), {})
        table = {"from": "base", "objective": "grpo", "data": "chats", "batch_size": 8, "num_generations": 4}
        table |= {"environment": "calculator", "max_new_tokens": 200, "max_steps": 4, "max_turns": 3, "method": "full"}
        table |= {"warmup_ratio": 0, "learning_rate": 1e-2, "max_length": 1024} | keys
        spec = Path("results/grpo/spec.json")
        spec.parent.mkdir(parents=True, exist_ok=True)
        values = configuration({"runs": {"grpo": table}, "sweeps": {}, "datasets.chats.format": ...})
        spec.write_text(Project(values).spec("grpo"))
        seen.clear()
        paths = {"parent": parent, "manifest": Path("base.json"), "data": Path("data"), "reward_models": []}
        train_grpo.main(Namespace(spec=spec, **paths))
        return hashes.folder_hashes(Path("results/grpo/trained")), list(seen)

    return run


def test_results_of_tools_are_in_the_batch_and_not_in_the_loss(train, random_tiny_tokenizer):
    _, batches = train(loss_type="dapo", trainer_args={"scale_rewards": "none"})
    with_results = 0
    for batch in batches:
        ours = batch["completion_mask"] * batch["tool_mask"]
        for ids, mask, tool in zip(batch["completion_ids"], batch["completion_mask"], batch["tool_mask"], strict=True):
            results = random_tiny_tokenizer.decode(ids[(mask == 1) & (tool == 0)])
            written = random_tiny_tokenizer.decode(ids[(mask == 1) & (tool == 1)])
            assert "tool_response" not in written
            assert results.count("<tool_response>") == results.count("</tool_response>")
            with_results += "<tool_response>" in results
        # On policy the ratio of probabilities is 1: the loss is minus the mean advantage of the trained tokens.
        expected = -(batch["advantages"][:, None] * ours).sum() / ours.sum()
        assert batch["loss"].item() == pytest.approx(expected.item(), abs=1e-5)
        with_all = -(batch["advantages"][:, None] * batch["completion_mask"]).sum() / batch["completion_mask"].sum()
        batch["differs"] = abs(with_all - expected).item()
    assert with_results > 5 and max(batch["differs"] for batch in batches) > 1e-3
    lines = [json.loads(line) for line in Path("results/grpo/train.jsonl").read_text().splitlines()]
    assert 0 < max(line["reward"] for line in lines) <= 1


def test_killed_in_a_rollout_it_ends_with_the_same_bits(train, monkeypatch):
    straight, _ = train(num_mini_batches=2)
    shutil.rmtree("results/grpo/checkpoints")
    scripted = trl_trainers.agent_sampler

    def dying(play):
        rollouts = []

        def killed_in_the_second(trainer, rows):
            rollouts.append(rows)
            if len(rollouts) == 2:
                trainer.continued([[1]], 1)  # in the middle of an episode
                raise Killed
            return play(trainer, rows)

        return scripted(killed_in_the_second)

    patch = saving(1, 2)
    try:
        with monkeypatch.context() as context, pytest.raises(Killed):
            context.setattr(trl_trainers, "agent_sampler", dying)
            train(num_mini_batches=2)
    finally:
        patch.undo()
    assert list(Path("results/grpo/checkpoints").glob("*/checkpoint-2"))
    again, _ = train(num_mini_batches=2)
    assert again == straight


def test_trl_has_no_loss_of_its_own_for_ligers_kernels_which_could_forget_the_mask():
    """Liger's GRPO loss took no mask of tools (trl#4975). The installed TRL computes the one loss, which does, with and without Liger."""
    from trl import GRPOTrainer

    assert not hasattr(GRPOTrainer, "compute_liger_loss")
