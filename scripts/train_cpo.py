"""CPO (Xu et al. 2024) and SimPO (Meng et al. 2024): prefer the chosen completion, without a reference.

CPO's loss is DPO's with a uniform reference, plus `cpo_alpha` times the negative log-likelihood of the chosen completion. SimPO
(`loss_type: simpo`) compares means over a completion's tokens, beta (chosen - rejected) - simpo_gamma, and has no other term.
Reads and writes what train_sft.py does.

    python scripts/train_cpo.py --spec results/cpo_lora/spec.json --parent results/bases/smollm2/model \
        --manifest results/bases/smollm2/base.json --tokens results/tokens/smollm2/snips_pairs,max_length=1024
"""

from pathlib import Path

from posttrain.runtime.script import arguments, held_out_rows, run


def main(options) -> None:
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    from posttrain.compat.trl_trainers import prepared_pairs
    from posttrain.training import preference_stage

    keys = ("loss_type", "beta", "cpo_alpha", "simpo_gamma")
    preference_stage.train(options, prepared_pairs(CPOTrainer), CPOConfig, keys)


if __name__ == "__main__":
    run(held_out_rows(arguments(__doc__, spec=Path, parent=Path, manifest=Path, tokens=Path)), main, processes=True)
