"""Runs on the surfaces with what is said to help against bad conditioning."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import nested_jax as nj
from experiments.lab import Lab
from experiments.momentum.config import Config
from experiments.momentum.surfaces import SURFACES, Surface, problem, settled

if TYPE_CHECKING:
    import xarray as xr

PLAIN = "gradient descent"
SCALINGS = ("none", "standardized", "whitened")
FAMILIES = ("momentum", "adagrad", "adam")
"""Optimizers; each is one program, in which everything else about a case is traced."""
ADAPTIVE_RATES = (1e-3, 1e1)
"""Learning rates of the adaptive methods, whose steps do not depend on the gradient's size."""


class Case(NamedTuple):
    """A mitigation in one of its settings.

    Attributes:
        mitigation: Its name in the report.
        family: One of `FAMILIES`.
        scaling: One of `SCALINGS`, of the features.
        penalty: Factor of half the squared length of the parameters, added to the loss.
        initialised: Whether runs start at a draw from the surface's `initial`.
        cycle: Length of a cosine schedule, as a share of the steps; 0 for a constant rate.
        momentum: Whether there is heavy-ball momentum.
    """

    mitigation: str
    family: str = "momentum"
    scaling: str = "none"
    penalty: float = 0.0
    initialised: bool = False
    cycle: float = 0.0
    momentum: bool = False


CASES = (
    Case(PLAIN),
    Case("standardized features", scaling="standardized"),
    Case("whitened features", scaling="whitened"),
    *(Case("L2 penalty", penalty=penalty) for penalty in (1e-4, 1e-3, 1e-2, 1e-1)),
    Case("initialisation", initialised=True),
    Case("AdaGrad", family="adagrad"),
    Case("Adam", family="adam"),
    *(Case("cosine schedule", cycle=cycle) for cycle in (0.1, 0.3, 1.0)),
    Case("heavy ball", momentum=True),
)
MITIGATIONS = tuple(dict.fromkeys(case.mitigation for case in CASES))


def applies(surface: Surface, mitigation: str) -> bool:
    """Tell whether a surface has what the mitigation changes: features, if these are scaled."""
    return surface.inputs is not None or not mitigation.endswith("features")


def scaling(surface: Surface, kind: str) -> np.ndarray:
    """Return the matrix P for which gradient descent in P⁻¹ params has scaled features.

    Inputs x and weights w enter as w·x, so weights v of the scaled inputs Sx are w = S v. S divides
    by the root mean square of each input, or is the inverse root of their second moments. Units
    with the same inputs share it.
    """
    if surface.inputs is None or kind == "none":
        return np.eye(2)
    moments = surface.inputs.T @ surface.inputs / len(surface.inputs)
    if kind == "standardized":
        moments = np.diag(np.diag(moments))
    values, vectors = np.linalg.eigh(moments)
    return np.kron(np.eye(2 // len(values)), vectors / np.sqrt(values) @ vectors.T)


def begins(surface: Surface, count: int, key: jax.Array, initialised: Any) -> jax.Array:
    """Return starts of shape (count, 2), around the surface's own or from an initialisation."""
    normals = jax.random.normal(key, (count, 2))
    hard = jnp.asarray(surface.start) + normals @ jnp.asarray(surface.spread)
    return jnp.where(initialised, normals * jnp.asarray(surface.initial), hard)


def simulate(config: Config, lab: Lab) -> "xr.Dataset":
    """Return the steps to the goal of the original loss, over surface, case, share and start."""
    import xarray as xr  # Slow to import.

    found = []
    for family in FAMILIES:
        cases = [i for i, case in enumerate(CASES) if case.family == family]
        axes = {
            "surface": [*SURFACES],
            "case": cases,
            "share": np.linspace(0, 1, config.learning_rates),
            "start": range(config.mitigation_starts),
        }
        run, grid = _runner(config, family), nj.Grid(**axes)
        found.append(lab.sweep("mitigations", run, grid, piece=family))
    seconds = {
        name: sum(part.attrs[name] for part in found) for name in ("compile_seconds", "run_seconds")
    }
    joined = xr.concat(found, "case", combine_attrs="drop_conflicts").sortby("case")
    return joined.assign_attrs(seconds, steps=config.mitigation_steps)


def _runner(config: Config, family: str) -> Callable[..., dict[str, Any]]:
    """Return the function that gives when one run arrives, and its learning rate."""
    columns = {name: np.array([getattr(case, name) for case in CASES]) for name in Case._fields}

    def run(surface: str, case: Any, share: Any, start: Any) -> dict[str, Any]:
        def of(values: Any) -> jax.Array:
            return jnp.asarray(values)[case]

        place = SURFACES[surface]
        key = jax.random.fold_in(jax.random.key(config.seed), 200 + [*SURFACES].index(surface))
        begin = begins(place, config.mitigation_starts, key, of(columns["initialised"]))[start]
        matrix = of(np.stack([scaling(place, case.scaling) for case in CASES]))
        penalty, cycle = of(columns["penalty"]), of(columns["cycle"])

        def penalized(params: jax.Array) -> jax.Array:
            point = matrix @ params
            return place.loss(point) + penalty / 2 * jnp.sum(point**2)

        low, high = place.rates if family == "momentum" else ADAPTIVE_RATES
        rate = low * (high / low) ** share
        cosine = nj.cosine(jnp.ceil(jnp.where(cycle > 0, cycle, 1) * config.mitigation_steps))
        decay = config.decay * of(columns["momentum"])
        trace = nj.rollout(
            optimizer(family, rate, decay, lambda step: jnp.where(cycle > 0, cosine(step), 1.0)),
            problem(place._replace(loss=penalized), jnp.linalg.solve(matrix, begin)),
            jax.random.key(0),
            config.mitigation_steps,
            stride=1,
            record=lambda params, opt_state: place.loss(matrix @ params),
        )
        losses = jnp.concatenate([place.loss(begin)[None], trace.records])
        return {"settled": settled(losses, place.goal), "learning_rate": rate}

    return run


def optimizer(
    family: str, learning_rate: Any, decay: Any, schedule: Any
) -> optax.GradientTransformation:
    """Return an optimizer of a family; only momentum has a decay and a schedule."""
    if family == "adagrad":
        # The paper's sum starts at 0; the small number only guards the division.
        return optax.chain(optax.scale_by_rss(0.0, 1e-16), optax.scale(-learning_rate))
    if family == "adam":
        return nj.adam(learning_rate)
    return nj.momentum(learning_rate, decay=decay, schedule=schedule)
