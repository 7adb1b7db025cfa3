"""Reward modelling.

Needs: the run's spec, its parent's model, its tokens.
Makes: results/{run}/trained/ (an adapter, or all weights), train.jsonl and train.json.
Steps: put a score in place of the LM head -> train with TRL's RewardTrainer on pairs -> save.
"""


use rule sft as reward with:
    log:
        "results/logs/reward/{run}.log",
    benchmark:
        "results/logs/reward/{run}.tsv"
    wildcard_constraints:
        run=CANONICAL + PROJECT.pattern("reward"),
    params:
        script="train_reward.py",
        tokens=run_tokens,
