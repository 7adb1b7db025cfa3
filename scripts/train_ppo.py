"""Proximal policy optimisation: RLHF with a reward model, RTO with a DPO run's implicit reward, or a rule.

Reads the run's spec, the parent's model, the dataset's rows and the judges' adapters or models; writes what train_sft.py
writes. The algorithm is posttrain/training/ppo.py.

    python scripts/train_ppo.py --spec results/ppo_lora/spec.json --parent results/sft_lora/merged \
        --manifest results/sft_lora/merge.json --data results/data/snips
"""

from pathlib import Path

from posttrain.runtime.atomic import read_json
from posttrain.runtime.script import arguments, held_out_rows, run


def main(options) -> None:
    from datasets import Dataset
    from transformers import TrainingArguments

    from posttrain.inference import rollout
    from posttrain.models import loading
    from posttrain.training import loop, ppo

    spec = read_json(options.spec)
    loop.check_shape(options.data / "data.json", spec)
    folder = loop.work_folder(options, loop.judge_files(options, spec))
    if not (folder / "finished").exists():
        tokenizer = loading.tokenizer(options.parent)
        asked = loop.read_questions(options, spec, tokenizer)
        rollouts, rows = ppo.schedule(len(asked), spec)
        rows = [row | {"id": asked[rollouts[row["rollout"]][row["slot"]]]["id"]} for row in rows]
        step = spec["batch_size"] // spec["minibatches"]

        def build(spec):
            net = ppo.ActorCritic(options.parent, spec)
            loop.check_positions(rollout.causal(net.policy), asked, spec)
            return ppo.PPOTrainer(
                spec=spec,
                questions=[[asked[i] for i in rollout] for rollout in rollouts],
                judges=ppo.Judges(net, spec, tokenizer),
                model=net,
                args=TrainingArguments(
                    **loop.trainer_arguments(spec | {"batch_size": step}, folder), remove_unused_columns=False
                ),
                train_dataset=Dataset.from_list(rows),
                data_collator=ppo.collate,
                processing_class=tokenizer,
            )

        loop.fit(build, options, folder, spec)
    loop.publish(options, folder)


if __name__ == "__main__":
    run(held_out_rows(arguments(__doc__, spec=Path, parent=Path, manifest=Path, data=Path)), main)
