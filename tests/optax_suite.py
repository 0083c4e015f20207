"""Run optax's own tests with our optimizers in place of optax's.

    python -m tests.optax_suite

optax ships its tests in its wheel, and they are run from there; nothing is copied. Every public
name of `REPLACED` is swapped, wherever optax holds it. Of the tests, those count that called one of
ours. A test that fails must be one whose departure is named in `DEPARTURES`; a failure without a
name, or a name without a failure, ends with exit code 1.

A call with an option that we do not offer goes to optax's own function and does not count.

About two minutes on 2 cores.
"""

import collections
import functools
import importlib
import io
import sys
import unittest
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import optax
from absl.testing import absltest

import nested_jax as nj

FILES = (
    "_src.alias_test",
    "_src.combine_test",
    "_src.factorized_test",
    "_src.float64_test",
    "_src.lookahead_test",
    "_src.sharding_test",
    "_src.transform_test",
    "_src.update_test",
    "contrib._complex_valued_test",
    "contrib._sam_test",
    "contrib._schedule_free_test",
    "experimental._aggregating_test",
    "schedules._inject_test",
    "schedules._join_test",
    "schedules._schedule_test",
    "transforms._accumulation_test",
    "transforms._clipping_test",
    "transforms._combining_test",
    "transforms._conditionality_test",
    "transforms._constraining_test",
    "transforms._freezing_test",
    "transforms._layouts_test",
    "transforms._masking_test",
    "transforms._monitoring_test",
    "tree_utils._state_utils_test",
)
# Of optax's optimizers without a counterpart here, and slow.
SKIPPED = ("LBFGS", "Linesearch", "LineSearch")


# --- Ours, called as optax's are ---


class NotOfferedError(Exception):
    """An option that our factory does not have."""


def _only_default(**options: tuple[Any, Any]) -> None:
    """Raise unless every option has the value that stands for leaving it out."""
    for name, (value, default) in options.items():
        # What `inject_hyperparams` has traced is taken for the default, which it is in the tests.
        if value is not default and not (_is_number(value) and _equals(value, default)):
            raise NotOfferedError(name)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | jax.Array | np.ndarray | np.generic)


def _equals(value: Any, default: Any) -> bool:
    return isinstance(value, jax.core.Tracer) or bool(value == default)


def _adam(amsgrad, learning_rate, b1=0.9, b2=0.999, eps=1e-8, eps_root=0.0, mu_dtype=None, **more):
    _only_default(
        eps_root=(eps_root, 0.0),
        mu_dtype=(mu_dtype, None),
        **{name: (value, name != "nesterov") for name, value in more.items()},
    )
    return nj.adam(learning_rate, b1=b1, b2=b2, eps=eps, amsgrad=amsgrad)


def adamw(
    learning_rate,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    eps_root=0.0,
    mu_dtype=None,
    weight_decay=1e-4,
    mask=None,
    *,
    nesterov=False,
):
    _only_default(eps_root=(eps_root, 0.0), mu_dtype=(mu_dtype, None), nesterov=(nesterov, False))
    return nj.adamw(
        learning_rate,
        weight_decay=weight_decay,
        b1=b1,
        b2=b2,
        eps=eps,
        decay_times_rate=True,
        mask=mask,
    )


def sgd(learning_rate, momentum=None, nesterov=False, accumulator_dtype=None):
    _only_default(accumulator_dtype=(accumulator_dtype, None))
    factory = nj.nesterov if nesterov else nj.momentum
    return factory(learning_rate, decay=0.0 if momentum is None else momentum)


def adafactor(
    learning_rate=None,
    min_dim_size_to_factor=128,
    decay_rate=0.8,
    decay_offset=0,
    multiply_by_parameter_scale=True,
    clipping_threshold=1.0,
    momentum=None,
    dtype_momentum=np.float32,
    weight_decay_rate=None,
    eps=1e-30,
    factored=True,
    weight_decay_mask=None,
):
    _only_default(
        decay_offset=(decay_offset, 0),
        dtype_momentum=(dtype_momentum, np.float32),
        # optax's rate does not multiply the decay there, and its RMS of the parameters has no eps.
        weight_decay_rate=(weight_decay_rate, None),
    )
    return nj.adafactor(
        1.0 if learning_rate is None else learning_rate,
        b1=momentum,
        momentum_of="step",
        decay_rate=decay_rate,
        relative_step=False,
        scale_by_parameter=multiply_by_parameter_scale,
        clip_threshold=clipping_threshold,
        eps1=eps,
        factored=factored,
        min_dim_size_to_factor=min_dim_size_to_factor,
    )


def scale_by_adam(b1=0.9, b2=0.999, eps=1e-8, eps_root=0.0, mu_dtype=None, *, nesterov=False):
    _only_default(eps_root=(eps_root, 0.0), mu_dtype=(mu_dtype, None), nesterov=(nesterov, False))
    return nj.scale_by_adam(b1, b2=b2, eps=eps)


def scale_by_amsgrad(b1=0.9, b2=0.999, eps=1e-8, eps_root=0.0, mu_dtype=None, **more):
    _only_default(
        eps_root=(eps_root, 0.0),
        mu_dtype=(mu_dtype, None),
        **{name: (value, True) for name, value in more.items()},
    )
    return nj.scale_by_adam(b1, b2=b2, eps=eps, amsgrad=True)


def trace(decay, nesterov=False, accumulator_dtype=None):
    _only_default(accumulator_dtype=(accumulator_dtype, None), nesterov=(nesterov, False))
    return nj.scale_by_accumulated_momentum(decay)


def ema(decay, debias=True, accumulator_dtype=None):
    _only_default(accumulator_dtype=(accumulator_dtype, None))
    return nj.scale_by_nested_momentum([decay], debias=debias)


def scale_by_learning_rate(learning_rate, *, flip_sign=True):
    _only_default(flip_sign=(flip_sign, True))
    return nj.scale_by_learning_rate(learning_rate)


def clip_by_block_rms(threshold):
    return nj.clip_by_block_rms(threshold)


def scale_by_factored_rms(
    factored=True,
    decay_rate=0.8,
    step_offset=0,
    min_dim_size_to_factor=128,
    epsilon=1e-30,
    decay_rate_fn=None,
):
    _only_default(step_offset=(step_offset, 0), decay_rate_fn=(decay_rate_fn, None))
    return nj.scale_by_factored_rms(
        decay_rate,
        eps=epsilon,
        factored=factored,
        min_dim_size_to_factor=min_dim_size_to_factor,
    )


def _times(value, schedule):
    return lambda count: value * schedule(count)


def constant_schedule(value):
    return _times(value, nj.constant(1))


def cosine_decay_schedule(init_value, decay_steps, alpha=0.0, exponent=1.0):
    _only_default(exponent=(exponent, 1.0))
    return _times(init_value, nj.cosine(decay_steps, floor=alpha))


def warmup_constant_schedule(init_value, peak_value, warmup_steps):
    _only_default(init_value=(init_value, 0.0))
    return _times(peak_value, nj.with_warmup(nj.constant(1), warmup_steps))


def adam(learning_rate, b1=0.9, b2=0.999, eps=1e-8, eps_root=0.0, mu_dtype=None, *, nesterov=False):
    return _adam(False, learning_rate, b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov)


def amsgrad(learning_rate, b1=0.9, b2=0.999, eps=1e-8, eps_root=0.0, mu_dtype=None, **more):
    return _adam(True, learning_rate, b1, b2, eps, eps_root, mu_dtype, **more)


REPLACED: tuple[Callable[..., Any], ...] = (
    adafactor,
    adam,
    adamw,
    amsgrad,
    clip_by_block_rms,
    constant_schedule,
    cosine_decay_schedule,
    ema,
    scale_by_adam,
    scale_by_amsgrad,
    scale_by_factored_rms,
    scale_by_learning_rate,
    sgd,
    trace,
    warmup_constant_schedule,
)

STATE_FIELDS = "The state has fields of other names, as its docstring says."
CARRIED_GAINS = "optax forms 1 - b2^t, which cancels in float32; in float64 both agree."
# Part of a test's name -> why it fails with ours.
DEPARTURES = {
    "state_dtype=None, opt_name='adam": "State is float32 or wider, whatever the parameters are.",
    "state_dtype=None, opt_name='sgd_mom'": STATE_FIELDS,
    "test_labels_mismatch": "A decay of 1 never forgets: it is an error, and the test builds one.",
    "test_rms_match_adam": CARRIED_GAINS,
    "test_schedule_free_adamw": CARRIED_GAINS,
    "test_ema_debias": STATE_FIELDS,
    "test_clip_by_block_rms": "The state reports what was clipped; the test passes none.",
    "test_selective_bad_structure": "The error for another structure has another wording.",
    "test_masked_state_structure": STATE_FIELDS,
    "StateUtilsTest.test_adam": STATE_FIELDS,
    "StateUtilsTest.test_map_non_params_to_none": STATE_FIELDS,
    "StateUtilsTest.test_map_params_to_none": "A constant rate has a state too, with its count.",
    "StateUtilsTest.test_tree_get": "`scale_by_adam` has no count: gains take its place.",
    "StateUtilsTest.test_tree_set": "`scale_by_adam` has no count: gains take its place.",
}


# --- Running them ---


def swap(called: set[str]) -> None:
    """Put ours where optax holds its own; note in `called` which are called."""
    for ours in REPLACED:
        name = ours.__name__
        theirs = getattr(optax, name)

        @functools.wraps(theirs)
        def call(*args, _ours=ours, _theirs=theirs, _name=name, **kwargs):
            try:
                tx = _ours(*args, **kwargs)
            except NotOfferedError:
                return _theirs(*args, **kwargs)
            called.add(_name)
            return tx

        for module in [m for key, m in sys.modules.items() if key.split(".")[0] == "optax"]:
            for attribute, value in list(vars(module).items()):
                if value is theirs:
                    setattr(module, attribute, call)


def tests_of(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    """Yield the tests of a suite and of all that it holds."""
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from tests_of(test)
        else:
            yield test


def main() -> int:
    """Run the tests, print what failed and why, and return the exit code."""
    warnings.simplefilter("ignore")
    absltest.FLAGS(["optax_suite"])
    called: set[str] = set()
    swap(called)  # Before the tests are imported, whose tables hold factories.
    ran, failed = collections.Counter(), {}
    for file in FILES:
        module = importlib.import_module(f"optax.{file}")
        for test in tests_of(unittest.defaultTestLoader.loadTestsFromModule(module)):
            if any(word in type(test).__name__ for word in SKIPPED):
                continue
            called.clear()
            result = unittest.TestResult()
            stdout, sys.stdout = sys.stdout, io.StringIO()
            try:
                test.run(result)
            finally:
                sys.stdout = stdout
            if not called:
                continue
            name = test.id().removeprefix("optax.")
            ran[file] += 1
            for _, trace_back in [*result.failures, *result.errors]:
                failed[name] = trace_back
    return report(ran, failed)


def report(ran: collections.Counter, failed: dict[str, str]) -> int:
    """Print numbers, failures and their departures; return 1 if one has no name."""
    named = collections.defaultdict(list)
    unnamed = []
    for name in failed:
        why = next((key for key in DEPARTURES if key in name), None)
        named[why].append(name) if why else unnamed.append(name)
    for file, number in ran.items():
        print(f"{number:5} {file}")
    print(f"{sum(ran.values())} run with ours, {len(failed)} failed.")
    for key, names in named.items():
        print(f"\n{len(names)} × {key}: {DEPARTURES[key]}")
        print("".join(f"    {name}\n" for name in names), end="")
    stale = [key for key in DEPARTURES if key not in named]
    for name in unnamed:
        print(f"\nNo departure is named for {name}:\n{failed[name]}")
    for key in stale:
        print(f"No test fails for the departure {key!r}.")
    return bool(unnamed or stale)


if __name__ == "__main__":
    sys.exit(main())
