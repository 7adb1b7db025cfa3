"""Training on preferences by one of TRL's trainers: the stage that dpo, kto, orpo, cpo and reward share, and classify with them."""

from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from posttrain.models import loading, peft_methods
from posttrain.training import held_out, inputs, loop, media_collator
from posttrain.training.arguments import steps, trainer_arguments

PAIRS = ("prompt_ids", "chosen_ids", "rejected_ids")


def read_pairs(file: Path) -> Any:
    """Rows of preference tokens, with the length by which they are ordered, and the files that they are about."""
    media = media_collator.columns(file.parent)
    return media_collator.renamed(inputs.read_tokens(file, ("id", *PAIRS, "length", *media)), media)


def train(
    options: Namespace,
    trainer: type,
    config: type,
    keys: tuple[str, ...] = (),
    *,
    read: Callable[[Path], Any] = read_pairs,
    given: Callable[[Any, Any, dict], Any] | None = None,
    files: tuple[Path, ...] = (),
    classes: Sequence[str] = (),
    **fields: Any,
) -> None:
    """Run the training stage of a preference objective.

    Args:
        options: of the stage's command line.
        trainer: TRL's trainer, as it takes the rows that it is given.
        config: TRL's configuration of it.
        keys: the run's keys that are fields of the configuration by the same name; one that is not in the spec is left out.
        read: reads a Parquet file of tokens as a dataset with the columns `id` and `length` beside what the trainer takes.
        given: changes a dataset before the trainer gets it, by the model and the spec of an attempt.
        files: what the stage reads beside its spec, manifest and tokens.
        classes: of a classifier, its labels.
        fields: of the configuration, the same for every run.
    """
    train_file, validation = options.tokens / "train.parquet", options.tokens / "validation.parquet"
    given = given or (lambda rows, model, spec: rows)

    def read_files(spec: dict) -> list[Path]:
        inputs.check_dataset_type(options.tokens / "report.json", spec["objective"], spec["data"]["name"])
        return [options.manifest, train_file, *files]

    def prepare(spec: dict, folder: Path) -> Callable[[dict], Any]:
        rows = read(train_file)
        rows = inputs.ordered(rows, spec, rows["length"]).remove_columns("length")
        measured = held_out.rows(validation, spec, read)
        measured = measured and measured.remove_columns("length")

        def build(spec: dict) -> Any:
            model, tokenizer = inputs.load_parent(options.parent, spec, classes), loading.tokenizer(options.parent)
            return trainer(
                model=model,
                args=config(
                    **trainer_arguments(spec, folder),
                    **media_collator.arguments(options),
                    **{key: spec[key] for key in keys if key in spec},
                    **fields,
                    max_length=spec["max_length"],
                    disable_dropout=not spec.get("dropout"),
                ),
                train_dataset=given(rows, model, spec),
                eval_dataset=measured and given(measured, model, spec),
                processing_class=tokenizer,
                data_collator=media_collator.for_pairs(options, tokenizer),
                peft_config=peft_methods.peft_config(spec, model, steps(len(rows), spec["batch_size"])),
            )

        return build

    loop.run(options, read_files, prepare)
