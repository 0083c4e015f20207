"""Tests of what a sweep in stages refuses."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nested_jax as nj
from nested_jax.sweeps import diverged, halving
from tests.sweeps.staged import sweep


def of_stages(**parts):
    """Return a run in two stages, with some parts replaced."""
    given = {
        "init": lambda: 0.0,
        "advance": lambda x, stage: x + 1,
        "report": lambda x: {"loss": x, "pair": jnp.zeros(2)},
        "stages": 2,
    } | parts
    return lambda rate: nj.Stages(**given)


SMALL = nj.Grid(rate=[1.0, 2.0])


@pytest.mark.parametrize(
    ("attempt", "error", "message"),
    [
        (
            lambda: nj.sweep(lambda rate: {"loss": rate}, SMALL, stop=diverged("loss")),
            TypeError,
            "`run` must return a nested_jax.Stages if there is a `stop`, got {'loss': ",
        ),
        (
            lambda: nj.sweep(of_stages(), SMALL, stop="loss"),
            TypeError,
            "`stop` must be a rule such as nested_jax.sweeps.diverged or halving returns, got 'lo",
        ),
        (
            lambda: nj.sweep(of_stages(), SMALL, stop=diverged("los")),
            ValueError,
            "`by` must be one of the results ['loss', 'pair'], got 'los'.",
        ),
        (
            lambda: nj.sweep(of_stages(), SMALL, stop=diverged("pair")),
            ValueError,
            "`by` must be a result with one real number per run, got 'pair' of float32[2].",
        ),
        (
            lambda: nj.sweep(of_stages(), SMALL, stop=diverged("loss", over="seed")),
            ValueError,
            "`over` must be numeric axes of the grid ['rate'], got 'seed'.",
        ),
        (
            lambda: nj.sweep(of_stages(), SMALL, stop=diverged("loss", over="rate")),
            ValueError,
            "`grid` must have a numeric axis outside `over` if there is a `stop`, got ['rate'].",
        ),
        (
            lambda: sweep(diverged("loss", over="seed"), chunk=2),
            ValueError,
            "`chunk` must hold the axes in `over`, which are 3 runs, got 2.",
        ),
        (
            lambda: nj.sweep(
                of_stages(report=lambda x: {"stopped_at": x}), SMALL, stop=diverged("stopped_at")
            ),
            ValueError,
            "`stop` adds a result of this name: the grid and `report` must not, got 'stopped_at'.",
        ),
        (
            lambda: nj.sweep(
                lambda word, rate: of_stages(stages=len(word))(rate),
                nj.Grid(word=["a", "bc"], rate=[1.0]),
                stop=diverged("loss"),
            ),
            ValueError,
            "`run` must return the same number of stages at every point, got 1 for {'word': 'a'} "
            "and 2 for {'word': 'bc'}.",
        ),
        (
            lambda: nj.sweep(of_stages(report=lambda x: x), SMALL),
            TypeError,
            "`report` must return a dict of arrays by name, got ",
        ),
        (
            lambda: nj.sweep(of_stages(advance=lambda x, stage: stage), SMALL),
            TypeError,
            "`advance` must return a carry of the structure, shapes and dtypes that it took, "
            "got int32[] for float32[].",
        ),
        (
            lambda: nj.sweep(of_stages(init=lambda: ()), SMALL),
            TypeError,
            "`init` must return a tree of arrays, got ().",
        ),
        (lambda: diverged(3), TypeError, "`by` must be the name of a result, got 3."),
        (lambda: diverged("x", bound=np.nan), ValueError, "`bound` must not be NaN, got nan."),
        (lambda: diverged("x", over=3), TypeError, "`over` must be names of axes, got 3."),
        (
            lambda: halving("x", factor=1),
            ValueError,
            "`factor` must be an integer of at least 2, got 1.",
        ),
        (lambda: halving("x", mode="best"), ValueError, "`mode` must be one of 'min', 'max', got"),
    ],
)
def test_errors(attempt, error, message):
    with pytest.raises(error, match="^" + re.escape(message)):
        attempt()


def test_other_executors_and_many_processes_are_refused(monkeypatch):
    class Elsewhere:
        platform, wave = "cpu", 1

        def plan(self, *args):
            raise AssertionError

        evaluate = plan

    message = "^`stop` must run on the devices of this process alone, got "
    with pytest.raises(ValueError, match=message + ".*Elsewhere"):
        nj.sweep(of_stages(), SMALL, stop=diverged("loss"), executor=Elsewhere())
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match=message + r"2 processes\."):
        nj.sweep(of_stages(), SMALL, stop=diverged("loss"))
