"""Ratios that were kept, and which of today's got worse."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import _report

KEPT = Path(__file__).with_name("kept")
# Ratios of minima taken in turns move by a tenth on a quiet machine and by a quarter on a busy one.
# What is worth a look, a lost fusion or a second compilation, costs 1.5 times and more.
TOLERANCE = 1.3


class Comparison(NamedTuple):
    """One ratio, today and when it was kept.

    Attributes:
        part: Part of the benchmark.
        name: Which times are divided.
        now: The ratio; None if it was not measured.
        kept: The one it is held against; None if there is none.
        goal: The most that it should be, if anybody said.
        comparable: Whether both were measured with the same options.
    """

    part: str
    name: str
    now: float | None
    kept: float | None
    goal: float | None
    comparable: bool

    def worse(self, tolerance: float) -> bool:
        """Return whether the ratio got worse by more than a factor of `tolerance`."""
        if self.now is None or self.kept is None or not self.comparable:
            return False
        # Not `now > tolerance * kept`, which is false for NaN.
        return math.isfinite(self.kept) and not self.now <= tolerance * self.kept


def compare(measured: Mapping[str, Any], kept: Mapping[str, Any]) -> list[Comparison]:
    """Return all ratios of the parts that were measured; both are records by part."""
    found = []
    for part, record in measured.items():
        old = kept.get(part, {})
        same = not old or record.get("config") == old.get("config")
        now, before = record["ratios"], old.get("ratios", {})
        found += [
            Comparison(
                part, name, now.get(name), before.get(name), record.get("goals", {}).get(name), same
            )
            for name in [*now, *(name for name in before if name not in now)]
        ]
    return found


def kept_file(machine: str) -> Path | None:
    """Return the file with what is kept for a machine, or for any; None if there is neither."""
    own, default = KEPT / _report.file_name(machine), KEPT / "default.json"
    return next((path for path in (own, default) if path.exists()), None)


def keep(measured: Mapping[str, Any], machine: str) -> Path:
    """Keep the ratios of the parts that were measured, beside those of the others."""
    path = KEPT / _report.file_name(machine)
    parts = json.loads(path.read_text())["parts"] if path.exists() else {}
    for part, record in measured.items():
        kept = {key: record[key] for key in ("config", "measured", "versions") if key in record}
        ratios = {name: float(f"{ratio:.4g}") for name, ratio in record["ratios"].items()}
        parts[part] = {**kept, "ratios": ratios}
    _report.write(path, {"machine": machine, "parts": parts})
    return path
