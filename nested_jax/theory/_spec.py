"""A sheet of what a linear transform does: its numbers, and its impulse response drawn small."""

import html
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nested_jax._core.checks import is_traced
from nested_jax.theory._responses import (
    checked_steady,
    impulse_response,
    response,
    waited,
)
from nested_jax.theory._stability import eigenvalues_of, frequencies_of, limit_and_radius, oriented
from nested_jax.theory._state_space import StateSpace, System, as_state_space

# A drawing shows 99 % of the weight without its sign and a quarter more, within these steps.
SHORTEST, LONGEST = 8, 2_000
# Columns of the drawing in text, and the characters of its heights.
COLUMNS = 40
BARS = "▁▂▃▄▅▆▇█"
# Each search step shrinks an interval of frequencies to 0.62 of itself; near the largest gain the
# gain is flat, so half of the digits of the frequency give all of the gain's.
SEARCH_STEPS = 60


class Spec(NamedTuple):
    """What a linear transform does, to be printed; a notebook renders it as a table.

    Attributes:
        gain: The limit of the output for the constant input 1 (`dc_gain`); negative for a finished
            optimizer.
        delay: The mean age of the inputs in an output, in steps (`mean_delay`); NaN if the gain
            is 0.
        memory_50: How many of the latest inputs carry half of the weight (`memory`).
        memory_99: How many carry 99 % of it.
        stability_limit: The largest stable learning rate × curvature on a quadratic
            (`stability_limit`); for a finished optimizer, which has its learning rate, the
            largest stable curvature.
        peak_gain: The largest gain over all frequencies, at least the modulus of `gain`.
        peak_frequency: Where it is, in radians per step: 0 for a constant, pi for an input of
            alternating sign.
        impulse_response: The outputs for 1, 0, 0, ...: the weight of each input by its age.
    """

    gain: Float[Array, ""]
    delay: Float[Array, ""]
    memory_50: Float[Array, ""]
    memory_99: Float[Array, ""]
    stability_limit: Float[Array, ""]
    peak_gain: Float[Array, ""]
    peak_frequency: Float[Array, ""]
    impulse_response: Float[Array, " step"]

    def __str__(self) -> str:
        """Return the numbers one below the other, and the impulse response as bars."""
        rows = [*_rows(self), (f"impulse response, {self.impulse_response.size} steps", "")]
        width = max(len(name) for name, _ in rows) + 2
        lines = [f"{name:<{width}}{value}".rstrip() for name, value in rows]
        return "\n".join([*lines, _bars(_drawn(self))])

    def _repr_html_(self) -> str:
        """Return a table with a drawing, as notebooks show it."""
        cells = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
            f"<td style='text-align:left'>{html.escape(value)}</td></tr>"
            for name, value in _rows(self)
        )
        steps = self.impulse_response.size
        return (
            f"<table>{cells}<tr><th style='text-align:left'>impulse response, {steps} steps</th>"
            f"<td>{_curve(_drawn(self))}</td></tr></table>"
        )


def spec(system: System) -> Spec:
    r"""Return a sheet of what a linear, time-invariant transform does.

    It gathers `dc_gain`, `mean_delay`, `memory`, `stability_limit`, `impulse_response` and the
    largest gain over all frequencies,

    .. math:: \max_{0 \le \omega \le \pi} |H(e^{i \omega})| ,

    which is above the gain if the transform amplifies some oscillation.

    Args:
        system: A transform, linear and time-invariant, or a `StateSpace`; concrete, since the sheet
            is for reading. Under `jax.vmap`, call the functions named above.

    Returns:
        The sheet; `print` it, or leave it at the end of a notebook cell. Of a system that never
        forgets, gain, delay, memory and largest gain are infinite and the limit is 0.

    Raises:
        TypeError: If `system` is of the wrong kind or traced.
        ValueError: If `system` is a transform that is refused (see `state_space`), or its response
            to a constant grows exponentially or oscillates forever.

    Example:
        >>> import nested_jax as nj
        >>> print(nj.theory.spec(nj.scale_by_nested_momentum([0.5, 0.5])))
        gain                        1
        delay, steps                2
        memory of 50 %, steps       2
        memory of 99 %, steps       10
        stability limit             3 (learning rate × curvature)
        largest gain                1 at frequency 0
        impulse response, 12 steps
        ██▆▅▃▂▂▁▁▁▁▁
    """
    system = as_state_space(system)
    if any(map(is_traced, system)):
        raise TypeError("`system` must be concrete, got traced arrays.")
    steady = checked_steady(system)
    half, most = (waited(system, steady, jnp.asarray(p, float)) for p in (0.5, 0.99))
    limit, _ = limit_and_radius(oriented(system))
    peak, frequency = _peak(system)
    weights = impulse_response(system, LONGEST)
    sizes = np.cumsum(np.abs(weights))
    shown = int(1.25 * np.searchsorted(sizes, 0.99 * sizes[-1])) + 1
    delay = jnp.where(steady.is_zero, jnp.nan, steady.delay)
    forgets = jnp.isfinite(steady.gain)
    peak, frequency = jnp.where(forgets, peak, jnp.inf), jnp.where(forgets, frequency, 0)
    weights = weights[: max(shown, SHORTEST)]
    return Spec(steady.gain, delay, half, most, limit, peak, frequency, weights)


@jax.jit
def _peak(system: StateSpace) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return the largest gain over all frequencies, and its frequency."""

    def gain(theta):
        return jnp.abs(response(system, theta))

    inner = frequencies_of(eigenvalues_of(system.transition))
    ends = jnp.asarray([0, jnp.pi], inner.dtype)
    thetas = jnp.concatenate([ends[:1], inner, ends[1:]])
    gains = jax.lax.map(gain, thetas)
    # Every state rounds. Of gains that agree up to rounding, the one at frequency 0 counts.
    slack = 1 + 4 * (1 + system.drive.size) * jnp.finfo(gains.dtype).eps
    best = jnp.where(gains.max() > gains[0] * slack, jnp.argmax(gains), 0)
    shrink = (jnp.sqrt(5.0) - 1) / 2

    def search(_, bounds):
        low, high = bounds
        left, right = high - shrink * (high - low), low + shrink * (high - low)
        goes_left = gain(left) > gain(right)
        return jnp.where(goes_left, low, left), jnp.where(goes_left, right, high)

    # The neighbours: poles in pairs have the same frequencies twice.
    found = thetas[best]
    low = jnp.max(jnp.where(thetas < found, thetas, 0))
    high = jnp.min(jnp.where(thetas > found, thetas, jnp.pi))
    refined = sum(jax.lax.fori_loop(0, SEARCH_STEPS, search, (low, high))) / 2
    # A largest gain at an end, or on a plateau, stays where it was found.
    better = gain(refined) > gains[best] * slack
    theta = jnp.where(better, refined, found)
    return gain(theta), theta


def _rows(sheet: Spec) -> list[tuple[str, str]]:
    """Return name and value of each row but the last."""
    finished = float(sheet.gain) < 0
    peak = float(sheet.peak_frequency)
    at = f"period {2 * math.pi / peak:.4g} steps" if peak > 0 else "frequency 0"
    unit = "curvature" if finished else "learning rate × curvature"
    return [
        ("gain", f"{float(sheet.gain):.4g}"),
        # Rounded, since a delay of 0 is one up to rounding; + 0.0 turns -0 into 0.
        ("delay, steps", f"{round(float(sheet.delay), 4) + 0.0:.4g}"),
        ("memory of 50 %, steps", f"{float(sheet.memory_50):.4g}"),
        ("memory of 99 %, steps", f"{float(sheet.memory_99):.4g}"),
        ("stability limit", f"{float(sheet.stability_limit):.4g} ({unit})"),
        ("largest gain", f"{float(sheet.peak_gain):.4g} at {at}"),
    ]


def _drawn(sheet: Spec) -> np.ndarray:
    """Return the impulse response, with the sign turned of a finished optimizer's."""
    return np.asarray(sheet.impulse_response, float) * (-1 if float(sheet.gain) < 0 else 1)


def _bars(weights: np.ndarray) -> str:
    """Return the weights as characters of different heights, lowest at the smallest weight."""
    at = np.linspace(0, weights.size - 1, min(weights.size, COLUMNS)).round().astype(int)
    columns = weights[at]
    low, high = min(columns.min(), 0), max(columns.max(), 0)
    heights = (columns - low) / (high - low if high > low else 1) * (len(BARS) - 1)
    return "".join(BARS[int(height)] for height in heights.round())


def _curve(weights: np.ndarray) -> str:
    """Return the weights as a line of SVG in the colour of the text, with the axis at 0."""
    width, height = 240, 48
    low, high = min(weights.min(), 0), max(weights.max(), 0)
    x = np.linspace(1, width - 1, weights.size)
    y = 1 + (high - weights) / (high - low if high > low else 1) * (height - 2)
    zero = 1 + high / (high - low if high > low else 1) * (height - 2)
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    return (
        f"<svg width='{width}' height='{height}' role='img' aria-label='impulse response'>"
        f"<line x1='0' x2='{width}' y1='{zero:.1f}' y2='{zero:.1f}' "
        "stroke='currentColor' stroke-opacity='0.3'/>"
        f"<polyline points='{points}' fill='none' stroke='currentColor' stroke-width='1.5'/></svg>"
    )
