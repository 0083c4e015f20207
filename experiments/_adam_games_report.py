"""The sections on regret of the Adam experiment's report."""

import numpy as np
import xarray as xr

from experiments import _lines
from experiments._adam_runs import GAME_RATE, METHODS, RARE, games
from experiments._sections import Section

STEPS = "step T [steps]"
FALLS = -0.1
"""R(T)/T counts as going to 0 if it falls as this power of T or a steeper one."""


def counterexamples(results: xr.Dataset) -> Section:
    """Return what comes of the games on which Adam does not converge."""
    rows = []
    for name in map(str, results.game.values):
        for method in METHODS:
            runs = results.sel(game=name, optimizer=method)
            lost, t = runs.regret.transpose("seed", "t").values, _times(runs)
            numbers = [_lines.number(x) for x in (runs["last"], lost[:, -1], _lately(t, lost))]
            rows.append([f"{name}: {method}", f"{t[-1]:,}", *numbers])
    caption = (
        "At the end, with 95 % intervals over seeds where there is chance. Lately: the regret a "
        "step since a tenth of the run, which tells what is lost for good"
    )
    return Section(
        "Where Adam does not converge",
        f"In [−1, 1], with rates {GAME_RATE:g}/√t and no bias correction, losses are played that "
        "favour −1 on the whole, by rare large gradients against many small ones. Adam divides "
        "the large ones by their own size and forgets it (β = (.9, .99); in the game of period 3 "
        f"β = (0, 1/17)). The third game draws the large loss with probability {RARE:g}: with the "
        "paper's .01 chance would decide for a million steps which side is best. SGD and Nesterov "
        "are given the rate over the largest gradient. What Adam loses a step for good is twice "
        "the mean slope: .198, 1.333 and 4.48.",
        "; ".join(_ends(results, str(name)) for name in results.game.values) + ".",
        {
            "counterexamples": (
                _games_figure(results),
                "Above: what is played (−1 is best). Below: regret over the number of steps, "
                "against the best fixed decision up to then, found exactly. Bands are 95 % "
                "intervals over seeds.",
            )
        },
        [(["game and method", "steps", "last θ", "R(T)/T [loss]", "lately [loss]"], rows, caption)],
    )


def _ends(results, name):
    texts = [
        f"{method} ends at {_lines.number(results['last'].sel(game=name, optimizer=method))}"
        for method in ("Adam", "AMSGrad")
    ]
    return f"{name}: " + ", ".join(texts)


def _times(runs):
    """Return the steps at which a game was reported."""
    windows = runs.t.values
    return windows * (int(runs.steps) // int(windows[-1]))


def _games_figure(results):
    table = games()
    figure, axes = _lines.panels(results.sizes["game"], 2, height=2.9)
    for name, (top, bottom) in zip(map(str, results.game.values), axes.T, strict=True):
        t = _times(results.sel(game=name))
        _lines.label(top, STEPS, "θ [1]", f"{name}:\n{table[name].title}", ylog=False)
        _lines.label(bottom, STEPS, "R(T)/T [loss]")
        for order, method in enumerate(METHODS):
            runs = results.sel(game=name, optimizer=method)
            _lines.line(top, t, runs.theta.transpose("seed", "t"), order, method)
            _lines.line(bottom, t, runs.regret.transpose("seed", "t"), order, method)
        top.set_ylim(-1.08, 1.08)
    _lines.legend(figure, axes[0, 0], 5)
    return figure


def _lately(t: np.ndarray, runs: np.ndarray) -> np.ndarray:
    """Return the regret a step since a tenth of the run."""
    tenth = np.searchsorted(t, t[-1] / 10)
    return (t[-1] * runs[:, -1] - t[tenth] * runs[:, tenth]) / (t[-1] - t[tenth])


def exponents(t: np.ndarray, runs: np.ndarray) -> np.ndarray:
    """Return the slope of log R(T)/T on log T over the last decade, of seeds that have one."""
    decade = t >= t[-1] / 10
    slopes = _lines.slope(t[decade], runs[:, decade])
    return slopes[np.isfinite(slopes)]


def vanishes(slopes: np.ndarray) -> bool:
    """Tell whether R(T)/T surely falls as a power of T: the interval lies below `FALLS`."""
    mean, half = _lines.interval(slopes)
    return bool(mean + half < FALLS)


def chosen(results: xr.Dataset) -> xr.DataArray:
    """Return the rate of least mean regret on the tuning seeds, for each game and method."""
    tuning = results.regret.isel(seed=slice(0, results.attrs["tuning_seeds"]), t=-1)
    return tuning.mean("seed").fillna(np.inf).idxmin("learning_rate")


def regret(results: xr.Dataset) -> Section:
    """Return what comes of games at tuned rates."""
    best = chosen(results)
    reported = results.regret.isel(seed=slice(results.attrs["tuning_seeds"], None))
    rates = results.learning_rate.values
    rows, findings = [], []
    for name in map(str, results.game.values):
        ends, stays = {}, []
        for method in METHODS:
            rate = float(best.sel(game=name, optimizer=method))
            runs = reported.sel(game=name, optimizer=method, learning_rate=rate)
            runs = runs.transpose("seed", "t").values
            ends[method] = runs[:, -1]
            edge = " (the least tried)" if rate == rates[0] else ""
            edge = " (the largest tried)" if rate == rates[-1] else edge
            slopes = exponents(results.t.values, runs)
            left = len(runs) - len(slopes)
            note = f" (of {len(slopes)} seeds: R ≤ 0 in the others)" if left else ""
            stays += [] if vanishes(slopes) else [method]
            numbers = [_lines.number(runs[:, -1]), _lines.number(slopes) + note]
            rows.append([f"{name}: {method}", f"{rate:.3g}{edge}", *numbers])
        findings.append(_finding(name, ends, stays))
    return Section(
        "Regret, with tuned rates",
        "R(T) is the loss beyond that of the best fixed decision in hindsight, which is found "
        "exactly: losses are linear or quadratic in every coordinate, and so is their sum. Rates "
        "fall as 1/√t (AdaGrad's by itself), no bias is corrected, and what is played is clipped "
        f"to [−1, 1]. Each method has the rate of least regret among {rates.size} on "
        f"{results.attrs['tuning_seeds']} seeds; the other {reported.sizes['seed']} are reported.",
        f"At T = {int(results.t[-1]):,}: " + ". ".join(findings) + ".",
        {
            "regret": (
                _regret_figure(reported, best),
                "Above: regret over the number of steps at the tuned rate. Below: at the end, for "
                "all rates, the chosen one marked (SGD's and Nesterov's are over the largest "
                "gradient). Bands are 95 % intervals over seeds; where Adam's line is not seen, "
                "AMSGrad's lies on it.",
            )
        },
        [
            (
                ["game and method", "rate", "R(T)/T [loss]", "exponent"],
                rows,
                "At the tuned rate, with 95 % intervals over seeds. The exponent is the slope of "
                "log R(T)/T on log T over the last decade of steps; R(T)/T counts as going to 0 "
                f"if its interval lies below {FALLS:g}",
            )
        ],
    )


def _finding(name, ends, stays):
    """Return in words which method loses least, and whose regret a step does not go to 0."""
    winner = min(ends, key=lambda method: ends[method].mean())
    words = f"{name}: {winner} has the least R(T)/T, {_lines.number(ends[winner])}"
    near = []
    for method, runs in ends.items():
        mean, half = _lines.interval(runs - ends[winner])  # The same losses come in a seed.
        near += [method] if method != winner and mean - half <= 0 else []
    words += f" (not surely less than {', '.join(near)})" if near else ""
    words += "" if winner == "Adam" else f" (Adam {_lines.number(ends['Adam'])})"
    return words + ", and it goes to 0 for all" + (f" but {', '.join(stays)}" if stays else "")


def _regret_figure(reported, best):
    table = games()
    figure, axes = _lines.panels(reported.sizes["game"], 2, height=2.9)
    t, rates = reported.t.values, reported.learning_rate.values
    for name, (top, bottom) in zip(map(str, reported.game.values), axes.T, strict=True):
        _lines.label(top, STEPS, "R(T)/T [loss]", f"{name}:\n{table[name].title}")
        _lines.label(bottom, "rate [1]", f"R(T)/T at T = {t[-1]:,} [loss]")
        for order, method in enumerate(METHODS):
            rate = float(best.sel(game=name, optimizer=method))
            runs = reported.sel(game=name, optimizer=method).transpose("seed", "learning_rate", "t")
            _lines.line(top, t, runs.sel(learning_rate=rate), order, method)
            _lines.line(bottom, rates, runs[..., -1], order, method)
            end = float(runs.sel(learning_rate=rate)[:, -1].mean())
            bottom.plot(rate, end, "o", color=_lines.COLOURS[order], ms=5)
        low, high = top.get_ylim()
        top.plot(t, 0.8 * high * (t / t[0]) ** -0.5, label="∝ 1/√T", **_lines.PREDICTED)
        top.set_ylim(low, high)
    _lines.legend(figure, axes[0, 0], 6)
    return figure
