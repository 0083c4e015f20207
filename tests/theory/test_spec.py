"""Tests of spec sheets: closed forms, the functions that they gather, and what is printed."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nested_jax as nj
from nested_jax import theory
from tests.theory.test_linearity import LINEAR

RTOL = 1e-11  # Solving loses the digits of 1 / (1 - decay).
FLAT_RTOL = (
    1e-6  # Of a frequency: near the largest gain the gain is flat, which takes half the digits.
)
# Of every size of state, readout and sign.
COMPARED = (
    "scale_by_nested_momentum",
    "scale_by_nested_momentum[none]",
    "scale_by_nested_momentum[zero_lag]",
    "scale_by_nested_momentum[mean]",
    "momentum",
    "nested_momentum",
    "optax.trace[nesterov]",
    "optax.set_to_zero",
    "test.delay",
)


def test_an_average_in_closed_form(x64):
    sheet = theory.spec(nj.scale_by_nested_momentum([0.95]))
    np.testing.assert_allclose(sheet.gain, 1, rtol=RTOL)
    np.testing.assert_allclose(sheet.delay, 19, rtol=RTOL)
    assert sheet.memory_50 == np.ceil(np.log(0.5) / np.log(0.95))
    assert sheet.memory_99 == np.ceil(np.log(0.01) / np.log(0.95))
    np.testing.assert_allclose(sheet.stability_limit, 78, rtol=RTOL)
    np.testing.assert_allclose(sheet.peak_gain, 1, rtol=RTOL)
    assert sheet.peak_frequency == 0
    ages = np.arange(sheet.impulse_response.size)
    np.testing.assert_allclose(sheet.impulse_response, 0.05 * 0.95**ages, rtol=RTOL)
    assert ages.size == pytest.approx(1.25 * 90, abs=2)


def test_rounding_moves_no_peak_away_from_0():
    for m in (4, 8, 12):  # In float32, more levels round more.
        sheet = theory.spec(nj.scale_by_nested_momentum(nj.nested_decays(m, max_levels=m)))
        assert sheet.peak_frequency == 0


@pytest.mark.parametrize("name", COMPARED)
def test_it_gathers_what_the_functions_return(name, x64):
    system = theory.as_state_space(LINEAR[name])
    sheet = theory.spec(system)
    assert sheet.gain == theory.dc_gain(system)
    np.testing.assert_array_equal(sheet.stability_limit, theory.stability_limit(system))
    if abs(sheet.gain) > 1e-9:
        assert sheet.delay == theory.mean_delay(system)
        assert sheet.memory_99 == theory.memory(system, 0.99)
    grid = np.abs(theory.frequency_response(system, np.linspace(0, np.pi, 2_001)))
    assert grid.max() <= sheet.peak_gain * (1 + RTOL)
    # No grid point is farther from the largest than half of its spacing.
    assert sheet.peak_gain <= grid.max() * 1.01
    at_peak = np.abs(theory.frequency_response(system, sheet.peak_frequency))
    np.testing.assert_allclose(sheet.peak_gain, at_peak, rtol=RTOL)


def test_a_resonance_in_closed_form(x64):
    """1 / (1 - 2 r cos(p) / z + r^2 / z^2) is largest where cos w = cos p (1 + r^2) / (2 r)."""
    r, p = 0.9, 1.0
    transition = jnp.array([[2 * r * np.cos(p), -(r**2)], [1.0, 0.0]])
    drive = jnp.array([1.0, 0.0])
    system = theory.StateSpace(transition, drive, transition[0], jnp.ones(()))
    sheet = theory.spec(system)
    w = np.arccos(np.cos(p) * (1 + r**2) / (2 * r))
    np.testing.assert_allclose(sheet.peak_frequency, w, rtol=FLAT_RTOL)
    np.testing.assert_allclose(sheet.peak_gain, 1 / ((1 - r**2) * np.sin(p)), rtol=RTOL)
    assert f"at period {2 * np.pi / w:.4g} steps" in str(sheet)


def test_what_never_forgets():
    sheet = theory.spec(optax.trace(1.0))
    assert np.isposinf([sheet.gain, sheet.delay, sheet.memory_50, sheet.peak_gain]).all()
    assert sheet.stability_limit == 0
    assert (sheet.impulse_response == 1).all()


def test_a_response_that_ends_at_0(x64):
    """The difference of two inputs has gain 0: no delay, and the largest gain at pi."""
    zero, one = jnp.zeros((1, 1)), jnp.ones(1)
    sheet = theory.spec(theory.StateSpace(zero, one, -one, jnp.ones(())))
    assert sheet.gain == 0
    assert np.isnan([sheet.delay, sheet.memory_50, sheet.memory_99]).all()
    np.testing.assert_allclose([sheet.peak_gain, sheet.peak_frequency], [2, np.pi], rtol=FLAT_RTOL)


def test_what_is_printed_and_rendered():
    sheet = theory.spec(nj.nested_momentum(0.5, levels=3, decay=0.5))
    text, page = str(sheet), sheet._repr_html_()
    for number in ("-0.5", "delay, steps", "(curvature)", f"{sheet.impulse_response.size} steps"):
        assert number in text
        assert number in page
    # One bar a step, the tallest where the weight is largest, whatever the sign of the optimizer.
    bars = text.splitlines()[-1]
    assert len(bars) == min(sheet.impulse_response.size, 40)
    assert bars.index("█") == int(jnp.argmin(sheet.impulse_response))
    (points,) = re.findall("points='(.*?)'", page)
    heights = [float(point.split(",")[1]) for point in points.split()]
    assert len(heights) == sheet.impulse_response.size
    assert np.argmin(heights) == int(jnp.argmin(sheet.impulse_response))


@pytest.mark.parametrize(
    ("system", "error", "message"),
    [
        (3, TypeError, "`system` must"),
        (optax.scale_by_adam(), ValueError, "`system` must be"),
        (optax.trace(1.5), ValueError, "`system` must forget its inputs"),
    ],
)
def test_what_is_refused(system, error, message):
    with pytest.raises(error, match=message):
        theory.spec(system)


def test_a_traced_system_is_refused():
    with pytest.raises(TypeError, match="`system` must be concrete, got traced arrays"):
        jax.jit(lambda decay: theory.spec(theory.cascade([decay])).gain)(0.5)
