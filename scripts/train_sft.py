"""Supervised fine-tuning: train a model on what the assistant says.

Reads the run's spec, the parent's model and tokens; writes `trained/`, train.jsonl (one line a step) and train.json
beside the spec.

    python scripts/train_sft.py --spec results/sft_lora/spec.json --parent results/bases/smollm2/model \
        --manifest results/bases/smollm2/base.json --tokens results/tokens/smollm2/snips,max_length=1024
"""

from functools import partial
from pathlib import Path

from posttrain.runtime.errors import UserError
from posttrain.runtime.script import arguments, held_out_rows, run


def main(options) -> None:
    from trl import SFTConfig

    from posttrain.compat.trl_trainers import counting_sft
    from posttrain.data import packing
    from posttrain.models import loading, peft_methods
    from posttrain.training import held_out, inputs, loop, media_collator
    from posttrain.training.arguments import steps, trainer_arguments

    trainer = counting_sft()
    train, validation = options.tokens / "train.parquet", options.tokens / "validation.parquet"

    def files(spec):
        inputs.check_dataset_type(options.tokens / "report.json", spec["objective"], spec["data"]["name"])
        return [options.manifest, train]

    def prepare(spec, folder):
        media = media_collator.columns(options.tokens)
        rows = media_collator.renamed(training_rows(train, spec, media), media)
        read = partial(inputs.read_tokens, columns=("id", "input_ids", "labels", *media))
        measured = media_collator.renamed(held_out.rows(validation, spec, read), media)

        def build(spec):
            model, given = inputs.load_parent(options.parent, spec), trainer_arguments(spec, folder)
            tokenizer, collator = loading.tokenizer(options.parent), None
            if spec.get("packing"):
                packing.check(model)
                collator = None if given.get("padding_free") else packing.Collator(tokenizer.pad_token_id)
            if media:
                given |= {"remove_unused_columns": False, "padding_free": False}
                collator = media_collator.for_sft(options, tokenizer, media)
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


def training_rows(tokens: Path, spec, media: tuple[str, ...] = ()):
    """The rows in the order of training, packed where the spec says so, each with the number of its trained tokens.

    Args:
        media: columns of the files that rows are about.

    Raises:
        UserError: such rows are to be packed.
    """
    from posttrain.data import packing
    from posttrain.data.row_order import trained_tokens
    from posttrain.training import inputs

    rows = inputs.read_tokens(tokens, ("id", "input_ids", "labels", "length", *media))
    if media and spec.get("packing"):
        raise UserError(
            "unsupported-setting",
            f"dataset {spec['data']['name']}",
            f"packing: rows with {' and '.join(media)} are not packed",
            "take packing out",
        )
    if spec.get("packing"):
        rows = packing.packed(rows, spec["max_length"])
        return inputs.ordered(rows, spec, [1] * len(rows))
    rows = rows.add_column("trained", trained_tokens(rows.data["labels"]))
    return inputs.ordered(rows, spec, rows["length"]).remove_columns("length")


if __name__ == "__main__":
    run(held_out_rows(arguments(__doc__, spec=Path, parent=Path, manifest=Path, tokens=Path)), main, processes=True)
