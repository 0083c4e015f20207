"""The contract of an optax transformation, as checks to call from any test runner.

Anything that calls itself an `optax.GradientTransformation` can be asked to keep it:

    from nested_jax.testing import Case, check_contract

    def test_my_transform():
        check_contract(Case("my_transform", my_transform, {"decay": (0.9, 0.999)}))

Each check is a function of a `Case` that says what it asserts and why, and raises an
`AssertionError` that names the transform and what broke. They need no test runner, but
the packages of an extra: `pip install 'nested-jax[testing]'`. All of them together compile some
twenty small programs.
"""

from nested_jax.testing._case import EXTREMES as EXTREMES
from nested_jax.testing._case import Case as Case
from nested_jax.testing._numbers import check_dtypes as check_dtypes
from nested_jax.testing._numbers import check_extreme_gradients as check_extreme_gradients
from nested_jax.testing._numbers import (
    check_hyperparameter_gradients as check_hyperparameter_gradients,
)
from nested_jax.testing._numbers import check_hyperparameters as check_hyperparameters
from nested_jax.testing._numbers import check_reduced_precision as check_reduced_precision
from nested_jax.testing._numbers import check_single_compilation as check_single_compilation
from nested_jax.testing._precision import check_counters as check_counters
from nested_jax.testing._precision import check_precision as check_precision
from nested_jax.testing._state import check_donation as check_donation
from nested_jax.testing._state import check_init_is_abstract as check_init_is_abstract
from nested_jax.testing._state import check_serialization as check_serialization
from nested_jax.testing._state import check_stable_state as check_stable_state
from nested_jax.testing._state import check_state_is_arrays as check_state_is_arrays
from nested_jax.testing._trees import check_extra_arguments as check_extra_arguments
from nested_jax.testing._trees import check_odd_trees as check_odd_trees
from nested_jax.testing._trees import check_params_argument as check_params_argument
from nested_jax.testing._trees import check_sharding as check_sharding
from nested_jax.testing._wrappers import check_apply_if_finite as check_apply_if_finite
from nested_jax.testing._wrappers import check_chain as check_chain
from nested_jax.testing._wrappers import check_inject_hyperparams as check_inject_hyperparams
from nested_jax.testing._wrappers import check_masked as check_masked
from nested_jax.testing._wrappers import check_multi_steps as check_multi_steps

CHECKS = (
    check_state_is_arrays,
    check_init_is_abstract,
    check_params_argument,
    check_extra_arguments,
    check_dtypes,
    check_stable_state,
    check_single_compilation,
    check_donation,
    check_serialization,
    check_odd_trees,
    check_counters,
    check_precision,
    check_extreme_gradients,
    check_reduced_precision,
    check_hyperparameters,
    check_hyperparameter_gradients,
    check_chain,
    check_masked,
    check_multi_steps,
    check_apply_if_finite,
    check_inject_hyperparams,
    check_sharding,
)


def check_contract(case: Case) -> None:
    """Run every check on a transform, the cheapest first, until one raises.

    Most of optax's own transforms do not pass, `check_dtypes` above all: given hyperparameters as
    float32 arrays, they turn the updates of 16-bit gradients into float32.

    Args:
        case: The transform, and what it declares.

    Raises:
        AssertionError: If the transform breaks the contract.
        TypeError: If `case` is not a `Case`.

    Example:
        >>> import nested_jax as nj
        >>> from nested_jax.testing import Case, check_contract
        >>> check_contract(Case("rate", nj.scale_by_learning_rate, {"learning_rate": (0.1, 0.2)}))
    """
    if not isinstance(case, Case):
        raise TypeError(f"`case` must be a Case, got {case!r}.")
    for check in CHECKS:
        check(case)
