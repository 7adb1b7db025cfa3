"""Kahneman-Tversky optimisation.

Needs: the run's spec, its parent's model, its tokens.
Makes: results/{run}/trained/ (an adapter, or all weights), train.jsonl and train.json.
Steps: score every answer with the parent -> train with TRL's KTOTrainer -> save.
"""


use rule sft as kto with:
    log:
        "results/logs/kto/{run}.log",
    benchmark:
        "results/logs/kto/{run}.tsv"
    wildcard_constraints:
        run=CANONICAL + PROJECT.pattern("kto"),
    params:
        script="train_kto.py",
        tokens=run_tokens,
