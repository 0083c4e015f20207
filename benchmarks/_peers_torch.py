"""The level sweep in PyTorch, all runs at once, one operation at a time, without autograd."""

import importlib.util
import os
import time

import numpy as np

from benchmarks._task import DECAY, DIM, FEATURES, LEVELS, NOISE_STD, RATE, Peer, Task

NAME = "PyTorch, all runs at once, scaled"


def peers(task: Task, part: int) -> dict[str, Peer]:
    """Return the peer, which runs `part` steps, scaled up; none where PyTorch is missing."""
    if importlib.util.find_spec("torch") is None:
        return {}
    import torch  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(os.cpu_count() or 1)
    short = task.first(part)

    def timed():
        started = time.perf_counter()
        sweep(short)
        # Fewer steps are another sweep, whose losses cannot be compared here.
        return (time.perf_counter() - started) * task.steps / short.steps, None

    return {NAME: timed}


def sweep(task: Task) -> np.ndarray:
    """Return the losses [model level, data level]."""
    import torch  # pyright: ignore[reportMissingImports]

    with torch.inference_mode():
        draws = {name: torch.from_numpy(values) for name, values in task.draws.items()}
        kind = draws["model"].dtype
        level = torch.arange(1, LEVELS + 1)
        inner = torch.arange(LEVELS)[:, None, None]
        keep_data = DECAY * (inner < level[:, None]).to(kind)
        keep_model = DECAY * (inner[:-1] < level[:, None] - 1).to(kind)[..., None]
        take_data, take_model = 1 - keep_data, 1 - keep_model
        world = [weights.expand(LEVELS, DIM) for weights in draws["world"]]
        momenta = [torch.zeros(LEVELS, LEVELS, FEATURES, dtype=kind) for _ in keep_model]
        w = (2 * draws["model"]).expand(LEVELS, LEVELS, FEATURES).clone()
        features = torch.cat([draws["inputs"], torch.ones(task.steps, 1, dtype=kind)], 1)
        total = torch.zeros(LEVELS, LEVELS, dtype=kind)
        for t in range(task.steps):
            flow = draws["drift"][t]
            for i in reversed(range(LEVELS)):
                flow = world[i] = keep_data[i] * world[i] + take_data[i] * flow
            target = flow @ draws["inputs"][t] + NOISE_STD * draws["noise"][t]
            error = w @ features[t] - target
            flow = 2 * error[..., None] * features[t]
            for i in reversed(range(LEVELS - 1)):
                flow = momenta[i] = keep_model[i] * momenta[i] + take_model[i] * flow
            w -= RATE * flow
            if t >= task.warmup:
                total += error**2
        return (total / (task.steps - task.warmup)).numpy()
