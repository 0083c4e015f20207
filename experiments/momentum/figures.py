"""Figures of the momentum experiment."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from experiments.lab.figures import Powers, interval, label, legend, panels
from experiments.momentum.runs import CONTROL, FIRST, RACERS, effort
from experiments.momentum.surfaces import SURFACES, Surface

NAMES = {
    "gradient_descent": "gradient descent",
    "heavy_ball": "heavy ball",
    "nesterov": "Nesterov",
    "nesterov_quadratic": "Nesterov, best on quadratics",
}
# Okabe and Ito's colours; dashes and markers differ too.
STYLES = {
    "gradient_descent": {"color": "#0072b2", "ls": "-", "marker": "o"},
    "heavy_ball": {"color": "#d55e00", "ls": "--", "marker": "s"},
    "nesterov": {"color": "#009e73", "ls": "-.", "marker": "^"},
    "nesterov_quadratic": {"color": "#cc79a7", "ls": ":", "marker": "D"},
}
DIVERGED = {"marker": "X", "color": "black", "ls": "", "ms": 7, "zorder": 4}
DEEPEST = 1e-12
"""Smaller errors and losses are not drawn."""
RESOLUTION = 160
"""Points along each side of a contour map."""


def figures(results: Mapping[str, xr.Dataset]) -> dict[str, tuple[Figure, str]]:
    """Return name -> (figure, caption)."""
    surfaces = results["surfaces"]
    return {
        "rates": (
            _rates(results["quadratics"]),
            "1 − the asymptotic factor of the error per step, against the condition number, each "
            "method at its optimal constants. Lines: closed forms; markers: measured.",
        ),
        "errors": (
            _errors(results["quadratics"]),
            "Error of one run, with the predicted slope in grey. The two slowest eigenvalues of "
            "heavy ball coincide, so its error starts to fall later than the slope suggests.",
        ),
        "velocities": (
            _velocities(results["velocities"]),
            "Speed down a constant slope, in units of learning rate × gradient. Dotted: the "
            "terminal velocity, 1/(1 − decay).",
        ),
        "rescaling": (
            _rescaling(results["regression"]),
            "Loss of the online regression when momentum is introduced, with the learning rate "
            "kept or multiplied by 1 − decay. Left: mean loss after a fifth of the run, with 95 % "
            "intervals over seeds. Right: loss over the run.",
        ),
        "contours": (
            _contours(surfaces),
            "Paths on the loss surface, each method at its best learning rate. Bold: from the "
            "start (circle); thin: from the control (square). Grey: the loss, on a logarithmic "
            "scale.",
        ),
        "along": (
            _along(surfaces),
            "Along the bold paths: loss, largest eigenvalue of the Hessian, and the Hessian's "
            "condition number, the largest over the smallest modulus of an eigenvalue.",
        ),
        "learning_rates": (
            _learning_rates(results["tuning"], surfaces.sizes["step"] - 1),
            "Mean number of steps until the loss stays below the goal, over all starts except the "
            "control. Runs that do not arrive count with all their steps. Crosses at the top: "
            "learning rates at which runs of the method diverged.",
        ),
    }


def _lines(name: str, **changes) -> dict:
    style = {key: value for key, value in STYLES[name].items() if key != "marker"}
    return style | {"label": NAMES[name]} | changes


def _rates(quadratics: xr.Dataset) -> Figure:
    figure, ((ax,),) = panels(1, width=6.4, height=4.4)
    conditions = quadratics.condition.values
    for name in quadratics.algorithm.values:
        found = quadratics.sel({"algorithm": name})
        ax.loglog(conditions, 1 - found.predicted, **_lines(name))
        marker = {"marker": STYLES[name]["marker"], "color": STYLES[name]["color"], "mfc": "none"}
        ax.loglog(conditions, 1 - found.measured, ls="", **marker)
    label(ax, "condition number of the quadratic", "1 − factor of the error per step")
    legend(figure, ax, 2)
    return figure


def _errors(quadratics: xr.Dataset) -> Figure:
    figure, ((ax,),) = panels(1, width=6.4, height=4.4)
    conditions = quadratics.condition.values
    condition = conditions[np.argmin(abs(np.log(conditions / 100)))]
    at = quadratics.sel(condition=condition)
    shown = 3 * np.log(1 / DEEPEST) / -np.log(float(at.predicted.min()))
    at = at.pad(step=(1, 0), constant_values=0).assign_coords(step=np.append(0, at.step))
    for name in at.algorithm.values:
        found = at.sel({"algorithm": name})
        steps, errors = found.step.values, found.log_error.values / np.log(10)
        seen = (steps <= shown) & (errors > np.log10(DEEPEST))
        slope = steps * np.log10(float(found.predicted))
        ax.plot(steps[seen], slope[seen], color="0.7", lw=1)
        ax.plot(steps[seen], errors[seen], **_lines(name))
    ax.set_ylim(np.log10(DEEPEST), 0.5)
    ax.set_xlim(0, shown)
    x, y = f"step, condition number {condition:.4g}", "log₁₀(error / initial error)"
    label(ax, x, y, xlog=False, ylog=False)
    legend(figure, ax, 2)
    return figure


def _velocities(velocities: xr.Dataset) -> Figure:
    figure, ((ax,),) = panels(1, width=6.4, height=4.4)
    steps = velocities.step.values
    for decay in velocities.decay.values:
        at = velocities.sel(decay=decay)
        for name in velocities.algorithm.values:
            unnamed = {} if decay == velocities.decay.values[0] else {"label": None}
            ax.loglog(steps, at.speed.sel({"algorithm": name}), **_lines(name, **unnamed))
        limit = float(at.predicted[0])
        ax.axhline(limit, color="0.4", ls=":", lw=1)
        place = {"textcoords": "offset points", "xytext": (-4, 3), "ha": "right", "fontsize": 9}
        ax.annotate(f"decay {decay:g}", (steps[-1], limit), **place)
    ax.set_ylim(0.8, 1.5 * float(velocities.predicted.max()))
    ax.set_xlim(1, steps[-1])
    label(ax, "step", "speed [learning rate × gradient]")
    legend(figure, ax, 2)
    return figure


def _rescaling(regression: xr.Dataset) -> Figure:
    figure, ((left, right),) = panels(2, height=4.4)
    decays = regression.decay.values
    places, top = np.arange(len(decays)), 0.97
    drawn = {
        "kept": {"color": "#d55e00", "ls": "--", "marker": "s"},
        "rescaled": {"color": "#0072b2", "ls": "-", "marker": "o"},
    }
    lost = regression.diverged.any("seed")
    for rate, style in drawn.items():
        found = regression.sel(rate=rate)
        fine = ~lost.sel(rate=rate).values
        mean, half = interval(found.loss.where(~found.diverged).transpose("seed", "decay"))
        where = places[fine]
        bars = left.errorbar(where, mean[fine], half[fine], **style, capsize=3)
        bars.set_label(f"rate {rate}")
        hollow = {"ls": "", "marker": "_", "ms": 16, "mew": 2, "color": style["color"]}
        shown = np.isfinite(found.predicted.values)
        left.plot(places[shown], found.predicted[shown], **hollow, label=f"predicted, {rate}")
        if not fine.all():
            mark = DIVERGED | {"transform": left.get_xaxis_transform(), "clip_on": False}
            count = int(found.diverged.sum()), found.diverged[~fine].size
            text = f"{rate}: diverged ({count[0]} of {count[1]} runs)"
            left.plot(places[~fine], np.full((~fine).sum(), top), **mark, label=text)
    left.set_xticks(places, [f"{decay:g}" for decay in decays])
    label(left, "decay of the momentum", "mean loss [squared error]", xlog=False)
    _plain_log(left)

    # The largest decay at which the kept rate converges, and gradient descent for comparison.
    fine = ~lost.sel(rate="kept").values
    shown = decays[np.flatnonzero(fine)[-1]] if fine.any() else decays[0]
    steps = regression.step.values
    plain = regression.sel(rate="kept", decay=decays[0]).curve.mean("seed")
    right.semilogy(steps, plain, color="#009e73", ls="-.", label="no momentum")
    for rate, style in drawn.items():
        curve = regression.sel(rate=rate, decay=shown).curve.mean("seed")
        line = {"color": style["color"], "ls": style["ls"]}
        right.semilogy(steps, curve, **line, label=f"decay {shown:g}, rate {rate}")
    label(right, "step", "loss [squared error]", xlog=False)
    _plain_log(right)
    for ax in (left, right):
        # Above the axes, where it hides nothing.
        place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": 2}
        ax.legend(**place, frameon=False, fontsize=8)
    return figure


def _plain_log(ax: Axes) -> None:
    """Label a logarithmic axis of less than two decades with plain numbers."""
    low, high = ax.get_ylim()
    ticks = [
        m * 10.0**e for e in range(-4, 7) for m in (1, 2, 3, 5, 7) if low <= m * 10.0**e <= high
    ]
    ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.yaxis.set_minor_formatter(NullFormatter())


def _contours(surfaces: xr.Dataset) -> Figure:
    figure, axes = panels(2, 2, height=4.6)
    for ax, (word, surface) in zip(axes.flat, SURFACES.items(), strict=True):
        ax.grid(visible=False)
        mesh = _map(ax, surface)
        bar = figure.colorbar(mesh, ax=ax, label="loss", ticks=LogLocator())
        bar.ax.yaxis.set_major_formatter(Powers())
        for name in RACERS:
            for start, width in ((CONTROL, 0.8), (FIRST, 1.8)):
                found = surfaces.sel({"surface": word, "algorithm": name, "start": start})
                path = found.path.where(np.isfinite(found.path)).values
                own = {"lw": width, "alpha": 0.9, "marker": ".", "ms": 2 + width, "mew": 0}
                named = NAMES[name] if start == FIRST else None
                ax.plot(*path.T, **_lines(name, **own, label=named))
        begin = {"mfc": "white", "mec": "black", "ls": "", "zorder": 5}
        ax.plot(*surface.start, marker="o", label="start", **begin)
        ax.plot(*surface.control, marker="s", label="control", **begin)
        ax.set_xlim(*surface.window[0])
        ax.set_ylim(*surface.window[1])
        label(ax, *surface.names, surface.title, xlog=False, ylog=False)
    legend(figure, axes[0, 0], 5)
    return figure


def _map(ax: Axes, surface: Surface):
    """Draw a loss as filled contours at equal ratios."""
    sides = [np.linspace(low, high, RESOLUTION) for low, high in surface.window]
    points = jnp.asarray(np.stack(np.meshgrid(*sides), axis=-1))
    losses = np.asarray(jax.jit(jax.vmap(jax.vmap(surface.loss)))(points))
    # Near the minimum the logarithm would take up all colours.
    low = max(float(losses.min()), 1e-3 * float(losses.max()))
    levels = np.geomspace(low, losses.max(), 25)
    options = {"levels": levels, "norm": LogNorm(levels[0], levels[-1]), "cmap": "Greys_r"}
    mesh = ax.contourf(*sides, np.maximum(losses, low), **options)
    ax.contour(*sides, losses, levels=levels[1::2], colors="white", linewidths=0.3)
    return mesh


def _along(surfaces: xr.Dataset) -> Figure:
    figure, grid = panels(len(SURFACES), 3, width=12.8, height=2.8)
    for column, (word, surface) in zip(grid.T, SURFACES.items(), strict=True):
        for name in RACERS:
            found = surfaces.sel({"surface": word, "algorithm": name, "start": FIRST})
            steps = np.arange(found.sizes["step"])
            height = found.height.where(found.height > DEEPEST)
            column[0].semilogy(steps, height, **_lines(name))
            column[1].plot(steps, found.largest, **_lines(name))
            condition = found.condition.where(np.isfinite(found.condition))
            column[2].semilogy(steps, condition, **_lines(name))
        column[0].axhline(surface.goal, color="0.4", ls=":", lw=1)
        column[0].set_title(surface.title, fontsize=11)
        column[2].set_xlabel("step")
    texts = ("loss (dotted: the goal)", "largest eigenvalue", "condition number")
    for row, text in zip(grid, texts, strict=True):
        row[0].set_ylabel(text)
    legend(figure, grid[0, 0], 3)
    return figure


def _learning_rates(tuning: xr.Dataset, steps: int) -> Figure:
    figure, axes = panels(2, 2, height=3.6)
    efforts = effort(tuning.settled, steps)
    lost = tuning.diverged.drop_sel(start=CONTROL).any("start")
    for ax, (word, surface) in zip(axes.flat, SURFACES.items(), strict=True):
        rates = tuning.learning_rate.sel(surface=word).values
        for i, name in enumerate(RACERS):
            point = {"surface": word, "algorithm": name}
            ax.plot(rates, efforts.sel(point), **_lines(name))
            wrong = lost.sel(point).values
            mark = DIVERGED | {"ms": 5, "color": STYLES[name]["color"]}
            ax.plot(rates[wrong], np.full(wrong.sum(), steps * (1.05 + 0.05 * i)), **mark)
        label(ax, "learning rate", "steps to the goal", surface.title, ylog=False)
        ax.set_ylim(0, 1.2 * steps)
    legend(figure, axes[0, 0], 3)
    return figure
