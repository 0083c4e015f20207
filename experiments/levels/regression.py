"""Ordinary least squares by formula, with all dropped rows reported."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import patsy
from statsmodels.regression.linear_model import OLS

from experiments.lab import Table

patsy: Any  # It is untyped and exports its names in a loop.

CODES = {0.001: "***", 0.01: "**", 0.05: "*", 0.1: "."}
"""The published experiment's significance codes, each for p below a bound."""
LEGEND = ", ".join(f"{code} p < {bound:g}" for bound, code in CODES.items())
FIXED = 1e6
"""Up to this size, numbers have four decimals, as published; beyond, all of their digits."""


@dataclasses.dataclass(frozen=True)
class Term:
    """One estimated coefficient.

    Attributes:
        name: The term as the design names it, such as ``Intercept``.
        estimate: The least-squares coefficient.
        std_error: Its standard error, assuming independent errors of equal variance.
        low: The lower end of its confidence interval.
        high: The upper end of its confidence interval.
        t: The t statistic: `estimate` over `std_error`.
        p: The two-sided p-value of `t`.
        code: Its code in `CODES`, or empty.
    """

    name: str
    estimate: float
    std_error: float
    low: float
    high: float
    t: float
    p: float
    code: str


@dataclasses.dataclass(frozen=True)
class Regression:
    """The result of `regress`.

    Attributes:
        formula: The formula as given.
        terms: One `Term` per column of the design, in the design's order.
        r_squared: Explained fraction of the response's variance, or of its mean square if the
            design has no constant.
        n: Number of rows used.
        dof: Residual degrees of freedom: `n` minus the number of terms.
        dropped_nan: Number of rows dropped because the response or a regressor was NaN or missing.
        dropped_inf: Number of rows dropped because a value was infinite and none was NaN.
        level: Confidence level of the intervals.
    """

    formula: str
    terms: tuple[Term, ...]
    r_squared: float
    n: int
    dof: int
    dropped_nan: int
    dropped_inf: int
    level: float

    @property
    def note(self) -> str:
        """State how many rows were used, and why others were dropped."""
        return _note(self.n, self.dropped_nan, self.dropped_inf)

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values that `json.dumps(..., allow_nan=False)` accepts.

        Floats keep all 17 digits. JSON cannot represent non-finite values, so they become the
        strings ``"inf"``, ``"-inf"`` and ``"nan"``, which `float` parses. `note` is included.
        """
        terms = [_json_ready(vars(term)) for term in self.terms]
        return _json_ready(vars(self)) | {"terms": terms, "note": self.note}

    def table(self, title: str) -> Table:
        """Return a table for reports and the terminal."""
        level = f"{100 * self.level:g} %"
        header = ["term", "estimate", "std. error", f"{level} low", f"{level} high", "p", ""]
        rows = []
        for term in self.terms:
            moments = (term.estimate, term.std_error, term.low, term.high)
            numbers = [_digits(moment) for moment in moments]
            published = [term.name, *numbers, f"{term.p:.4f}", term.code]
            rows.append([*published, f"{term.t:.4g}", format_p(term.p)])
        fit = f"R² = {self.r_squared:.4f}, n = {self.n}, {self.dof} degrees of freedom."
        notes = (fit, self.note, LEGEND)
        return Table(
            f"{title}: {self.formula}", [*header, "t", "p in full"], rows, notes, screen=True
        )


def regress(data: pd.DataFrame, formula: str, *, level: float = 0.95) -> Regression:
    r"""Fit `formula` to `data` by ordinary least squares.

    With response :math:`y` and design :math:`X` of n rows and k columns, the estimate is
    :math:`b = (X^T X)^{-1} X^T y`, its covariance :math:`s^2 (X^T X)^{-1}` with
    :math:`s^2 = |y - X b|^2 / (n - k)`, and the interval :math:`b_j \pm t_{n-k} \cdot se_j`.

    A row is dropped if its response or a regressor is NaN or infinite after the formula's functions
    are applied (``np.log(loss)`` of 0 is infinite). Dropped rows are counted and reported in
    `Regression.note`. For the fit, the response and regressors are scaled by exact powers of two,
    because statsmodels squares them: losses of 1e300 do not overflow, and t, p and R² do not
    change.

    Args:
        data: One row for each run, with numbers only.
        formula: A formula such as ``"np.log(loss) ~ model_level + data_level"`` of the columns and
            `np`.
        level: Confidence level of the intervals, in (0, 1).

    Returns:
        The estimates in float64, with the numbers of rows used and dropped.

    Raises:
        ValueError: If the finite rows do not outnumber the terms, the terms are linearly dependent,
            or the response is constant.

    References:
        The estimator is `OLS` of statsmodels (by pseudo-inverse); the formula language is patsy's.
    """
    y, x, names, nan, inf = _finite_rows(data, formula)
    note = _note(len(y), nan, inf)
    if len(y) <= len(names):
        raise ValueError(f"There are too few finite rows for {len(names)} terms. {note}")
    y_exponent, x_exponents = _exponents(y), _exponents(x)
    y, x = np.ldexp(y, -y_exponent), np.ldexp(x, -x_exponents)
    for i, name in enumerate(names):
        if np.linalg.matrix_rank(x[:, : i + 1]) <= i:
            raise ValueError(f"The term {name} is a linear combination of those before it.")
    model = OLS(y[:, 0], x)
    if not np.any(y) or (model.k_constant and np.all(y == y[0])):
        value = float(np.ldexp(y[0], y_exponent)[0])
        raise ValueError(f"The response is {value!r} in all rows. {note}")
    # An exact fit has standard errors of 0 and infinite t; a coefficient may exceed 1.8e308.
    with np.errstate(all="ignore"):
        fit = model.fit()
        scaled = [fit.params, fit.bse, *fit.conf_int(alpha=1 - level).T]
        columns = [np.ldexp(column, y_exponent - x_exponents) for column in scaled]
        columns = [column.tolist() for column in (*columns, fit.tvalues, fit.pvalues)]
        r_squared = float(fit.rsquared)
    codes = [next((CODES[bound] for bound in CODES if p < bound), "") for p in columns[-1]]
    terms = tuple(Term(*row) for row in zip(names, *columns, codes, strict=True))
    return Regression(formula, terms, r_squared, len(y), int(fit.df_resid), nan, inf, level)


def _digits(x: float) -> str:
    return f"{x:.4f}" if abs(x) < FIXED else repr(x)


def format_p(p: float) -> str:
    """Format `p` with three significant digits, never as zero."""
    return "<1e-300" if p < 1e-300 else f"{p:.3g}"


def _finite_rows(
    data: pd.DataFrame, formula: str
) -> tuple[np.ndarray, np.ndarray, list[str], int, int]:
    """Return response, design and names of its terms, and how many rows were NaN or infinite."""
    # statsmodels' formula interface drops NaN silently and rejects infinities.
    environment = patsy.EvalEnvironment([{"np": np}])
    with np.errstate(all="ignore"):  # No warning for log(0): the row is counted.
        response, design = patsy.dmatrices(
            formula, data, environment, NA_action=patsy.NAAction(NA_types=[])
        )
    values = np.hstack([response, design])
    not_nan, finite = ~np.isnan(values).any(axis=1), np.isfinite(values).all(axis=1)
    y = np.asarray(response, np.float64)[finite]
    # Contiguous columns: the last digits of the pseudo-inverse depend on the layout.
    x = np.asfortranarray(np.asarray(design, np.float64)[finite])
    nan, inf = int((~not_nan).sum()), int((not_nan & ~finite).sum())
    return y, x, design.design_info.column_names, nan, inf


def _exponents(matrix: np.ndarray) -> np.ndarray:
    """Return, per column, the e such that its largest magnitude lies in [1/2, 1) times 2**e."""
    return np.frexp(np.abs(matrix).max(axis=0))[1]


def _note(used: int, nan: int, inf: int) -> str:
    left_out = nan + inf
    if not left_out:
        return f"All {used} rows used."
    return f"{left_out} of {used + left_out} rows left out: {inf} infinite, {nan} NaN."


def _json_ready(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in fields.items()
    }
