"""Text classification: tell the class of a text, by a head in the place of the LM head.

The loss is the cross-entropy of the classes; the head reads the text's last token. The classes are the labels of the training rows in
their sorted order, and stand in the model's config.json. Reads and writes what train_sft.py does.

    python scripts/train_classify.py --spec results/intents_lora/spec.json --parent results/bases/smollm2/model \
        --manifest results/bases/smollm2/base.json --tokens results/tokens/smollm2/intents,max_length=1024
"""

from functools import partial
from pathlib import Path

from posttrain.runtime.errors import UserError
from posttrain.runtime.script import arguments, held_out_rows, run


def main(options) -> None:
    from trl import RewardConfig

    from posttrain.compat.trl_trainers import classifier
    from posttrain.data.tokens import classes
    from posttrain.training import preference_stage

    labels = classes(options.tokens / "report.json")
    if len(labels) == 1:
        name = options.tokens.name.partition(",")[0]
        raise UserError("one-class", f"dataset {name}", f"all rows have the label '{labels[0]}'", "add rows of another")
    read = partial(numbered_rows, labels=labels)
    preference_stage.train(options, classifier(), RewardConfig, read=read, classes=labels)


def numbered_rows(tokens: Path, labels: list[str]):
    """Texts with the number of their class.

    Raises:
        UserError: a row has a label that no training row has.
    """
    from posttrain.data.tokens import unknown_class
    from posttrain.training import inputs

    rows = inputs.read_tokens(tokens, ("id", "input_ids", "label", "length"))
    numbers = {label: number for number, label in enumerate(labels)}
    if unknown := set(rows["label"]) - numbers.keys():
        raise unknown_class(min(unknown), labels, tokens.parent.name.partition(",")[0])
    return rows.remove_columns("label").add_column("labels", [numbers[label] for label in rows["label"]])


if __name__ == "__main__":
    run(held_out_rows(arguments(__doc__, spec=Path, parent=Path, manifest=Path, tokens=Path)), main, processes=True)
