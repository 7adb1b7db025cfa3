"""Supervised fine-tuning: train a model on what the assistant says.

Reads the run's spec, the parent's model and tokens; writes `trained/`, train.jsonl (one line a step) and train.json
beside the spec.

    python scripts/train_sft.py --spec results/sft_lora/spec.json --parent results/bases/smollm2/model \
        --manifest results/bases/smollm2/base.json --tokens results/tokens/smollm2/snips,max_length=1024
"""

from functools import partial
from pathlib import Path

from posttrain.runtime.script import arguments, held_out_rows, run


def main(options) -> None:
    from trl import SFTConfig

    from posttrain.compat.trl_trainers import counting_sft
    from posttrain.data import packing
    from posttrain.models import loading, peft_methods
    from posttrain.training import held_out, inputs, loop
    from posttrain.training.arguments import steps, trainer_arguments

    trainer = counting_sft()
    train, validation = options.tokens / "train.parquet", options.tokens / "validation.parquet"

    def files(spec):
        inputs.check_dataset_type(options.tokens / "report.json", spec["objective"], spec["data"]["name"])
        return [options.manifest, train]

    def prepare(spec, folder):
        rows = training_rows(train, spec)
        read = partial(inputs.read_tokens, columns=("id", "input_ids", "labels"))
        measured = held_out.rows(validation, spec, read)

        def build(spec):
            model, given = inputs.load_parent(options.parent, spec), trainer_arguments(spec, folder)
            tokenizer, collator = loading.tokenizer(options.parent), None
            if spec.get("packing"):
                packing.check(model)
                collator = None if given.get("padding_free") else packing.Collator(tokenizer.pad_token_id)
            return trainer(
                model=model,
                # The rows are truncated already, and TRL takes no length beside padding_free.
                args=SFTConfig(**given, max_length=None, loss_type=spec.get("loss_type", "nll")),
                data_collator=collator,
                train_dataset=rows,
                eval_dataset=measured,
                processing_class=tokenizer,
                peft_config=peft_methods.peft_config(spec, model, steps(len(rows), spec["batch_size"])),
            )

        return build

    loop.run(options, files, prepare)


def training_rows(tokens: Path, spec):
    """The rows in the order of training, packed where the spec says so, each with the number of its trained tokens."""
    from posttrain.data import packing
    from posttrain.data.row_order import trained_tokens
    from posttrain.training import inputs

    rows = inputs.read_tokens(tokens, ("id", "input_ids", "labels", "length"))
    if spec.get("packing"):
        rows = packing.packed(rows, spec["max_length"])
        return inputs.ordered(rows, spec, [1] * len(rows))
    rows = rows.add_column("trained", trained_tokens(rows.data["labels"]))
    return inputs.ordered(rows, spec, rows["length"]).remove_columns("length")


if __name__ == "__main__":
    run(held_out_rows(arguments(__doc__, spec=Path, parent=Path, manifest=Path, tokens=Path)), main, processes=True)
