"""Training on pairs of answers without a reference, by TRL's ORPO and CPO trainers."""

from argparse import Namespace
from functools import partial
from typing import Any

from posttrain.data.tokens import IGNORED
from posttrain.runtime.atomic import read_json


def train(options: Namespace, trainer: type, config: type, keys: tuple[str, ...]) -> None:
    """Run the training stage of ORPO or CPO.

    Args:
        options: of the stage's command line.
        trainer: TRL's trainer; it is given the tokens that it would compute itself.
        config: TRL's configuration for it.
        keys: the run's keys that are fields of the configuration by the same name.
    """
    from posttrain.models import loading, peft_methods
    from posttrain.training import held_out, loop

    class Prepared(trainer):
        def tokenize_row(self, feature: dict, model: Any = None) -> dict:
            return columns(feature)

    spec = read_json(options.spec)
    loop.check_shape(options.tokens / "report.json", spec)
    train, validation = options.tokens / "train.parquet", options.tokens / "validation.parquet"
    folder = loop.work_folder(options, [options.manifest, train])
    if not (folder / "finished").exists():
        read = partial(loop.read_tokens, columns=("id", "prompt_ids", "chosen_ids", "rejected_ids", "length"))
        rows = read(train)
        rows = loop.ordered(rows, spec, rows["length"])
        measured = held_out.rows(validation, spec, read)

        def build(spec: dict) -> Any:
            model = loop.load_parent(options.parent, spec)
            return Prepared(
                model=model,
                args=config(
                    **loop.trainer_arguments(spec, folder),
                    **{key: spec[key] for key in keys if key in spec},
                    max_length=spec["max_length"],
                    disable_dropout=not spec.get("dropout"),
                ),
                train_dataset=rows,
                eval_dataset=measured,
                processing_class=loading.tokenizer(options.parent),
                peft_config=peft_methods.adapter(spec, model, loop.steps(len(rows), spec["batch_size"])),
            )

        loop.fit(build, options, folder, spec)
    loop.publish(options, folder)


def columns(row: dict) -> dict:
    """A pair of token lists, `prompt_ids`, `chosen_ids` and `rejected_ids`, as those trainers' own `tokenize_row` returns it.

    Only an answer's tokens have a label; the prompt's are `IGNORED`.
    """
    prompt = row["prompt_ids"]
    columns = {"prompt_input_ids": prompt, "prompt_attention_mask": [1] * len(prompt)}
    for side in ("chosen", "rejected"):
        ids = prompt + row[f"{side}_ids"]
        columns |= {
            f"{side}_input_ids": ids,
            f"{side}_attention_mask": [1] * len(ids),
            f"{side}_labels": [IGNORED] * len(prompt) + row[f"{side}_ids"],
        }
    return columns
