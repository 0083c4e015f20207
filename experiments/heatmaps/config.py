"""Options of the heatmaps, and the 16 optimizers that they compare."""

import dataclasses
from pathlib import Path
from typing import Annotated, NamedTuple

from experiments import lab
from experiments.lab import models


@dataclasses.dataclass(frozen=True)
class Config:
    """Options."""

    data: lab.Data = "digits"
    download: lab.Download = False
    width: lab.Count = 64
    """Units of each hidden layer."""
    depth: Annotated[int, lab.count(0)] = 2
    """Number of hidden layers; 0 is logistic regression."""
    activation: Annotated[str, lab.choice(*models.ACTIVATIONS)] = "relu"
    """Activation of the hidden layers."""
    initialisation: Annotated[str, lab.choice(*models.INITIALISATIONS)] = "he"
    """Distribution of the initial weights."""
    batch_size: lab.Count = 64
    """Examples per step."""
    steps: lab.Count = 1024
    """Steps of each training in the heatmaps; the lengths that are compared are around it."""
    seeds: lab.Several = 5
    """Trainings of each cell, at least 2; all cells share their seeds."""
    seed: lab.Seed = 0
    quick: lab.Quick = False
    full: lab.Full = False
    device: lab.Device = "auto"
    out: lab.Folder = Path("results/heatmaps")


# Steps are powers of four, so that their root is a power of two.
QUICK = {"depth": 0, "batch_size": 16, "steps": 64, "seeds": 2}
FULL = {"data": "fashion-mnist", "width": 256, "batch_size": 128, "steps": 16_384, "seeds": 3}


def check(config: Config) -> None:
    """Raise unless all seeds are 32-bit integers."""
    limit = 2**31 - config.seeds
    if config.seed >= limit:
        raise ValueError(f"`--seed` must be less than {limit}, got {config.seed}.")


class Variant(NamedTuple):
    """An optimizer with all its settings except the two numbers of a heatmap.

    Attributes:
        family: "AdamW", "Adam + L2", "factored AdamW" or "Adafactor".
        schedule: A key of `variants.SCHEDULES`; None for Adafactor.
        normalized: Whether the weight decay is normalized.
        momentum: Decay of the first moment; None without one.
    """

    family: str
    schedule: str | None
    normalized: bool
    momentum: float | None

    @property
    def title(self) -> str:
        """Its name in the report."""
        words = [] if self.schedule is None else [self.schedule.replace("_", " ")]
        if self.family == "AdamW":
            words.append("normalized" if self.normalized else "not normalized")
        else:
            words.append("no momentum" if self.momentum is None else f"momentum {self.momentum}")
        return f"{self.family}: {', '.join(words)}"

    @property
    def across(self) -> str:
        """Name of the second number."""
        return "clip_threshold" if self.family == "Adafactor" else "weight_decay"


VARIANTS = {
    "adamw-fixed": Variant("AdamW", "fixed", False, 0.9),
    "adamw-step_drop": Variant("AdamW", "step_drop", False, 0.9),
    "adamw-cosine": Variant("AdamW", "cosine", False, 0.9),
    "adamw-warm_restarts": Variant("AdamW", "warm_restarts", False, 0.9),
    "adamw-warmup_linear_decay": Variant("AdamW", "warmup_linear_decay", False, 0.9),
    "adamw-fixed-normalized": Variant("AdamW", "fixed", True, 0.9),
    "adamw-step_drop-normalized": Variant("AdamW", "step_drop", True, 0.9),
    "adamw-cosine-normalized": Variant("AdamW", "cosine", True, 0.9),
    "adamw-warm_restarts-normalized": Variant("AdamW", "warm_restarts", True, 0.9),
    "l2-cosine": Variant("Adam + L2", "cosine", False, 0.9),
    "factored-cosine": Variant("factored AdamW", "cosine", True, None),
    "factored-cosine-momentum": Variant("factored AdamW", "cosine", True, 0.9),
    "factored-warm_restarts": Variant("factored AdamW", "warm_restarts", True, None),
    "factored-warm_restarts-momentum": Variant("factored AdamW", "warm_restarts", True, 0.9),
    "adafactor": Variant("Adafactor", None, False, None),
    "adafactor-momentum": Variant("Adafactor", None, False, 0.9),
}
# Under a schedule of one cycle, a normalized decay gives the trainings of the same heatmap without
# normalization, in other units. They are not trained twice.
ALIASES = {
    f"adamw-{schedule}-normalized": f"adamw-{schedule}"
    for schedule in ("fixed", "step_drop", "cosine")
}
LENGTHS = "run_length"
"""Name of the part that compares runs of different lengths."""
OF_LENGTHS = VARIANTS["adamw-cosine-normalized"]
"""What is trained for different lengths."""
PARTS = (*(name for name in VARIANTS if name not in ALIASES), LENGTHS)
