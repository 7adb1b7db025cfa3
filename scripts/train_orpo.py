"""Odds ratio preference optimisation (Hong et al. 2024): learn the chosen completion and avoid the rejected one, at once.

There is no reference: the loss is that of supervised fine-tuning on the chosen completion, plus beta times the log odds ratio
(the paper's equations; TRL's own loss also trains the chosen completion's prompt). Reads and writes what train_sft.py does.

    python scripts/train_orpo.py --spec results/orpo_lora/spec.json --parent results/bases/smollm2/model \
        --manifest results/bases/smollm2/base.json --tokens results/tokens/smollm2/snips_pairs,max_length=1024
"""

from pathlib import Path

from posttrain.runtime.script import arguments, held_out_rows, run


def main(options) -> None:
    from trl.experimental.orpo import ORPOConfig

    from posttrain.compat.trl_trainers import completions_only_orpo, prepared_pairs
    from posttrain.training import preference_stage

    preference_stage.train(options, prepared_pairs(completions_only_orpo()), ORPOConfig, ("beta",))


if __name__ == "__main__":
    run(held_out_rows(arguments(__doc__, spec=Path, parent=Path, manifest=Path, tokens=Path)), main, processes=True)
