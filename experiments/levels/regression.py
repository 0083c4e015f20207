"""Regression tables: ordinary least squares by formula, with all dropped rows reported."""

import dataclasses
import math
import re
from typing import Any

import numpy as np
import pandas as pd
import patsy
import xarray as xr
from statsmodels.regression.linear_model import OLS

from experiments.lab import Table

patsy: Any  # It is untyped and exports its names in a loop.

_LEGEND = "*** p < 0.001, ** p < 0.01, * p < 0.05"


@dataclasses.dataclass(frozen=True)
class Term:
    """One estimated coefficient.

    Attributes:
        name: The term as the design names it, such as ``Intercept`` or ``C(rule)[T.adam]``.
        estimate: The least-squares coefficient.
        std_error: Its standard error, assuming independent errors of equal variance.
        low: The lower end of its confidence interval.
        high: The upper end of its confidence interval.
        t: The t statistic: `estimate` over `std_error`.
        p: The two-sided p-value of `t`.
        stars: ``***`` for p < 0.001, ``**`` for p < 0.01, ``*`` for p < 0.05, otherwise empty.
    """

    name: str
    estimate: float
    std_error: float
    low: float
    high: float
    t: float
    p: float
    stars: str


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
        header = ["term", "estimate", "std. error", f"{level} low", f"{level} high", "t", "p", ""]
        rows = []
        for term in self.terms:
            moments = (term.std_error, term.low, term.high, term.t)
            numbers = [f"{term.estimate:.6g}", *(f"{moment:.4g}" for moment in moments)]
            rows.append([term.name, *numbers, format_p(term.p), term.stars])
        fit = f"R² = {self.r_squared:.4f}, n = {self.n}, {self.dof} degrees of freedom."
        notes = (fit, self.note, _LEGEND)
        return Table(f"{title}: {self.formula}", header, rows, notes, screen=True)


def regress(data: pd.DataFrame | xr.Dataset, formula: str, *, level: float = 0.95) -> Regression:
    r"""Fit `formula` to `data` by ordinary least squares.

    With response :math:`y` and design :math:`X` of n rows and k columns, the estimate is
    :math:`b = (X^T X)^{-1} X^T y`, its covariance :math:`s^2 (X^T X)^{-1}` with
    :math:`s^2 = |y - X b|^2 / (n - k)`, and the interval :math:`b_j \pm t_{n-k} \cdot se_j`.

    A row is dropped if its response or a regressor is NaN or infinite after the formula's functions
    are applied (``np.log(loss)`` of 0 is infinite). Dropped rows are counted and reported in
    `Regression.note`. The formula is then evaluated again, so that categories that occur only in
    dropped rows disappear. For the fit, the response and regressors are scaled by exact powers of
    two, because statsmodels squares them: losses of 1e300 do not overflow, and t, p and R² do not
    change.

    Args:
        data: A frame with one row per run, or a dataset. From a dataset, only the variables that
            `formula` names and their coordinates become columns: a loss curve next to the losses
            would repeat every row once per step.
        formula: A formula such as ``"np.log(loss) ~ model_level + data_level"``. It is evaluated as
            Python, so its author must be trusted; only the columns, `np` and patsy's ``C``, ``I``,
            ``Q``, … are in scope.
        level: Confidence level of the intervals, in (0, 1).

    Returns:
        The estimates in float64, with the numbers of rows used and dropped.

    Raises:
        TypeError: If `data` or `formula` has the wrong type.
        ValueError: If `level` lies outside (0, 1); if the formula cannot be evaluated with the
            columns, or does not have exactly one numeric response and at least one term; if its
            terms are linearly dependent; if the remaining rows do not outnumber the terms; or if
            the response is constant.

    References:
        The estimator is `OLS` of statsmodels (by pseudo-inverse); the formula language is patsy's.
    """
    if not isinstance(data, pd.DataFrame | xr.Dataset):
        raise TypeError(f"`data` must be a DataFrame or a Dataset, got {type(data).__name__}.")
    if not isinstance(formula, str):
        raise TypeError(f"`formula` must be a string, got {type(formula).__name__}.")
    if not 0 < level < 1:
        raise ValueError(f"`level` must lie in (0, 1), got {level}.")
    response, design, nan, inf = _finite_rows(_to_frame(data, formula), formula)
    names = [str(name) for name in design.columns]
    y, x = response.to_numpy(np.float64), design.to_numpy(np.float64)
    y_exponent, x_exponents = _exponents(y), _exponents(x)
    y, x = np.ldexp(y, -y_exponent), np.ldexp(x, -x_exponents)
    _check_matrices(formula, y, x, names, _note(len(y), nan, inf))
    model = OLS(y[:, 0], x)
    if not np.any(y) or (model.k_constant and np.all(y == y[0])):
        value = float(np.ldexp(y[0], y_exponent)[0])
        raise ValueError(f"`data` must vary in the response of {formula!r}, got only {value!r}.")
    # An exact fit has standard errors of 0 and infinite t; a coefficient may exceed 1.8e308.
    with np.errstate(all="ignore"):
        fit = model.fit()
        scaled = [fit.params, fit.bse, *fit.conf_int(alpha=1 - level).T]
        columns = [np.ldexp(column, y_exponent - x_exponents) for column in scaled]
        columns = [column.tolist() for column in (*columns, fit.tvalues, fit.pvalues)]
        r_squared = float(fit.rsquared)
    stars = ["*" * sum(p < bound for bound in (0.05, 0.01, 0.001)) for p in columns[-1]]
    terms = tuple(Term(*row) for row in zip(names, *columns, stars, strict=True))
    return Regression(formula, terms, r_squared, len(y), int(fit.df_resid), nan, inf, level)


def format_p(p: float) -> str:
    """Format `p` with three significant digits, never as zero."""
    return "<1e-300" if p < 1e-300 else f"{p:.3g}"


def _to_frame(data, formula):
    if isinstance(data, pd.DataFrame):
        return data.reset_index(drop=True)
    # Variables of a dataset broadcast: one with more axes would repeat rows and shrink every p.
    words = {name: rf"(?<!\w){re.escape(str(name))}(?!\w)" for name in data.data_vars}
    named = [name for name, word in words.items() if re.search(word, formula)]
    if not named:
        names = ", ".join(map(str, data.data_vars))
        raise ValueError(f"`formula` must name a variable of `data` ({names}), got {formula!r}.")
    if not data[named].dims:
        raise ValueError("`data` must have a dimension, got none.")
    return data[named].to_dataframe().reset_index()


def _finite_rows(frame, formula):
    """Return response and design of the finite rows, and the numbers of NaN and infinite rows."""
    nan, inf = 0, 0
    while len(frame):
        response, design = _evaluate(frame, formula)
        # patsy drops missing values silently; the index shows which rows it kept.
        both = pd.concat([response, design], axis=1)
        values = both.to_numpy(np.float64)
        not_nan, finite = ~np.isnan(values).any(axis=1), np.isfinite(values).all(axis=1)
        nan += len(frame) - int(not_nan.sum())
        inf += int((not_nan & ~finite).sum())
        if finite.sum() == len(frame):
            return response, design, nan, inf
        frame = frame.loc[both.index[np.flatnonzero(finite)]]
    rule = "`data` must hold a row without NaN and infinite values"
    raise ValueError(f"{rule}, got {nan + inf} rows: {inf} infinite, {nan} NaN.")


def _evaluate(frame, formula):
    # Call patsy directly: statsmodels' formula interface drops NaN silently and rejects infinities.
    environment = patsy.EvalEnvironment([{"np": np}])
    try:
        # No warning for log(0): infinite rows are counted later.
        with np.errstate(all="ignore"):
            return patsy.dmatrices(formula, frame, environment, return_type="dataframe")
    # patsy does not wrap errors of the tokenizer, Python's parser or casts.
    except Exception as error:
        columns = ", ".join(map(str, frame.columns))
        reason = str(error).partition("\n")[0].removeprefix("Error evaluating factor: ")
        rule = f"`formula` must be readable with the columns {columns} and np"
        raise ValueError(f"{rule}, got {formula!r}: {reason}") from error


def _exponents(matrix):
    """Return, per column, the e such that its largest magnitude lies in [1/2, 1) times 2**e."""
    return np.frexp(np.abs(matrix).max(axis=0))[1]


def _check_matrices(formula, y, x, names, note):
    if y.shape[1] != 1:
        rule = "`formula` must have one numeric response (write I(1 * x) for a boolean x)"
        raise ValueError(f"{rule}, got {y.shape[1]} columns in {formula!r}.")
    if not names:
        raise ValueError(f"`formula` must have a regressor or an intercept, got {formula!r}.")
    if len(x) <= len(names):
        rule = f"`data` must hold more rows than the {len(names)} terms of {formula!r}"
        raise ValueError(f"{rule}, got {len(x)}: {note}")
    for i, name in enumerate(names):
        if np.linalg.matrix_rank(x[:, : i + 1]) <= i:
            rule = "`formula` must have linearly independent terms"
            raise ValueError(f"{rule}, got {name!r} depending on those before it in {formula!r}.")


def _note(used, nan, inf):
    left_out = nan + inf
    if not left_out:
        return f"All {used} rows used."
    return f"{left_out} of {used + left_out} rows left out: {inf} infinite, {nan} NaN."


def _json_ready(fields):
    return {
        name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in fields.items()
    }
