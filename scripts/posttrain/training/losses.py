"""Losses by the names of their papers, and what each sets. Which keys of a run go with them is in config/loss_keys.py."""

from typing import Any

# Meng et al. 2024, section 3 and appendix B: beta 2 to 2.5 (10 for Llama 3 Instruct), gamma / beta 0.3 to 0.8.
SIMPO = {"beta": 2.0, "cpo_alpha": 0.0}
SIMPO_MARGIN = 0.5  # gamma / beta

# Fields of TRL's GRPOConfig, and keys of a run. All four papers leave the KL penalty out.
VARIANTS: dict[str, dict[str, Any]] = {
    # Zheng et al. 2025, section 5.1: one ratio an answer, four minibatches of a rollout.
    "gspo": {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4},
    # Yu et al. 2025, sections 3.1, 3.3 and 3.4: a mean over tokens, a higher upper clip, answers that were cut are left out.
    "dapo": {"loss_type": "dapo", "epsilon": 0.2, "epsilon_high": 0.28, "mask_truncated_completions": True},
    # MiniMax 2025: the ratio is a clipped weight that passes no gradient. Its bound is that of Khatri et al. 2025 (ScaleRL).
    "cispo": {"loss_type": "cispo", "epsilon_high": 5.0},
    # Liu et al. 2025: neither an answer's length nor the spread of a prompt's rewards divides.
    "dr_grpo": {"loss_type": "dr_grpo", "scale_rewards": "none"},
}
# Steps over answers that were sampled together. While there is one, every ratio is 1, and there is nothing to clip.
MINIBATCHES = {"gspo": 4, "dapo": 4, "cispo": 4}
CLIPPED = ("gspo", "cispo")  # they differ from other losses by what they do with a ratio, and by nothing else


def trainer_fields(spec: dict[str, Any]) -> dict[str, Any]:
    """The fields of GRPOConfig that a spec's variant sets, without those that the run's own keys set."""
    table = VARIANTS.get(spec.get("variant"), {})
    return {field: value for field, value in table.items() if field != "loss_type"}
