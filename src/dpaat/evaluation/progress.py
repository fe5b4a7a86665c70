"""A progress bar in forward passes, whose remaining time follows what is still to do."""

from __future__ import annotations

from typing import Any

from tqdm.auto import tqdm


class PassBar:
    """Counts forward passes; the total is corrected whenever less is left than was expected.

    Args:
        show: whether to show it, on stderr.
    """

    def __init__(self, *, show: bool) -> None:
        self._bar: tqdm[Any] = tqdm(
            total=1,
            disable=None if show else True,  # None: hidden where stderr is no terminal
            leave=False,
            dynamic_ncols=True,
            bar_format="{desc:<22} {percentage:3.0f}% |{bar}| {elapsed} < {remaining}",
        )

    def expect(self, name: str, passes: int) -> None:
        """Begin a stage: show its name, and take `passes` for what is left, this stage included."""
        self._bar.total = max(1, self._bar.n + passes)
        self.name(name)

    def name(self, name: str) -> None:
        """Show what is being done."""
        self._bar.set_description_str(name)

    def done(self, passes: int) -> None:
        """Count work that was done."""
        self._bar.update(passes)

    def skipped(self, passes: int) -> None:
        """Drop work that need not be done: it says nothing about the speed."""
        self._bar.total = max(1, (self._bar.total or 0) - passes)
        self._bar.refresh()

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()
