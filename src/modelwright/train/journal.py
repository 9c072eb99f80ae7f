"""What people and the report see of a training: a line while it runs, and its curves on disk."""

import json
from pathlib import Path

from modelwright.core.files import storage
from modelwright.core.progress import Beat, show, shown
from modelwright.core.units import format_bytes, format_seconds
from modelwright.train.peak import peak_memory_bytes
from modelwright.train.settings import Budget

LINES = 400  # of the curves, over the whole budget


class Journal:
    """Curves as JSON lines, and the line that people see.

    Args:
        path: of the curves, or None.
        batch_size: examples a step.
    """

    def __init__(self, path: Path | None, budget: Budget, batch_size: int) -> None:
        self.path, self.budget, self.batch_size = path, budget, batch_size
        self._beat = Beat()
        self._first_step, self._first_elapsed, self._rate = 0, 0.0, 0.0

    def begin(self, step: int, elapsed: float) -> None:
        """Rates count from here."""
        self._beat = Beat()
        self._first_step, self._first_elapsed = step, elapsed

    def step(
        self,
        title: str,
        limit: Budget,
        step: int,
        elapsed: float,
        *,
        loss: float,
        learning_rate: float,
        observed: dict[str, float],
    ) -> None:
        """Note a step: on disk if its turn has come, on screen if the last line is old."""
        self._rate = (step - self._first_step) / max(1e-9, elapsed - self._first_elapsed)
        whole = self.budget.steps or self._rate * (self.budget.seconds or 0.0)
        if self.path is not None and step % max(1, int(whole / LINES)) == 0:
            values = {
                "loss": loss,
                "learning_rate": learning_rate,
                "examples_per_s": self._rate * self.batch_size,
                "memory_bytes": peak_memory_bytes(),
                **observed,
            }
            self.write(step, elapsed, values)
        if self._beat.due() and shown():  # a line costs a look at the memory
            show(self._line(title, limit, step, elapsed, loss))

    def write(self, step: int, elapsed: float, values: dict[str, float]) -> None:
        """One line of the curves."""
        if self.path is None:
            return
        entry = {
            "step": step,
            "seconds": round(elapsed, 3),
            "progress": round(self.budget.progress(step, elapsed), 5),
            **values,
        }
        with storage(self.path), open(self.path, "a") as file:
            file.write(json.dumps(entry) + "\n")

    def drop_after(self, step: int) -> None:
        """Forget what was noted later than the step that training goes on from."""
        if self.path is None or not self.path.is_file():
            return
        kept = []
        for line in self.path.read_text().splitlines():
            try:
                entry = json.loads(line)
            except ValueError:  # cut short by a kill
                continue
            if entry["step"] <= step:
                kept.append(line + "\n")
        self.path.write_text("".join(kept))

    def _line(self, title: str, limit: Budget, step: int, elapsed: float, loss: float) -> str:
        if limit.steps is not None:
            left = (limit.steps - step) / max(self._rate, 1e-9)
        else:
            left = (limit.seconds or 0.0) - elapsed
        return (
            f"{title}  step {step}  loss {loss:.3f}  "
            f"{self._rate * self.batch_size:,.0f} examples/s  "
            f"{format_bytes(peak_memory_bytes())}  {format_seconds(max(0.0, left))} left"
        )
