"""Optuna over batches: every batch of trials is one compiled program."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
from jax.tree_util import Partial

from nested_jax._core import checks
from nested_jax._core.extras import needs
from nested_jax.sweeps._sweep import LAYOUTS, sweep
from nested_jax.sweeps.engine import LocalDevices, Structure, examine
from nested_jax.sweeps.grid import Grid, label, zipped

if TYPE_CHECKING:
    import optuna

# Not the name of an argument in Python, so that no hyperparameter is called the same.
AXIS = "trial of the batch"


def optimize(
    study: optuna.Study,
    run: Callable[..., Mapping[str, Any]],
    space: Mapping[str, optuna.distributions.BaseDistribution],
    *,
    metric: str | Sequence[str],
    trials: int,
    batch: int = 32,
    layout: str = "auto",
    devices: Sequence[Any] | None = None,
) -> None:
    """Let an Optuna study choose the points of `run`, a batch at a time.

    Each round asks the study for `batch` trials, evaluates them as one program with `sweep`, and
    tells the study all their values. Shapes never change, so the program compiles once for the
    whole study: the last batch is padded. The choices of a categorical distribution that are not
    numbers are static, and each of their combinations has its own program. The study stores
    functions by name.

    The sampler draws a whole batch before it sees a value of it. Tell TPE so with
    ``TPESampler(constant_liar=True)``, or it may propose nearly the same point many times.

    The study keeps the trials. With a persistent storage, the same call continues a study that was
    killed, because `trials` is a total. If a batch fails, its trials get the state FAIL and the
    error is raised.

    Args:
        study: The study, with its sampler, storage and directions.
        run: Pure function that returns a dict of arrays, as for `sweep`. Its keyword arguments are
            named after `space`.
        space: Hyperparameter -> `FloatDistribution`, `IntDistribution` or
            `CategoricalDistribution`. The ends of a range, and all choices, are validated before
            the first trial.
        metric: Name of the scalar result of `run` to optimize; one name per direction of the study.
            A trial with a value that is not finite gets the state PRUNED: samplers such as TPE
            avoid the neighbourhood of pruned trials and ignore failed ones.
        trials: Number of completed and pruned trials that the study holds at the end.
        batch: Number of trials per batch.
        layout: As for `sweep`.
        devices: As for `sweep`. A batch is divided among them.

    Raises:
        TypeError: If an argument has the wrong type, `space` holds something other than
            distributions, or a choice is neither a number, a string, a bool, None nor a function.
        ValueError: If `space` has no numeric hyperparameter, an end of a range is invalid, or
            `metric` does not fit `run` or the study.
        ImportError: If Optuna is not installed.

    Example:
        >>> import jax, optuna, nested_jax as nj
        >>> from optuna.distributions import FloatDistribution, IntDistribution
        >>> def run(learning_rate, levels):
        ...     tx = nj.nested_momentum(learning_rate, levels=levels, max_levels=3)
        ...     problem = nj.drifting_regression(dim=3)
        ...     return {"loss": nj.rollout(tx, problem, jax.random.key(0), 300).mean_loss}
        >>> space = {
        ...     "learning_rate": FloatDistribution(1e-4, 1.0, log=True),
        ...     "levels": IntDistribution(1, 3),
        ... }
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        >>> nj.sweeps.optuna.optimize(study, run, space, metric="loss", trials=40)
        >>> len(study.trials)
        40
    """
    with needs("nested_jax.sweeps.optuna.optimize", "optuna"):
        import optuna
    if not isinstance(study, optuna.Study):
        raise TypeError(f"`study` must be an Optuna study, got {study!r}.")
    checks.check_callable("run", run)
    checks.check_static_count("trials", trials, 1)
    checks.check_static_count("batch", batch, 1)
    checks.check_choice("layout", layout, LAYOUTS)
    static = _static_choices(space)
    columns = _ends(space, static)
    ends = _grid(columns, static)
    run = run if isinstance(run, Partial) else Partial(run)
    metrics = _metrics(metric, examine(run, ends), len(study.directions))
    combinations = math.prod(map(len, static.values()))
    # On average a chunk is full, whether a batch is divided among devices or among programs.
    chunk = -(-batch // max(LocalDevices(devices).wave, combinations))
    states = optuna.trial.TrialState
    settings: dict[str, Any] = {"chunk": chunk, "layout": layout, "devices": devices}
    counted = (states.COMPLETE, states.PRUNED)
    stored = _storable(space, static)
    done = len(study.get_trials(deepcopy=False, states=counted))
    while done < trials:
        asked = [study.ask(stored) for _ in range(min(batch, trials - done))]
        try:
            values = _evaluated(
                run,
                [_point(trial.params, static, columns) for trial in asked],
                [*static],
                metrics,
                settings,
            )
        except BaseException:
            for trial in asked:
                study.tell(trial, state=states.FAIL)
            raise
        for trial, value in zip(asked, values, strict=True):
            if all(map(math.isfinite, value)):
                study.tell(trial, value)
            else:
                study.tell(trial, state=states.PRUNED)
        done += len(asked)


def _storable(
    space: Mapping[str, Any], static: Mapping[str, Sequence[Any]]
) -> dict[str, optuna.distributions.BaseDistribution]:
    """Return `space` with functions by name: a storage does not keep functions."""
    from optuna.distributions import CategoricalDistribution

    named = {
        name: CategoricalDistribution([label(x) if callable(x) else x for x in choices])
        for name, choices in static.items()
    }
    return {**space, **named}


def _point(
    params: Mapping[str, Any],
    static: Mapping[str, Sequence[Any]],
    columns: Mapping[str, Sequence[float]],
) -> dict[str, Any]:
    """Return the arguments of `run`: functions in place of their names.

    A number is a float if one of its `columns` is: a batch without one must not have another dtype.
    """
    point = dict(params)
    for name, ends in columns.items():
        if any(isinstance(end, float) for end in ends):
            point[name] = float(point[name])
    for name, choices in static.items():
        point[name] = next(own for own in choices if label(own) == label(params[name]))
    return point


def _evaluated(
    run: Partial,
    points: Sequence[Mapping[str, Any]],
    static: Sequence[str],
    metrics: Sequence[str],
    settings: Mapping[str, Any],
) -> list[list[float]]:
    """Return the metrics of the points: one sweep for each combination of static values."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for i, point in enumerate(points):
        groups.setdefault(tuple(point[name] for name in static), []).append(i)
    values: list[list[float]] = [[] for _ in points]
    for choice, members in groups.items():
        padded = members + [members[-1]] * (-len(members) % settings["chunk"])
        columns = {
            name: [points[i][name] for i in padded] for name in points[0] if name not in static
        }
        grid = _grid(columns, {name: [v] for name, v in zip(static, choice, strict=True)})
        results = sweep(run, grid, progress=False, **settings)
        found = [results[name].values.ravel() for name in metrics]
        for at, i in enumerate(members):
            values[i] = [float(each[at]) for each in found]
    return values


def _grid(columns: Mapping[str, Sequence[float]], static: Mapping[str, Sequence[Any]]) -> Grid:
    return Grid(**static, **{AXIS: zipped(**columns)})


def _static_choices(space: Any) -> dict[str, tuple[Any, ...]]:
    """Return the hyperparameters of `space` that are not numbers, with their choices."""
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if not isinstance(space, Mapping) or not space:
        raise TypeError(f"`space` must be a dict of Optuna distributions by name, got {space!r}.")
    static: dict[str, tuple[Any, ...]] = {}
    for name, given in space.items():
        if isinstance(given, CategoricalDistribution):
            # Raises for choices that are not numbers, words, flags or functions.
            choices: Any = given.choices
            if Grid(**{name: choices})[name].static:
                static[name] = choices
        elif not isinstance(given, FloatDistribution | IntDistribution):
            raise TypeError(
                f"`space` must hold Optuna distributions, such as FloatDistribution(0.001, 0.1, "
                f"log=True), got {given!r} for {name!r}."
            )
    if len(static) == len(space):
        raise ValueError(
            f"`space` must hold at least one number, got only {[*space]}, which are static: "
            "sweep a `Grid` of their choices."
        )
    return static


def _ends(space: Mapping[str, Any], static: Mapping[str, Any]) -> dict[str, list[float]]:
    """Return columns of one length with both ends of each range and all choices."""
    values = {
        name: [*(given.choices if hasattr(given, "choices") else (given.low, given.high))]
        for name, given in space.items()
        if name not in static
    }
    rows = itertools.zip_longest(*values.values())
    columns = zip(*rows, strict=True)
    return {
        name: [own[-1] if value is None else value for value in column]
        for (name, own), column in zip(values.items(), columns, strict=True)
    }


def _metrics(metric: Any, structure: Structure, directions: int) -> list[str]:
    metrics = [metric] if isinstance(metric, str) else metric
    if not isinstance(metrics, Sequence) or not all(isinstance(name, str) for name in metrics):
        raise TypeError(f"`metric` must be the name of a result, or several, got {metric!r}.")
    metrics = [*metrics]
    if len(metrics) != directions:
        rule = f"`metric` must name one result for each of the study's {directions} directions"
        raise ValueError(f"{rule}, got {metric!r}.")
    known = sorted(
        name
        for name, (shape, dtype) in structure.items()
        if shape == () and not jnp.issubdtype(dtype, jnp.complexfloating)
    )
    for name in metrics:
        if name not in known:
            rule = f"`metric` must name real scalar results of `run` ({', '.join(known)})"
            raise ValueError(f"{rule}, got {name!r}.")
    return metrics
