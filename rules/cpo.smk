"""Contrastive and simple preference optimisation.

Needs: the run's spec, its parent's model, its tokens.
Makes: results/{run}/trained/ (an adapter, or all weights), train.jsonl and train.json.
Steps: train with TRL's CPOTrainer, which needs no reference -> save.
"""


use rule sft as cpo with:
    log:
        "results/logs/cpo/{run}.log",
    benchmark:
        "results/logs/cpo/{run}.tsv"
    wildcard_constraints:
        run=CANONICAL + PROJECT.pattern("cpo"),
    params:
        script="train_cpo.py",
        tokens=run_tokens,
