"""Tests of `regress` against plain QR in float64 and against the published regressions."""

import csv
import dataclasses
import json
import math
import pathlib

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from experiments import levels
from experiments.levels.regression import Regression, Term, format_p, regress

PUBLISHED = pathlib.Path(levels.__file__).with_name("published_losses.csv")
# QR and the pseudo-inverse lose the design's condition (under 1e3 here) times 40 roundings.
QR_RTOL = 1e-11
# The published fit is a pseudo-inverse of the unscaled design; at least 10 digits are asked for.
PUBLISHED_RTOL = 1e-10
PRINTED_ATOL = 0.5001e-4  # Printed with four decimals.

LEVELS = "~ model_level + data_level"
RAW = {  # estimate, standard error, low, high, p as printed
    "Intercept": (
        -7.593125971676636e75,
        3.142347707867816e75,
        -1.3772906312533247e76,
        -1.413345630820024e75,
        0.0162,
    ),
    "model_level": (
        1.451237950856866e75,
        2.072002719188009e74,
        1.0437553021932722e75,
        1.8587205995204599e75,
        0.0,
    ),
    "data_level": (
        9.754508443968440e73,
        2.072002719188007e74,
        -3.0993756422390883e74,
        5.0502773310327761e74,
        0.6381,
    ),
}
LOG = {
    "Intercept": (-23.4943, 4.5257, -32.3946, -14.5940, 0.0),
    "model_level": (12.9085, 0.2984, 12.3216, 13.4954, 0.0),
    "data_level": (-0.0347, 0.2984, -0.6216, 0.5522, 0.9075),
}


@pytest.fixture(scope="module")
def published():
    with PUBLISHED.open() as file:
        rows = list(csv.DictReader(file))
    return pd.DataFrame({name: [float(row[name]) for row in rows] for name in rows[0]})


@pytest.fixture
def sample():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 40))
    return pd.DataFrame({"a": a, "b": b, "y": 1 + 2 * a - 3 * b + rng.normal(size=40)})


def ols(y, x, level):
    """Return columns estimate, standard error, low, high, t, p and R², by QR."""
    q, r = np.linalg.qr(x)
    estimate = np.linalg.solve(r, q.T @ y)
    residual, dof = y - x @ estimate, len(y) - x.shape[1]
    r_inverse = np.linalg.inv(r)
    std_error = np.sqrt(residual @ residual / dof * np.sum(r_inverse**2, axis=1))
    half = scipy.stats.t.ppf((1 + level) / 2, dof) * std_error
    t = estimate / std_error
    p = 2 * scipy.stats.t.sf(np.abs(t), dof)
    r_squared = 1 - residual @ residual / np.sum((y - y.mean()) ** 2)
    return np.stack([estimate, std_error, estimate - half, estimate + half, t, p], 1), r_squared


def numbers(regression):
    """Return the terms' six numbers as an array, one row a term."""
    return np.array(
        [[v for v in vars(term).values() if not isinstance(v, str)] for term in regression.terms]
    )


def make(*terms, **changes):
    fields = {"formula": "y ~ a", "r_squared": 0.5, "n": 9, "dof": 7, "dropped_nan": 0}
    return Regression(terms=terms, **(fields | {"dropped_inf": 0, "level": 0.95} | changes))


@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
def test_matches_qr(sample, level):
    actual = regress(sample, "y ~ a + b + a:b", level=level)
    a, b, y = (sample[name].to_numpy() for name in "aby")
    table, r_squared = ols(y, np.stack([np.ones(40), a, b, a * b], 1), level)
    assert [term.name for term in actual.terms] == ["Intercept", "a", "b", "a:b"]
    np.testing.assert_allclose(numbers(actual), table, rtol=QR_RTOL)
    assert actual.r_squared == pytest.approx(r_squared, rel=QR_RTOL)
    assert (actual.n, actual.dof, actual.level) == (40, 36, level)
    assert actual.note == "All 40 rows used."


def test_reproduces_the_published_regression_of_the_loss(published):
    actual = regress(published, f"loss {LEVELS}")
    assert (actual.n, actual.dof) == (361, 358)
    assert actual.r_squared == pytest.approx(0.1210, abs=PRINTED_ATOL)
    for term in actual.terms:
        *expected, p = RAW[term.name]
        got = [term.estimate, term.std_error, term.low, term.high]
        np.testing.assert_allclose(got, expected, rtol=PUBLISHED_RTOL)
        assert term.p == pytest.approx(p, abs=PRINTED_ATOL)
    assert [term.code for term in actual.terms] == ["*", "***", ""]


def test_reproduces_the_published_regression_of_the_log_loss(published):
    actual = regress(published, f"np.log(loss) {LEVELS}")
    assert actual.r_squared == pytest.approx(0.8394, abs=PRINTED_ATOL)
    for term in actual.terms:
        got = [term.estimate, term.std_error, term.low, term.high, term.p]
        np.testing.assert_allclose(got, LOG[term.name], rtol=0, atol=PRINTED_ATOL)


@pytest.mark.parametrize("exponent", [-1000, 900, 1020])
def test_an_exact_scale_of_the_response_changes_only_the_estimates(sample, exponent):
    plain = regress(sample, "y ~ a + b")
    scaled = regress(sample.assign(y=np.ldexp(sample["y"], exponent)), "y ~ a + b")
    np.testing.assert_array_equal(numbers(scaled)[:, :4], np.ldexp(numbers(plain)[:, :4], exponent))
    np.testing.assert_array_equal(numbers(scaled)[:, 4:], numbers(plain)[:, 4:])
    assert scaled.r_squared == plain.r_squared


@pytest.mark.parametrize("exponent", [-1000, 900])
def test_an_exact_scale_of_a_regressor_changes_only_its_estimate(sample, exponent):
    plain = numbers(regress(sample, "y ~ a + b"))
    plain[1, :4] = np.ldexp(plain[1, :4], -exponent)
    scaled = regress(sample.assign(a=np.ldexp(sample["a"], exponent)), "y ~ a + b")
    np.testing.assert_array_equal(numbers(scaled), plain)


def test_losses_of_1e300_do_not_overflow(sample):
    y = np.exp(sample["y"])
    plain, huge = (regress(sample.assign(y=y * s), "y ~ a + b") for s in (1.0, 1e300))
    scale = np.array([1e300] * 4 + [1.0] * 2)
    np.testing.assert_allclose(numbers(huge), numbers(plain) * scale, rtol=QR_RTOL)
    assert huge.r_squared == pytest.approx(plain.r_squared, rel=QR_RTOL)


def test_counts_and_leaves_out_nan_and_infinite_rows(published):
    spoiled = published.copy()
    spoiled.loc[[0, 10], "loss"] = 0.0  # log: -inf
    spoiled.loc[[20, 30], "loss"] = math.inf
    spoiled.loc[40, "data_level"] = math.inf
    spoiled.loc[50, "loss"] = math.nan
    spoiled.loc[60, "loss"] = -1.0  # log: NaN
    spoiled.loc[70, ["loss", "data_level"]] = math.inf, math.nan
    actual = regress(spoiled, f"np.log(loss) {LEVELS}")
    assert (actual.dropped_inf, actual.dropped_nan, actual.n) == (5, 3, 353)
    assert actual.note == "8 of 361 rows left out: 5 infinite, 3 NaN."
    kept = published.drop([0, 10, 20, 30, 40, 50, 60, 70])
    alone = regress(kept, f"np.log(loss) {LEVELS}")
    np.testing.assert_array_equal(numbers(actual), numbers(alone))
    # Without the logarithm, 0 and -1 are losses like any other.
    assert regress(spoiled, f"loss {LEVELS}").note == "5 of 361 rows left out: 3 infinite, 2 NaN."


def test_a_row_that_is_both_counts_as_nan(sample):
    sample.loc[0, ["a", "b"]] = math.inf, 0.0  # Their product is NaN.
    assert regress(sample, "y ~ a + a:b").note == "1 of 40 rows left out: 0 infinite, 1 NaN."


def test_index_and_order_of_rows_do_not_matter(sample):
    sample.loc[3, "y"] = math.nan
    sample.loc[5, "y"] = math.inf
    again = sample.set_index(np.zeros(40, int)).iloc[::-1]
    plain, other = regress(sample, "y ~ a + b"), regress(again, "y ~ a + b")
    np.testing.assert_allclose(numbers(other), numbers(plain), rtol=QR_RTOL)
    assert other.note == plain.note == "2 of 40 rows left out: 1 infinite, 1 NaN."


def test_a_constant_response_is_refused_only_beside_a_constant(sample):
    with pytest.raises(ValueError, match=r"The response is 7.0 in all rows. All 40 rows used."):
        regress(sample.assign(y=7.0), "y ~ a")
    with pytest.raises(ValueError, match=r"The response is 0.0 in all rows"):
        regress(sample.assign(y=0.0), "y ~ a - 1")
    a = sample["a"].to_numpy()
    actual = regress(sample.assign(y=7.0), "y ~ a - 1")
    assert actual.terms[0].estimate == pytest.approx(7 * a.sum() / (a @ a), rel=QR_RTOL)


def test_an_exact_fit_is_reported_and_is_json(sample):
    actual = regress(sample.assign(y=2 * sample["a"]), "y ~ a - 1")
    assert actual.terms[0].estimate == pytest.approx(2.0, rel=QR_RTOL)
    assert actual.terms[0].p == 0.0
    assert actual.table("").rows[0][8] == "<1e-300"
    json.dumps(actual.to_dict(), allow_nan=False)


def test_too_few_rows_or_dependent_terms_have_no_fit(sample):
    with pytest.raises(ValueError, match=r"too few finite rows for 3 terms. All 3 rows used"):
        regress(sample[:3], "y ~ a + b")
    regress(sample[:4], "y ~ a + b")
    with pytest.raises(ValueError, match=r"too few finite rows .* 39 infinite, 1 NaN"):
        regress(sample.assign(y=[math.inf] * 39 + [math.nan]), "y ~ a")
    with pytest.raises(ValueError, match=r"The term b is a linear combination of those before"):
        regress(sample.assign(b=3 * sample["a"] - 1), "y ~ a + b")


def test_dict_survives_json_with_all_digits(published):
    actual = regress(published, f"loss {LEVELS}")
    read = json.loads(json.dumps(actual.to_dict(), allow_nan=False))
    assert read == actual.to_dict()
    assert read["note"] == actual.note
    terms = tuple(Term(**term) for term in read["terms"])
    assert terms == actual.terms


def test_dict_writes_the_non_finite_as_words():
    term = Term("a", 1.0, 0.0, -math.inf, math.inf, math.inf, math.nan, "")
    written = make(term, r_squared=math.nan).to_dict()
    json.dumps(written, allow_nan=False)
    assert written["r_squared"] == "nan"
    assert [written["terms"][0][name] for name in ("low", "high", "p")] == ["-inf", "inf", "nan"]


@pytest.mark.parametrize(
    ("p", "text"),
    [(0.0, "<1e-300"), (1e-310, "<1e-300"), (3.0964e-144, "3.1e-144"), (0.01617, "0.0162")],
)
def test_p_is_never_a_bare_zero(p, text):
    assert format_p(p) == text


@pytest.mark.parametrize(
    ("p", "code"),
    [
        (0.00099, "***"),
        (0.00101, "**"),
        (0.0099, "**"),
        (0.0101, "*"),
        (0.0499, "*"),
        (0.0501, "."),
        (0.0999, "."),
        (0.1001, ""),
    ],
)
def test_codes_follow_p(p, code):
    # Noise orthogonal to a and to 1 has mean square 1: se is 1 / sqrt(38) of it, t as wanted.
    a, noise = np.tile([1.0, -1.0], 20), np.repeat([1.0, -1.0], 20)
    slope = scipy.stats.t.isf(p / 2, 38) / math.sqrt(38)
    term = regress(pd.DataFrame({"a": a, "y": slope * a + noise}), "y ~ a").terms[1]
    assert term.p == pytest.approx(p, rel=1e-9)
    assert term.code == code


def test_a_table_shows_all_numbers():
    term = Term("a", 1.0, 0.5, 0.1, 1.9, 2.0, 0.04, "*")
    table = make(term, dropped_inf=2).table("A fit")
    assert table.caption == "A fit: y ~ a"
    assert table.header[3:5] == ["95 % low", "95 % high"]
    published = ["1.0000", "0.5000", "0.1000", "1.9000", "0.0400", "*"]
    assert table.rows == [["a", *published, "2", "0.04"]]
    large = make(dataclasses.replace(term, estimate=-7.593125971676636e75)).table("A fit")
    assert large.rows[0][1] == "-7.593125971676636e+75"
    assert table.notes[:2] == (
        "R² = 0.5000, n = 9, 7 degrees of freedom.",
        "2 of 11 rows left out: 2 infinite, 0 NaN.",
    )
