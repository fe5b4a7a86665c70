"""Training that goes wrong: what to look for, and what to say about it."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from dpaat.errors import out_of_memory
from dpaat.methods import StepOutput

LOSS, EPS, WEIGHTS = "the loss is not finite", "a perturbation size has exploded", "the weights are not finite"
ADVICE = {LOSS: "try a smaller --lr", EPS: "try a smaller --eps", WEIGHTS: "try a smaller --lr"}
COLLAPSE, LEAST = 0.5, 1.5


class TrainingError(Exception):
    """Training has gone wrong: by `LOSS`, `EPS` or `WEIGHTS`, at a batch counted from 0, with samples `rows`."""

    def __init__(self, cause: str, step: int, rows: list[int]) -> None:
        super().__init__(cause)
        self.cause, self.step, self.rows = cause, step, rows


class FaultWatch:
    """Remembers the first step that went wrong on the device, so that no step has to wait for the answer.

    No perturbation size of the `num_samples` may exceed `eps_limit`.
    """

    def __init__(self, num_samples: int, eps_limit: float, device: torch.device) -> None:
        self.eps_limit = eps_limit
        # Step of the first fault or -1, and whether the loss is its cause; then the samples at fault.
        self._first = torch.tensor([-1, 0], device=device)
        self._rows = torch.zeros(num_samples, dtype=torch.bool, device=device)

    @torch.no_grad()
    def look(self, step: int, output: StepOutput, eps: Tensor | None) -> None:
        """Look at a step that is done, and at the perturbation sizes `(N,)` after it; never waits for the device."""
        lost = ~torch.isfinite(output.loss)
        at_fault = ~torch.isfinite(output.logits).all(1)
        for values in output.rows.values():
            at_fault = at_fault | ~torch.isfinite(values[:, None].flatten(1)).all(1)
        # A loss that is not finite while every row is: nothing tells the samples of the batch apart.
        at_fault = torch.where(at_fault.any(), at_fault, True) & lost
        if eps is not None:
            sizes = eps[output.index]
            exploded = ~torch.isfinite(sizes) | (sizes > self.eps_limit)
            at_fault = at_fault | (exploded & ~lost)
        first = (self._first[0] < 0) & at_fault.any()
        self._first = torch.where(first, torch.stack([torch.full_like(self._first[0], step), lost.long()]), self._first)
        self._rows[output.index] = self._rows[output.index] | (at_fault & first)

    def check(self) -> None:
        """Wait for the device; raise TrainingError if a step since the beginning went wrong."""
        step, lost = self._first.tolist()
        if step >= 0:
            raise TrainingError(LOSS if lost else EPS, step, self._rows.nonzero()[:, 0].tolist())


def finite(module: nn.Module) -> bool:
    """Whether all weights and running statistics of a network are finite."""
    values = (value for value in module.state_dict().values() if isinstance(value, Tensor))
    return bool(torch.stack([torch.isfinite(value).all() for value in values if value.is_floating_point()]).all())


def catastrophic_overfitting(
    train: Sequence[float], robust: Sequence[float], *, num_classes: int, causes: Sequence[Sequence[float]] = ()
) -> int | None:
    """The first epoch in which robust balanced accuracy collapsed while training accuracy under attack did not drop.

    The training attack has then become easy for the network, and says nothing about a stronger one. A network that
    answers the same class whatever the image has a balanced accuracy of 1 / K, and gives up no robustness when it
    begins to learn.

    `train` is the accuracy of each epoch on the adversarial views that were learned from, `robust` its balanced
    accuracy on validation images under the attack of several steps, in [0, 1]. `causes` are what else may take
    robustness with it, of each epoch: clean accuracy, or the radii that are trained at; where one has halved as well,
    the drop is another one. Returns the number of an epoch whose robust balanced accuracy is below half of the best
    before, which was 1.5 / K at least, at no lower training accuracy than then; or None.

    The effect: Wong et al., "Fast is better than free", ICLR 2020, arXiv 2001.03994, section 5. The thresholds are
    ours.
    """
    best = 0
    for epoch, (accuracy, score) in enumerate(zip(train, robust, strict=True)):
        collapsed = robust[best] >= LEAST / num_classes and score < COLLAPSE * robust[best]
        explained = any(cause[epoch] < COLLAPSE * cause[best] for cause in causes)
        if collapsed and accuracy >= train[best] and not explained:
            return epoch
        if score > robust[best]:
            best = epoch
    return None


def largest_batch(attempt: Callable[[int], object], batch_size: int) -> int | None:
    """The first half, quarter, ... of a batch size, at least 2, with which `attempt` does not run out of memory."""
    size = batch_size // 2
    while size >= 2:
        try:
            attempt(size)
            return size
        except Exception as error:
            if not out_of_memory(error):
                raise
        size //= 2
    return None
