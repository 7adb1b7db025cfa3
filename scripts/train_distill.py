"""Distillation (Hinton et al. 2015; Agarwal et al. 2024): learn to predict what a teacher predicts.

Reads the run's spec, the parent's model, tokens, and the teacher's model or what compute_topk.py stored of it; writes what train_sft.py
writes.

    python scripts/train_distill.py --spec results/distill_lora/spec.json --parent results/bases/small/model \
        --manifest results/bases/small/base.json --teacher results/sft_lora/merged \
        --teacher-manifest results/sft_lora/merge.json --tokens results/tokens/small/snips,max_length=1024
"""

from functools import partial
from pathlib import Path

from posttrain.runtime.errors import UserError
from posttrain.runtime.script import arguments, held_out_rows, run

TOKENS = ("id", "input_ids", "labels")
STORED = ("ids", "log_probs", "rest")
COMPARED = 100  # rows whose text both tokenizers read


def main(options) -> None:
    from trl import SFTConfig

    from posttrain.inference import scoring
    from posttrain.models import loading, peft_methods
    from posttrain.training import distillation, held_out, inputs, loop
    from posttrain.training.arguments import steps, trainer_arguments

    train, validation = options.tokens / "train.parquet", options.tokens / "validation.parquet"
    stored = [Path(options.topk) / f"{split}.parquet" for split in ("train", "validation")] if options.topk else []

    def files(spec):
        inputs.check_dataset_type(options.tokens / "report.json", spec["objective"], spec["data"]["name"])
        return [options.manifest, options.teacher_manifest, train, *stored]

    def prepare(spec, folder):
        rows = training_rows(train, spec, stored)
        check_vocabulary(options, spec, rows)
        read = partial(with_teacher, stored=stored, spec=spec, columns=TOKENS)
        measured = held_out.rows(validation, spec, read)

        def build(spec):
            model, tokenizer = inputs.load_parent(options.parent, spec), loading.tokenizer(options.parent)
            resident = None if stored else loading.for_inference(options.teacher, loading.precision(spec["precision"]))
            given = trainer_arguments(spec, folder) | {"remove_unused_columns": False}
            return distillation.DistillationTrainer(
                model=model,
                args=SFTConfig(**given, max_length=None),
                data_collator=distillation.Collator(tokenizer.pad_token_id, spec.get("teacher_top_k")),
                train_dataset=rows,
                eval_dataset=measured,
                processing_class=tokenizer,
                peft_config=peft_methods.peft_config(spec, model, steps(len(rows), spec["batch_size"])),
                teacher=resident,
                spec=spec,
                stops=lambda model: scoring.stop_tokens(model, tokenizer),
            )

        return build

    loop.run(options, files, prepare)


def training_rows(tokens: Path, spec: dict, stored: list[Path]):
    """The rows in the order of training; those that cannot be continued are left out where completions are sampled."""
    from posttrain.data.row_order import trained_tokens
    from posttrain.training import distillation, inputs

    rows = with_teacher(tokens, stored, spec, (*TOKENS, "length"))
    if spec.get("on_policy_share"):
        room = spec["max_length"] - spec["max_new_tokens"]
        lengths = [len(distillation.prompt(*pair)) for pair in zip(rows["input_ids"], rows["labels"], strict=True)]
        kept = [i for i, length in enumerate(lengths) if 0 < length <= room]
        if not kept:
            raise UserError(
                "no-prompts",
                f"dataset {spec['data']['name']}",
                f"no row has a prompt of 1 to {room} tokens (max_length - max_new_tokens) before its first trained token",
                "write a larger max_length, or remove on_policy_share",
            )
        rows = rows.select(kept)
    else:  # where the tokens of a step are known before it
        rows = rows.add_column("trained", trained_tokens(rows.data["labels"]))
    return inputs.ordered(rows, spec, rows["length"]).remove_columns("length")


def with_teacher(tokens: Path, stored: list[Path], spec: dict, columns: tuple[str, ...]):
    """The rows of a file of tokens, beside what the teacher said of them, where that is stored.

    Raises:
        UserError: the teacher has read other tokens.
    """
    from datasets import concatenate_datasets

    from posttrain.inference.distributions import fingerprint
    from posttrain.training import inputs

    rows = inputs.read_tokens(tokens, columns)
    file = next((file for file in stored if file.name == tokens.name), None)
    if file is None:
        return rows
    said = inputs.read_tokens(file, ("fingerprint", *STORED))
    if list(map(fingerprint, rows)) != said["fingerprint"][:]:
        raise UserError(
            "other-vocabulary",
            f"dataset {spec['data']['name']}",
            f"the teacher {spec['teacher']['name']} reads its rows as other tokens than {spec['from']['name']}, because their "
            "tokenizers or chat templates differ",
            "remove teacher_top_k, or give both bases the same chat_template",
        )
    return concatenate_datasets([rows, said.select_columns(STORED)], axis=1)


def check_vocabulary(options, spec: dict, rows) -> None:
    """Refuse a teacher whose tokens mean something else.

    Raises:
        UserError: the two tokenizers have another vocabulary, or read a row in another way.
    """
    from posttrain.data.vocabularies import difference
    from posttrain.models import loading

    ours, theirs = loading.tokenizer(options.parent), loading.tokenizer(options.teacher)
    texts = [ours.decode(ids) for ids in rows[:COMPARED]["input_ids"]]
    if why := difference(ours, theirs, texts):
        raise other_vocabulary(spec, why)


def other_vocabulary(spec: dict, why: str) -> UserError:
    from posttrain.data.vocabularies import HINT

    return UserError("other-vocabulary", f"teacher {spec['teacher']['name']}", f"{why}", HINT)


if __name__ == "__main__":
    parser = held_out_rows(
        arguments(__doc__, spec=Path, parent=Path, manifest=Path, teacher=Path, teacher_manifest=Path, tokens=Path)
    )
    parser.add_argument("--topk", nargs="?", default="", const="", help="the folder that compute_topk.py wrote, if any")
    run(parser, main, processes=True)
