"""Tables of the stability experiment."""

import numpy as np
import xarray as xr

from experiments import lab
from experiments.stability import numbers
from experiments.stability.config import Config
from experiments.stability.figures import STEPS
from experiments.stability.numbers import Estimate, Hypothesis
from experiments.stability.schemes import PROBED, SCHEMES


def hypothesis_table(tested: dict[str, Hypothesis]) -> lab.Table:
    """Return the tests of the hypothesis, a scheme a row."""
    header = "", "best level counts", "equal to the data's", "cost of matching", "dip"
    rows = [
        [
            SCHEMES[name].label,
            ranges(np.unique(one.best)),
            f"{int((one.best == one.best.data_level).sum())} of {one.best.size} data levels",
            _percent(one.mean_cost),
            _percent(one.dip),
        ]
        for name, one in tested.items()
    ]
    return lab.Table("Matching, where every level is stable", header, rows, screen=True)


def growth_table(config: Config, growth: xr.Dataset, losses: xr.Dataset) -> lab.Table:
    """Return predicted and measured growth of equal decays, one level count a row."""
    bounds, measured = numbers.growth_bounds(growth), numbers.measured_growth(growth)
    columns = [STEPS * x.sel(scheme="equal").values for x in (*bounds, *measured)]
    bad = numbers.diverged(config, losses).sel(scheme="equal").all("seed")
    slopes = STEPS * losses.slope.sel(scheme="equal").mean("seed").where(bad)
    slopes = slopes.where(np.isfinite(slopes)).transpose("model_level", "data_level").values
    rows = []
    for m, low, high, mean, half, seen in zip(
        growth.model_level.values, *columns, slopes, strict=True
    ):
        seen = seen[np.isfinite(seen)]
        span = f"{seen.min():.2f} … {seen.max():.2f}" if seen.size else "–"
        rows.append([str(m), f"{low:.2f}", _plus_minus(mean, half, 2), f"{high:.2f}", span])
    header = "levels", "predicted, mean", "measured", "predicted, mean square", "runs with drift"
    notes = ["Runs with drift: growth of ln loss where all diverged, over data levels."]
    caption = f"Growth of ln loss per {STEPS:,} steps, equal decays"
    return lab.Table(caption, header, rows, notes, screen=True)


def threshold_table(growth: xr.Dataset, thresholds: xr.Dataset) -> lab.Table:
    """Return the largest stable learning rates, a level count a row."""
    measured = numbers.estimate(numbers.crossings(thresholds.growth))
    rows = [[str(m)] for m in growth.model_level.values]
    for name in PROBED:
        parts = (growth.mean_square_limit, *measured)
        values = zip(rows, *(part.sel(scheme=name).values for part in parts), strict=True)
        for row, predicted, mean, half in values:
            row.append(f"{predicted:.4f}\N{NO-BREAK SPACE}({_plus_minus(mean, half, 4)})")
    header = ["levels", *(SCHEMES[name].label for name in PROBED)]
    return lab.Table("Largest stable learning rate, predicted (measured)", header, rows)


def deviation_table(deviations: xr.DataArray) -> lab.Table:
    """Return how far stationary losses are from their predictions, a scheme a row."""
    rows = []
    for name in deviations.scheme.values:
        z = abs(deviations.sel(scheme=name)).stack(at=("model_level", "data_level")).dropna("at")
        if z.size:
            shares = [f"{float((z <= bound).mean()):.1%}" for bound in (2, 3)]
            m, d = z.at.values[int(z.values.argmax())]
            largest = [f"{float(z.max()):.2f}", f"({m}, {d})"]
            rows.append([SCHEMES[name].label, str(z.size), *shares, *largest])
    header = "", "combinations", "within 2 standard errors", "within 3", "largest", "at (m, d)"
    notes = [
        "Data levels share their random numbers, so deviations come in groups.",
        "Combinations whose warm-up is too short to forget the untrained model are left out.",
    ]
    return lab.Table("Measured against predicted stationary losses", header, rows, notes)


def remedy_table(config: Config, losses: xr.Dataset) -> lab.Table:
    """Return what becomes of the levels under every scheme."""
    rows = []
    bad = numbers.diverged(config, losses)
    median = losses.loss.mean("seed").median("data_level")
    for name, scheme in SCHEMES.items():
        mine, loss = bad.sel(scheme=name), median.sel(scheme=name).values
        fine = ~mine.any(("seed", "data_level")).values
        rates = losses.rate.sel(scheme=name).values
        rows.append(
            [
                scheme.label,
                f"{int(mine.sum())} of {mine.size}",
                ranges(losses.model_level.values[fine]),
                f"{loss[-1] / loss[0]:.2f}" if fine[-1] else lab.Diverged("diverged"),
                f"{rates.min():.2g}" + (f" … {rates.max():.2g}" if np.ptp(rates) else ""),
            ]
        )
    header = (
        "",
        "diverged runs",
        "level counts without",
        "loss, last / first level",
        "learning rates",
    )
    return lab.Table("Every scheme, over all combinations of levels", header, rows)


def ranges(levels: np.ndarray) -> str:
    """Return integers as "1 to 5, 7"."""
    parts = np.split(levels, np.flatnonzero(np.diff(levels) > 1) + 1)
    texts = [f"{p[0]} to {p[-1]}" if len(p) > 1 else str(p[0]) for p in parts if p.size]
    return ", ".join(texts) or "none"


def _plus_minus(mean: float, half: float, digits: int) -> str:
    """Return "mean ± half width" in one piece."""
    text = f"{mean:.{digits}f} ± {half:.{digits}f}".replace(" ", "\N{NO-BREAK SPACE}")
    return text if np.isfinite(mean) else "–"


def _percent(effect: Estimate) -> str:
    """Return an effect on a logarithm in percent, with its interval."""
    mean, half = float(effect.mean), float(effect.half_width)
    ends = [100 * np.expm1(x) for x in (mean, mean - half, mean + half)]
    return "{:+.1f} % ({:+.1f} … {:+.1f})".format(*ends) if np.isfinite(mean) else "–"
