"""GRPO (Shao et al. 2024), its variants and RLOO (Ahmadian et al. 2024): several completions of a prompt, each against the others.

Reads the run's spec, the parent's model, the dataset's rows, and the reward run's model where there is one; writes what
train_sft.py writes. TRL samples, with the model itself, and trains.

    python scripts/train_grpo.py --spec results/grpo_lora/spec.json --parent results/sft_lora/merged \
        --manifest results/sft_lora/merge.json --data results/data/snips
"""

from pathlib import Path

from posttrain.objectives import OBJECTIVES
from posttrain.runtime import processes
from posttrain.runtime.atomic import read_json
from posttrain.runtime.errors import UserError
from posttrain.runtime.script import arguments, on_policy, run


def main(options) -> None:
    from posttrain.compat import trl_trainers
    from posttrain.data import tokens
    from posttrain.inference import environments, episodes, media, positions
    from posttrain.models import loading, peft_methods
    from posttrain.models.processors import processor
    from posttrain.training import inputs, loop, sampled

    def files(spec):
        inputs.check_dataset_type(options.data / "data.json", spec["objective"], spec["data"]["name"])
        return inputs.reward_files(options, spec)

    def prepare(spec, folder):
        tokenizer = loading.tokenizer(options.parent)
        acts = environments.Environment(spec["environment"]) if "environment" in spec else None
        prompts = inputs.read_prompts(options, spec, tokenizer, acts and acts.schemas)
        rows, steps = schedule(prompts, spec)
        stops = tokens.stops(options.parent, tokenizer)
        name, package = spec["objective"], OBJECTIVES[spec["objective"]].trl_package
        trainer, config = trl_trainers.prepared_sampler(name, package), trl_trainers.config_of(name, package)
        if "files" in prompts[0]:
            check_text_only(spec)
            placeholders = sorted(processor(options.parent).placeholders)
            trainer = trl_trainers.media_sampler(name, package, media.inputs, placeholders)
        rewards = reward_functions(options, spec, tokenizer, stops)
        if acts:
            player = episodes.Player(acts, tokenizer, stops, environments.limits(spec), spec["seed"])
            trainer = trl_trainers.agent_sampler(played(player, spec))

        def build(spec):
            model = inputs.load_parent(options.parent, spec)
            inputs.check_positions(model, prompts, spec)
            positions.from_mask(model)
            made = trainer(
                model=model,
                args=config(**settings(spec, folder, steps)),
                reward_funcs=rewards,
                train_dataset=rows,
                processing_class=tokenizer,
                peft_config=peft_methods.peft_config(spec, model, steps),
            )
            if made.ref_model is not None:
                positions.from_mask(made.ref_model)
            if spec.get("minibatches", 1) > 1:
                made.add_callback(sampled.KeepRollout(made))
            return made

        return build

    loop.run(options, files, prepare)
    if not processes.is_main():
        return
    run_folder = options.spec.parent
    sampled.tell_truncated(run_folder.name, run_folder / "train.jsonl", read_json(options.spec))


def check_text_only(spec):
    """Refuse what reads text only, where prompts are about files.

    Raises:
        UserError: the run has an environment, or its reward comes from a model.
    """
    names = {"environment": "environment" in spec, "reward.from": "from" in spec.get("reward", {})}
    if place := next((name for name, has in names.items() if has), None):
        problem = "it reads text only, and the prompts are about pictures or sounds"
        raise UserError("unsupported-setting", place, problem, "write reward: {function: NAME}")


def reward_functions(options, spec, tokenizer, stops):
    """The environment's reward and that of `reward`, as TRL calls them, where the run has them."""
    from posttrain.inference import reward_models
    from posttrain.training import inputs

    functions = [environment] if "environment" in spec else []
    if "reward" in spec:
        score = reward_models.reward_function(spec["reward"], tokenizer, stops, inputs.reward_folders(options))

        def reward(prompts, completion_ids, reference, **_):
            columns = zip(prompts, reference, strict=True)
            return score([{"prompt_ids": ids, "reference": text} for ids, text in columns], completion_ids)

        functions.append(reward)
    return functions


def environment(prompts, environment_reward, **_):
    """The rewards that the environment has given; TRL logs them under this function's name."""
    return environment_reward


def played(player, spec):
    """What TRL trains on of the episodes of rows, see `trl_trainers.agent_sampler`."""
    import json

    longest = spec["max_length"] - spec["max_new_tokens"]

    def play(trainer, rows):
        first = processes.rank() * len(rows)  # completions of one prompt stand side by side
        numbers = [(first + i) % spec["generations"] for i in range(len(rows))]
        tasks = [row | {"turns": json.loads(row["turns"])} for row in rows]
        done = player.play(tasks, numbers, trainer.continued, spec["max_new_tokens"], longest)
        return {
            "prompt_ids": [one.prompt for one in done],
            "completion_ids": [one.ids for one in done],
            "env_mask": [one.mask for one in done],
            "environment_reward": [one.reward for one in done],
        }

    return play


def schedule(prompts, spec):
    """The prompts in the order of training, as TRL takes them, and the number of optimiser steps."""
    import json

    from datasets import Dataset

    from posttrain.training import inputs

    size = spec["batch_size"] // spec["generations"]  # prompts of a rollout
    passes = spec.get("minibatches", 1)  # optimiser steps over the completions of those prompts
    rollouts = max(1, round(len(prompts) * spec["epochs"] / size))  # TRL drops a part of one
    steps = spec["max_steps"] or passes * rollouts
    columns = {"id": "id", "prompt": "prompt_ids", "reference": "reference"}
    listed = [{name: row[key] for name, key in columns.items()} for row in prompts]
    for entry, row in zip(listed, prompts, strict=True):
        entry |= {"turns": json.dumps(row["turns"]), "task": row["task"]} if "task" in row else {}
        entry |= {"files": list(map(list, row["files"]))} if "files" in row else {}
    table = Dataset.from_list(listed)
    return inputs.ordered(table, spec | {"max_steps": -(-steps // passes)}, [1] * len(prompts), size), steps


def settings(spec, folder, steps):
    """The fields of TRL's configuration, for a training of so many optimiser steps."""
    from posttrain.training import losses
    from posttrain.training.arguments import trainer_arguments

    passes = spec.get("minibatches", 1)
    fields = losses.trainer_fields(spec)
    fields |= trainer_arguments(spec | {"batch_size": spec["batch_size"] // passes}, folder)
    fields |= {"loss_type": spec["loss_type"]} if OBJECTIVES[spec["objective"]].loss_types else {}
    fields |= {"max_steps": steps} if passes > 1 else {}  # the last rollout may not be used up
    return fields | {
        "steps_per_generation": passes * spec["accumulation"],
        "beta": spec["beta"],
        "num_generations": spec["generations"],
        "max_completion_length": spec["max_new_tokens"],
        "temperature": spec["temperature"],
        "shuffle_dataset": False,
        "disable_dropout": not spec.get("dropout"),
    }


if __name__ == "__main__":
    run(on_policy(arguments(__doc__, spec=Path, parent=Path, manifest=Path, data=Path)), main, processes=True)
