"""GRPO (Shao et al. 2024), its variants and RLOO (Ahmadian et al. 2024): several answers to a prompt, each against the others.

Reads the run's spec, the parent's model, the dataset's rows, and the reward run's model where there is one; writes what
train_sft.py writes. TRL samples, with the model itself, and trains.

    python scripts/train_grpo.py --spec results/grpo_lora/spec.json --parent results/sft_lora/merged \
        --manifest results/sft_lora/merge.json --data results/data/snips
"""

from pathlib import Path

from posttrain.runtime.atomic import read_json
from posttrain.runtime.script import arguments, held_out_rows, run


def main(options) -> None:
    import trl
    from datasets import Dataset

    from posttrain.data import tokens
    from posttrain.inference import positions, reward_models
    from posttrain.models import loading, peft_methods
    from posttrain.training import loop, sampled

    spec = read_json(options.spec)
    loop.check_shape(options.data / "data.json", spec)
    folder = loop.work_folder(options, loop.judge_files(options, spec))
    if not (folder / "finished").exists():
        tokenizer = loading.tokenizer(options.parent)
        asked = loop.read_questions(options, spec, tokenizer)
        prompts = spec["batch_size"] // spec["generations"]
        passes = spec.get("minibatches", 1)  # optimiser steps over the answers to those prompts
        rollouts = max(1, round(len(asked) * spec["epochs"] / prompts))  # TRL drops a part of one
        steps = spec["max_steps"] or passes * rollouts
        columns = {"id": "id", "prompt": "prompt_ids", "reference": "reference"}
        table = Dataset.from_list([{name: row[key] for name, key in columns.items()} for row in asked])
        rows = loop.ordered(table, spec | {"max_steps": -(-steps // passes)}, [1] * len(asked), prompts)
        judge = reward_models.judge(spec["reward"], tokenizer, tokens.stops(options.parent, tokenizer))

        def reward(prompts, completion_ids, reference, **_):
            columns = zip(prompts, reference, strict=True)
            return judge([{"prompt_ids": ids, "reference": text} for ids, text in columns], completion_ids)

        name = spec["objective"].upper()

        class PreparedTrainer(getattr(trl, f"{name}Trainer")):
            """TRL's trainer, given the tokens that it would compute itself."""

            def _tokenize_prompts(self, prompts):
                return prompts, None, {}

        def build(spec):
            model = loop.load_parent(options.parent, spec)
            loop.check_positions(model, asked, spec)
            positions.from_mask(model)
            trainer = PreparedTrainer(
                model=model,
                args=getattr(trl, f"{name}Config")(**settings(spec, folder, steps)),
                reward_funcs=reward,
                train_dataset=rows,
                processing_class=tokenizer,
                peft_config=peft_methods.adapter(spec, model, steps),
            )
            if trainer.ref_model is not None:
                positions.from_mask(trainer.ref_model)
            if passes > 1:
                trainer.add_callback(sampled.KeepAnswers(trainer))
            return trainer

        loop.fit(build, options, folder, spec)
    sampled.say_what_was_left_out(options.spec.parent.name, folder / "finished/train.jsonl", spec)
    loop.publish(options, folder)


def settings(spec, folder, steps):
    """The fields of TRL's configuration, for a training of so many optimiser steps."""
    from posttrain.training import loop, losses

    passes = spec.get("minibatches", 1)
    given = losses.trainer_fields(spec)
    given |= loop.trainer_arguments(spec | {"batch_size": spec["batch_size"] // passes}, folder)
    given |= {"loss_type": spec["loss_type"]} if spec["objective"] == "grpo" else {}
    given |= {"max_steps": steps} if passes > 1 else {}  # the last rollout may not be used up
    return given | {
        "steps_per_generation": passes * spec["accumulation"],
        "beta": spec["beta"],
        "num_generations": spec["generations"],
        "max_completion_length": spec["max_new_tokens"],
        "temperature": spec["temperature"],
        "shuffle_dataset": False,
        "disable_dropout": not spec.get("dropout"),
    }


if __name__ == "__main__":
    run(held_out_rows(arguments(__doc__, spec=Path, parent=Path, manifest=Path, data=Path)), main)
