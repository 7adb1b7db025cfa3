"""A warm-up whose first step changes the weights: transformers' schedules begin at a rate of 0."""

from typing import Any

from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback

from posttrain.compat.trainer_internals import set_first_rates


class WarmUp(TrainerCallback):
    """Let the learning rate rise by (k + 1) / (w + 1) in step k of w steps of warm-up; after it the schedule is transformers' own."""

    def on_train_begin(self, args: Any, state: Any, control: Any, lr_scheduler: Any = None, **_: Any) -> None:
        """After a checkpoint's optimiser and schedule were loaded, which hold the rate of the next step."""
        steps = args.get_warmup_steps(state.max_steps)
        if not steps or not isinstance(lr_scheduler, LambdaLR):
            return
        lr_scheduler.lr_lambdas = [_raised(share, steps) for share in lr_scheduler.lr_lambdas]
        if state.global_step == 0:
            set_first_rates(lr_scheduler)


def _raised(share: Any, steps: int) -> Any:
    """A schedule's share of the rate by the step, with a warm-up of `steps` that begins above 0."""

    def raised(step: int) -> float:
        return (step + 1) / (steps + 1) if step < steps else share(step)

    return raised
