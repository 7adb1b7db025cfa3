"""Everything that the doctor can find: one row a finding, with its class and the advice of the guide that it carries.

docs/troubleshooting.md has a section on each code.
"""

from typing import Any, NamedTuple

PAGE = "docs/troubleshooting.md"

CLASSES = {
    "memory": "out of memory",
    "poor": "poor results",
    "stability": "unstable training",
    "machine": "wasted machine time",
    "evidence": "evidence that shows little",
    "failure": "no result",
}

# The guide's three lists of remedies, row by row. Each is advised by a finding below.
GUIDE = {
    "memory-qlora": "use QLoRA",
    "memory-batch": "reduce the batch size",
    "memory-checkpointing": "use gradient checkpointing",
    "memory-model": "use a smaller model",
    "poor-rate": "adjust the learning rate",
    "poor-data": "collect more data",
    "poor-tuning": "tune the hyperparameters",
    "poor-method": "try another PEFT method",
    "stability-scheduler": "use a learning rate scheduler",
    "stability-warm-up": "add warm-up steps",
    "stability-clipping": "clip gradients",
}


class Kind(NamedTuple):
    """A fault that the files of a run can prove."""

    group: str
    """one of CLASSES"""
    words: str
    """the fault in a few words"""
    key: str
    """the key of the configuration that it is about; several with `, ` between them"""
    guide: tuple[str, ...] = ()
    """rows of GUIDE that its advice carries"""


# In the order in which they are told: a cause before what follows from it.
FINDINGS = {
    # ---- it did not end well
    "failed": Kind("failure", "a step ended in an error", ""),
    "out-of-memory": Kind(
        "memory",
        "the training ran out of memory",
        "gradient_accumulation_steps, gradient_checkpointing, method, max_length",
        ("memory-qlora", "memory-batch", "memory-checkpointing", "memory-model"),
    ),
    "diverged": Kind(
        "stability",
        "a loss, gradient or weight is not finite",
        "learning_rate, warmup_ratio, precision",
        ("stability-warm-up",),
    ),
    # ---- what was trained on
    "loss-zero": Kind("poor", "the loss is 0 from the start: no token is trained", "max_length, datasets"),
    "template-mismatch": Kind(
        "poor", "prompts in use have another form than in training", "bases.chat_template, datasets.system"
    ),
    "thinking-mismatch": Kind(
        "poor", "the model thinks in use and not in training, or the reverse", "train_thoughts, bases.chat_template"
    ),
    "stop-token-not-learnt": Kind("poor", "completions do not end", "bases.eos_token, bases.chat_template"),
    "contaminated-benchmark": Kind("evidence", "held-out rows stand in the training rows", "datasets"),
    # ---- how it was trained
    "gradient-spikes": Kind(
        "stability",
        "gradients jump, and neither clipping nor warm-up holds them",
        "max_grad_norm, warmup_ratio",
        ("stability-clipping", "stability-warm-up"),
    ),
    "overfitting": Kind(
        "poor",
        "the model learns the training rows by heart",
        "epochs, early_stopping",
        ("poor-data", "poor-tuning"),
    ),
    "reward-hacking": Kind(
        "poor",
        "the reward rises by longer and stranger completions",
        "beta, kl_coef, reward",
        ("poor-tuning",),
    ),
    "kl-explosion": Kind(
        "stability", "the policy has left its reference", "beta, kl_coef, learning_rate", ("poor-rate",)
    ),
    "learning-rate-too-high": Kind(
        "stability",
        "the updates are too large: what is learnt is lost again",
        "learning_rate, warmup_ratio, lr_scheduler_type",
        ("poor-rate", "stability-scheduler", "stability-warm-up"),
    ),
    "no-reward-signal": Kind(
        "poor", "the completions of a prompt all have the same reward", "reward, num_generations, temperature"
    ),
    "entropy-collapse": Kind("poor", "the policy samples always the same", "temperature, beta, learning_rate"),
    "learning-rate-too-low": Kind(
        "poor", "the model is still where it began, as the updates are too small", "learning_rate", ("poor-rate",)
    ),
    "flat-loss": Kind(
        "poor",
        "nothing was learnt",
        "method, target_modules, learning_rate",
        ("poor-method", "poor-tuning"),
    ),
    # ---- what came of it
    "same-as-the-base": Kind("poor", "the model answers as its parent does", "learning_rate, rank, epochs"),
    "both-rewards-fall": Kind(
        "poor",
        "chosen and rejected completions both become less likely, and are hardly told apart",
        "learning_rate, beta",
    ),
    "chosen-falls": Kind(
        "poor",
        "the margin grows while the chosen completions become less likely",
        "loss_type, loss_weights, beta, learning_rate",
        ("poor-tuning",),
    ),
    "no-better-than-chance": Kind(
        "poor",
        "it tells chosen from rejected completions no better than a coin",
        "datasets, epochs, learning_rate",
        ("poor-data",),
    ),
    "worse-than-the-parent": Kind(
        "poor", "the model is worse than its parent at what it was trained for", "learning_rate", ("poor-rate",)
    ),
    "forgetting": Kind(
        "poor",
        "the model is worse than before at what it was not trained for",
        "learning_rate, method, datasets.mix",
        ("poor-method", "poor-data"),
    ),
    "repetition": Kind("poor", "completions repeat themselves", "learning_rate, epochs"),
    # ---- what it costs, and what it shows
    "device-underused": Kind("machine", "the GPU waits", "batch_size, gradient_accumulation_steps, packing"),
    "data-bound": Kind("machine", "the GPU waits for the CPU", "trainer_args.dataloader_num_workers"),
    "truncated-rows": Kind("poor", "training rows are cut at max_length", "max_length"),
    "repeated-rows": Kind("poor", "training rows repeat each other", "datasets.near_duplicates"),
    "answers-cut": Kind("evidence", "completions are cut before they can be right", "evaluation.max_new_tokens"),
    "too-little-data": Kind(
        "evidence", "too few rows to show anything", "datasets.validation, evaluation.limit", ("poor-data",)
    ),
}


class Finding(NamedTuple):
    """A fault of one run with its evidence."""

    code: str
    """a key of FINDINGS"""
    sentence: str
    """what is wrong, with the numbers that prove it"""
    picture: str = ""
    """the evidence as a line of text, such as a sparkline with its ends"""
    advice: str = ""
    """what to change, in words; the key is named as the configuration names it"""
    changes: tuple[dict[str, Any], ...] = ()
    """overrides of the run that may help, such as {"learning_rate": 1e-4}, the likeliest first"""
    target: str = ""
    """the file of the run to try next, where an override makes it; empty where the change is elsewhere"""

    @property
    def kind(self) -> Kind:
        """Its row of FINDINGS."""
        return FINDINGS[self.code]

    @property
    def group(self) -> str:
        """Its class, in words."""
        return CLASSES[self.kind.group]

    @property
    def page(self) -> str:
        """Where the documentation explains it."""
        return f"{PAGE}#{self.code}"
