"""Find out that training diverged: losses or gradients that are not finite, update after update."""

from __future__ import annotations

from collections.abc import Sequence

import torch


class NonfiniteWatch:
    """Counts consecutive updates with values that are not finite, separately for each kind of update.

    Single ones are normal in half precision, where a gradient overflows now and then; parameters that are not finite
    make every update so. Neither recording nor asking makes the host wait for the device. Counts are of reduced values,
    so all processes find the same.

    Args:
        limit: number of consecutive updates of one kind after which training counts as diverged.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._names: dict[str, Sequence[str]] = {}
        # By kind of update, int64 [3]: updates in a row, the first iteration of these, its first tensor's number.
        self._states: dict[str, torch.Tensor] = {}
        self._copies: dict[str, torch.Tensor] = {}
        self._copied: torch.cuda.Event | None = None

    def record(self, update: str, iteration: int, names: Sequence[str], counts: torch.Tensor) -> None:
        """Record an update.

        Args:
            update: kind of the update.
            iteration: the iteration that it belongs to.
            names: names of the tensors, the same in each call for this kind.
            counts: number of non-finite values in each tensor, int64 [len(names)].
        """
        self._names[update] = names
        state = self._states.get(update)
        streak, start, tensor = torch.zeros_like(counts[:3]) if state is None else state  # []
        bad = counts > 0
        any_bad, starts = bad.any(), streak == 0
        start = torch.where(starts, iteration, start)
        tensor = torch.where(starts, bad.int().argmax(), tensor)
        self._states[update] = torch.stack([torch.where(any_bad, streak + 1, 0), start, tensor])

    def problem(self) -> str:
        """Return which tensor has been non-finite since when; "" while training has not diverged.

        On a GPU the answer is that of the previous call.
        """
        if self._copied is not None:
            self._copied.synchronize()
        previous = self._copies
        self._copies = {update: state.to("cpu", non_blocking=True) for update, state in self._states.items()}
        cuda = next((state.device for state in self._states.values() if state.is_cuda), None)
        if cuda is not None:
            self._copied = torch.cuda.current_stream(cuda).record_event()
        for update, state in (previous if cuda is not None else self._copies).items():
            streak, start, tensor = state.tolist()
            if streak >= self.limit:
                return (
                    f"{self._names[update][tensor]} was not finite at iteration {start}, and this was the first of "
                    f"{streak} such updates of {update} in a row"
                )
        return ""
