"""Odds ratio preference optimisation.

Needs: the run's spec, its parent's model, its tokens.
Makes: results/{run}/trained/ (an adapter, or all weights), train.jsonl and train.json.
Steps: train with TRL's ORPOTrainer, which needs no reference -> save.
"""


use rule sft as orpo with:
    log:
        "results/logs/orpo/{run}.log",
    benchmark:
        "results/logs/orpo/{run}.tsv"
    wildcard_constraints:
        run=CANONICAL + PROJECT.pattern("orpo"),
    params:
        script="train_orpo.py",
        tokens=run_tokens,
