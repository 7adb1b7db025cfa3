"""PPO (Schulman et al. 2017): RLHF with a reward model (Ouyang et al. 2022), RTO with a DPO run's implicit reward, or a rule.

Reads the run's spec, the parent's model, the dataset's rows and the reward models; writes what train_sft.py writes. The algorithm
is in posttrain/training/ppo/.

    python scripts/train_ppo.py --spec results/ppo_lora/spec.json --parent results/sft_lora/merged \
        --manifest results/sft_lora/merge.json --data results/data/snips
"""

from pathlib import Path

from posttrain.runtime.script import arguments, on_policy, run


def main(options) -> None:
    from datasets import Dataset
    from transformers import TrainingArguments

    from posttrain.inference import rollout
    from posttrain.models import loading
    from posttrain.training import inputs, loop
    from posttrain.training.arguments import trainer_arguments
    from posttrain.training.ppo.actor_critic import ActorCritic
    from posttrain.training.ppo.rewards import Rewards
    from posttrain.training.ppo.schedule import collate, schedule
    from posttrain.training.ppo.trainer import PPOTrainer

    def files(spec):
        inputs.check_dataset_type(options.data / "data.json", spec["objective"], spec["data"]["name"])
        return inputs.reward_files(options, spec)

    def prepare(spec, folder):
        tokenizer = loading.tokenizer(options.parent)
        prompts = inputs.read_prompts(options, spec, tokenizer)
        rollouts, rows = schedule(len(prompts), spec)
        rows = [row | {"id": prompts[rollouts[row["rollout"]][row["slot"]]]["id"]} for row in rows]
        step = spec["batch_size"] // spec["minibatches"]

        def build(spec):
            net = ActorCritic(options.parent, spec)
            inputs.check_positions(rollout.causal(net.policy), prompts, spec)
            return PPOTrainer(
                spec=spec,
                prompts=[[prompts[i] for i in rollout] for rollout in rollouts],
                rewards=Rewards(net, spec, tokenizer, inputs.reward_folders(options)),
                model=net,
                args=TrainingArguments(
                    **trainer_arguments(spec | {"batch_size": step}, folder), remove_unused_columns=False
                ),
                train_dataset=Dataset.from_list(rows),
                data_collator=collate,
                processing_class=tokenizer,
            )

        return build

    loop.run(options, files, prepare)


if __name__ == "__main__":
    run(on_policy(arguments(__doc__, spec=Path, parent=Path, manifest=Path, data=Path)), main, processes=True)
