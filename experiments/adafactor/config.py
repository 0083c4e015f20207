"""Options of the Adafactor experiment."""

import dataclasses
from pathlib import Path
from typing import Annotated

from experiments import lab


@dataclasses.dataclass(frozen=True)
class Config:
    """Options."""

    data: lab.Data = "digits"
    download: lab.Download = False
    hidden: lab.Count = 64
    """Width of the hidden layer."""
    batch_size: lab.Count = 32
    """Examples per step."""
    steps: Annotated[int, lab.count(multiple=100)] = 2_000
    """Steps of each run, a multiple of 100."""
    caps: lab.Several = 5
    """Number of caps of the relative step, from 0.00316 at ratios of the root of 10."""
    seeds: lab.Several = 5
    """Runs of each kind."""
    seed: lab.Seed = 0
    quick: lab.Quick = False
    device: lab.Device = "auto"
    out: lab.Folder = Path("results/adafactor")


QUICK = {"hidden": 32, "steps": 500, "caps": 2, "seeds": 3}
