"""The equations of PPO for language models: rewards, advantages, losses, the KL coefficient.

The details are those of Huang et al. 2024, "The N+ implementation details of RLHF with PPO".

Shapes: n completions of at most t tokens; a mask (n, t) says which tokens are the completion's.
"""

import torch

HORIZON = 10_000  # completions over which the KL coefficient adapts (Ziegler et al. 2019)


def masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of the values (n, t) where the mask is true."""
    return (values * mask).sum() / mask.sum()


def whiten(values: torch.Tensor, mask: torch.Tensor, shift: bool = True) -> torch.Tensor:
    """Values (n, t) scaled to variance 1 over the mask, and to mean 0 unless told to keep it."""
    mean = masked_mean(values, mask)
    variance = ((values - mean).square() * mask).sum() / (mask.sum() - 1).clamp(min=1)
    whitened = (values - mean) * torch.rsqrt(variance + 1e-8)
    return (whitened if shift else whitened + mean) * mask


def token_rewards(
    scores: torch.Tensor,
    kl: torch.Tensor,
    mask: torch.Tensor,
    kl_coefficient: float,
    tokens: torch.Tensor | None = None,
) -> torch.Tensor:
    """The reward of each token (n, t): minus its share of the KL divergence, and the completion's score (n,) at the last token.

    Args:
        kl: log(policy / reference) of each token (n, t).
        tokens: RTO's reward of each token (n, t), beta log(dpo / its reference).
    """
    last = torch.nn.functional.one_hot(mask.sum(1) - 1, mask.shape[1]).to(scores.dtype)
    rewards = -kl_coefficient * kl + last * scores[:, None]
    return (rewards if tokens is None else rewards + tokens) * mask


def advantages(
    rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, gamma: float, gae_lambda: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Generalised advantage estimation (Schulman et al. 2016, eq. 16) and the returns that the value learns, both (n, t).

    delta_i = r_i + gamma V_{i+1} - V_i;  A_i = delta_i + gamma lambda A_{i+1};  R_i = A_i + V_i. V is 0 after the end.
    """
    values = values * mask
    following = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], 1)
    deltas = (rewards + gamma * following - values) * mask
    result, running = torch.zeros_like(deltas), torch.zeros_like(deltas[:, 0])
    for i in reversed(range(deltas.shape[1])):
        running = deltas[:, i] + gamma * gae_lambda * running
        result[:, i] = running
    return result * mask, (result + values) * mask


def policy_losses(new: torch.Tensor, old: torch.Tensor, advantage: torch.Tensor, clip: float) -> torch.Tensor:
    """Clipped surrogate of each token (Schulman et al. 2017, eq. 7), from log-probabilities."""
    ratio = (new - old).exp()
    return torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - clip, 1 + clip))


def value_losses(new: torch.Tensor, old: torch.Tensor, returns: torch.Tensor, clip: float) -> torch.Tensor:
    """Half the squared error of each token's value, clipped around the value before the update."""
    clipped = torch.minimum(torch.maximum(new, old - clip), old + clip)
    return 0.5 * torch.maximum((new - returns).square(), (clipped - returns).square())


def adapted(coefficient: float, kl: float, target: float | None, completions: int) -> float:
    """The KL coefficient for the next rollout (Ziegler et al. 2019, section 2.2); the same one without a target."""
    if target is None:
        return coefficient
    error = min(max(kl / target - 1, -0.2), 0.2)
    return coefficient * (1 + error * completions / HORIZON)
