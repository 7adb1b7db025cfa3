"""Write a trained run as an export: the form in which a program loads it.

Reads the trained model in float32 (of an adapter, what training wrote); writes the folder of one kind. Nothing is proved here: see
prove_export.py.

    python scripts/export_model.py --spec results/dpo_lora/spec.json --kind adapter --model results/dpo_lora/merged \
        --manifest results/dpo_lora/merge.json --trained results/dpo_lora/trained \
        --stages results/sft_lora/trained results/dpo_lora/trained --parent results/bases/smollm2/model \
        --before results/bases/smollm2/base.json --output results/dpo_lora/export/adapter
"""

from pathlib import Path

from posttrain import exports
from posttrain.runtime.atomic import read_json
from posttrain.runtime.console import say
from posttrain.runtime.errors import UserError
from posttrain.runtime.hashes import visible_files
from posttrain.runtime.script import arguments, run


def main(options) -> None:
    from posttrain.export import writing
    from posttrain.export.sources import Sources, check_text_only

    spec, name = read_json(options.spec), options.spec.parent.name
    if why := exports.refusal(options.kind, spec["method"], spec["objective"]):
        raise UserError("unsupported-export", f"{name}: {options.kind}", why)
    check_text_only(options.model, name)
    before = (options.parent, options.before, tuple(options.stages))
    sources = Sources(spec, options.model, options.manifest, options.trained, *before, *options.rows)
    writing.write(options.kind, sources, options.output)
    size = sum(file.stat().st_size for file in visible_files(options.output))
    say(f"{name}: {exports.EXPORTS[options.kind].words}, {size / 1e6:,.0f} MB", "summary")


if __name__ == "__main__":
    paths = {"model": Path, "manifest": Path, "trained": Path, "parent": Path, "before": Path, "output": Path}
    parser = arguments(__doc__, spec=Path, kind=str, **paths)
    parser.add_argument("--stages", type=Path, nargs="*", help="what training wrote of the runs that the adapter is of")
    parser.add_argument(
        "--rows",
        type=Path,
        nargs="*",
        default=[],
        help="the rows that the run was trained on, for a Modelfile's system prompt",
    )
    run(parser, main)
