"""Odds ratio preference optimisation (Hong et al. 2024): learn the chosen answer and leave the rejected one, at once.

There is no reference: the loss is that of supervised fine-tuning on the chosen answer, plus beta times the log odds ratio
(the paper's equations; TRL's own loss also learns the chosen answer's prompt). Reads and writes what train_sft.py does.

    python scripts/train_orpo.py --spec results/orpo_lora/spec.json --parent results/bases/smollm2/model \
        --manifest results/bases/smollm2/base.json --tokens results/tokens/smollm2/snips_pairs,max_length=1024
"""

from pathlib import Path

from posttrain.data.tokens import IGNORED
from posttrain.runtime.script import arguments, held_out_rows, run


def main(options) -> None:
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    from posttrain.training import preference_stage

    class AnswersOnly(ORPOTrainer):
        """TRL's trainer, whose loss of the chosen answer is its prompt's as well, which is not to be learnt."""

        def concatenated_forward(self, model, batch):
            chosen, *others = super().concatenated_forward(model, batch)
            lengths = (batch["chosen_labels"] != IGNORED).sum(1)
            others[3] = -(chosen * lengths).sum() / lengths.sum()
            return (chosen, *others)

    preference_stage.train(options, AnswersOnly, ORPOConfig, ("beta",))


if __name__ == "__main__":
    run(held_out_rows(arguments(__doc__, spec=Path, parent=Path, manifest=Path, tokens=Path)), main)
