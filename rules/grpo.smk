"""Group-relative and leave-one-out policy optimisation.

Needs: the run's spec, its parent's model, its dataset's prompts, and what gives the reward.
Makes: results/{run}/trained/ (an adapter, or all weights), train.jsonl and train.json.
Steps: sample several answers to each prompt -> reward -> train with TRL's GRPOTrainer or RLOOTrainer -> save.
"""


use rule ppo as grpo with:
    log:
        "results/logs/grpo/{run}.log",
    benchmark:
        "results/logs/grpo/{run}.tsv"
    wildcard_constraints:
        run=CANONICAL + PROJECT.pattern("grpo"),
    params:
        script="train_grpo.py",
        data=run_rows_folder,


use rule ppo as rloo with:
    log:
        "results/logs/rloo/{run}.log",
    benchmark:
        "results/logs/rloo/{run}.tsv"
    wildcard_constraints:
        run=CANONICAL + PROJECT.pattern("rloo"),
    params:
        script="train_grpo.py",
        data=run_rows_folder,
