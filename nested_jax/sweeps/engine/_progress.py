"""The progress bar of a sweep, and its response to Ctrl-C."""

import signal
import threading
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from nested_jax._core.extras import needs


class Progress:
    """A bar, if the error stream is a terminal.

    It shows runs, rate, time left, memory of a chunk, and diverged runs.
    """

    def __init__(self, runs: int, shown: bool):
        with needs("nested_jax.sweep", "sweep"):
            import rich.console  # Slow to import and only needed here.
            import rich.progress

        console = rich.console.Console(stderr=True)
        self._bar = rich.progress.Progress(
            rich.progress.SpinnerColumn(),
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TextColumn("{task.fields[rate]}"),
            rich.progress.TimeElapsedColumn(),
            rich.progress.TimeRemainingColumn(),
            rich.progress.TextColumn("{task.fields[memory]}"),
            rich.progress.TextColumn("{task.fields[diverged]}"),
            console=console,
            transient=True,
            disable=not (shown and console.is_terminal),
        )
        fields = dict.fromkeys(("rate", "memory", "diverged"), "")
        self._task = self._bar.add_task("compiling", total=runs, **fields)
        self.diverged = 0

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._bar.disable:  # Up to rich 14.3.3, a disabled bar prints an empty line.
            self._bar.stop()

    def running(self, runs: int) -> None:
        """Show that compilation is over; this process has `runs` runs, some perhaps finished."""
        done = self._bar.tasks[0].completed
        self._bar.reset(self._task, total=runs, completed=int(done), description="running")

    def memory(self, chunk_bytes: int) -> None:
        """Show the memory of a chunk on its device; 0 where it is not known."""
        if chunk_bytes:
            self._bar.update(self._task, memory=f"{chunk_bytes / 2**20:,.1f} MiB")

    def add(self, outputs: Mapping[str, np.ndarray], axes: int) -> None:
        """Count the runs of a chunk, and those with a result that is not finite."""
        bad = np.zeros(next(iter(outputs.values())).shape[:axes], bool)
        for values in outputs.values():
            if jnp.issubdtype(values.dtype, jnp.inexact):
                # An array result counts once per run.
                own = tuple(range(axes, values.ndim))
                bad |= ~np.isfinite(values).all(axis=own)
        self.diverged += int(bad.sum())
        self._bar.update(self._task, advance=bad.size)
        task = self._bar.tasks[0]
        self._bar.update(
            self._task,
            rate=f"{task.speed:.3g} runs/s" if task.speed else "",
            diverged=f"{self.diverged} not finite" if self.diverged else "",
        )


class Interruption:
    """Lets Ctrl-C end a sweep after the chunks in flight; a second Ctrl-C ends it at once."""

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None

    def __enter__(self) -> "Interruption":
        # Only the main thread may set signal handlers.
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _ask(self, number: int, frame: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
