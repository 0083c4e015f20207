"""The first section of the Adafactor report: whether clipping helps."""

import itertools

import xarray as xr

from experiments import lab
from experiments.adafactor import figures, numbers
from experiments.adafactor.runs import BETAS, CAP, CONSTANT, PAPER
from experiments.lab.figures import factor, geometric_interval, number, verdict

CAPS = f"""
The larger the step, the more a stale second moment costs. The step is at most a cap times RMS(θ);
the paper's cap is {CAP:g}. Clipping shortens steps, so equal caps are unequal steps, and each
method is compared at its own best cap. The loss of each seed is that at the cap that is best for
the other seeds. Losses differ by factors, so their logarithms are averaged. The following sections
show when the second moment is stale.
"""
EFFECTS = (
    "the last training loss {} times lower",
    "the last training loss {} times higher",
)
"""What clipping does if the loss without it, divided by that with it, is above or below 1."""


def clipping(runs: xr.Dataset, shift: xr.Dataset) -> lab.Section:
    """Compare the losses without clipping and with it, each at its best cap."""
    parts = dict(zip((figures.UNCLIPPED, figures.CLIPPED), figures.by_clipping(runs), strict=True))
    rows, effects, edges = [], {}, (float(runs.cap[0]), float(runs.cap[-1]))
    for beta2 in BETAS:
        losses = [part.train_loss.sel(beta2=beta2) for part in parts.values()]
        caps = [numbers.best_cap(x) for x in losses]
        free, clipped = (numbers.at_best_cap(x) for x in losses)
        effects[beta2] = verdict(free / clipped, *EFFECTS)
        cells = [f"{cap:.3g}{'*' if cap in edges else ''}" for cap in caps]
        means = (f"{float(geometric_interval(x)[0]):.2g}" for x in (free, clipped))
        pair = zip(cells, means, strict=True)
        rows.append([beta2, *itertools.chain(*pair), factor(free / clipped)])
    header = ["β₂", "best cap, unclipped", "loss [nat]", "clipped", "loss [nat]", "ratio"]
    first = figures.by_clipping(runs.sel(cap=CAP, method="nearest"))[0].update_rms.isel(t=0)
    later = figures.by_clipping(shift.isel(t=shift.t.values > shift.t.values[-1] // 2))[0]
    gauges = first, later.update_rms.max("t")
    starts, peaks = ([number(x.sel(beta2=name)) for name in (CONSTANT, PAPER)] for x in gauges)
    return lab.Section(
        title="Clipping",
        answer="With each method at its best cap of the step, clipping makes "
        f"{effects[CONSTANT]} with a constant β₂ = {CONSTANT}, and {effects[PAPER]} with the "
        "paper's schedule. RMS(u), which is 1 when the second moment is up to date, begins at "
        f"{starts[0]} and {starts[1]}, and rises to {peaks[0]} and {peaks[1]} when the gradients "
        "change.",
        body=CAPS,
        figures={
            "caps": (
                figures.caps(runs),
                "Training loss after the last step, against the cap of the relative step. Bands "
                "are 95 % intervals over seeds, of the logarithm. Filled marks are best caps.",
            )
        },
        tables=[
            lab.Table(
                "Last training loss at the best cap, geometric means over seeds",
                header,
                rows,
                [
                    "Ratio: loss without clipping / loss with it, with 95 % intervals over seeds.",
                    "* The smallest or the largest cap tried.",
                ],
                screen=True,
            )
        ],
    )
