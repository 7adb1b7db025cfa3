"""Supervised fine-tuning: train a model on what the assistant says.

Reads the run's spec, the parent's model and tokens; writes `trained/`, train.jsonl (one line a step) and train.json
beside the spec.

    python scripts/train_sft.py --spec results/sft_lora/spec.json --parent results/bases/smollm2/model \
        --manifest results/bases/smollm2/base.json --tokens results/tokens/smollm2/snips,max_length=1024
"""

from functools import partial
from pathlib import Path

from posttrain.runtime.atomic import read_json
from posttrain.runtime.script import arguments, held_out_rows, run


def main(options) -> None:
    from trl import SFTConfig, SFTTrainer

    from posttrain.data import packing
    from posttrain.data.row_order import trained_tokens
    from posttrain.models import loading, peft_methods
    from posttrain.training import held_out, loop

    class PreparedSFTTrainer(SFTTrainer):
        """TRL's trainer, which takes the width of a batch without an attention mask for the number of its tokens."""

        def compute_loss(self, model, inputs, *args, **kwargs):
            tokens, before = inputs.pop("tokens", None), self._total_train_tokens
            loss = super().compute_loss(model, inputs, *args, **kwargs)
            if tokens and self.model.training:
                self._total_train_tokens = before + tokens
                self._metrics["train"]["num_tokens"] = [self._total_train_tokens]
            return loss

    spec = read_json(options.spec)
    loop.check_shape(options.tokens / "report.json", spec)
    train, validation = options.tokens / "train.parquet", options.tokens / "validation.parquet"
    folder = loop.work_folder(options, [options.manifest, train])
    if not (folder / "finished").exists():
        rows = loop.read_tokens(train, ("id", "input_ids", "labels", "length"))
        if spec.get("packing"):
            rows = packing.packed(rows, spec["max_length"])
            rows = loop.ordered(rows, spec, [1] * len(rows))
        else:
            rows = rows.add_column("trained", trained_tokens(rows.data["labels"]))
            rows = loop.ordered(rows, spec, rows["length"]).remove_columns("length")
        read = partial(loop.read_tokens, columns=("id", "input_ids", "labels"))
        measured = held_out.rows(validation, spec, read)

        def build(spec):
            model, given = loop.load_parent(options.parent, spec), loop.trainer_arguments(spec, folder)
            tokenizer, collator = loading.tokenizer(options.parent), None
            if spec.get("packing"):
                packing.check(model)
                collator = None if given.get("padding_free") else packing.Collator(tokenizer.pad_token_id)
            return PreparedSFTTrainer(
                model=model,
                # The rows are cut already, and TRL takes no length beside padding_free.
                args=SFTConfig(**given, max_length=None, loss_type=spec["loss_type"]),
                data_collator=collator,
                train_dataset=rows,
                eval_dataset=measured,
                processing_class=tokenizer,
                peft_config=peft_methods.adapter(spec, model, loop.steps(len(rows), spec["batch_size"])),
            )

        loop.fit(build, options, folder, spec)
    loop.publish(options, folder)


if __name__ == "__main__":
    run(held_out_rows(arguments(__doc__, spec=Path, parent=Path, manifest=Path, tokens=Path)), main)
