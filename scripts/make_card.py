"""Write a run's card, README.md: what it is made from and how, what it was measured on, its exports, and how to load it.

Reads spec.json, train.json, train.jsonl, preflight.json and provenance.json of the run and of those that it starts from; the run's
merge.json, eval.json, eval/spec.json and the proofs of its exports; and the records of its base and its datasets. Measures nothing.

    python scripts/make_card.py --context context.json --output results/sft_lora/README.md
"""

from pathlib import Path

from posttrain.runtime.atomic import read_json, whole_file
from posttrain.runtime.console import say
from posttrain.runtime.errors import UserError
from posttrain.runtime.script import arguments, run


def main(options) -> None:
    from posttrain.reports import card_facts, front_matter, run_card

    name = options.output.parent.name
    text = run_card.card(card_facts.collect(name, read_json(options.context)))
    if faults := front_matter.faults(text):
        raise UserError(
            "invalid-card", str(options.output), f"the hub would not take its front matter: {'; '.join(faults)}"
        )
    with whole_file(options.output) as file:
        file.write_text(text, encoding="utf-8")
    say(f"{name}: its card is {options.output}", "summary")


if __name__ == "__main__":
    run(arguments(__doc__, context=Path, output=Path), main)
