"""Reference optimizers and schedules in float64 NumPy, written from the papers.

Nothing here imports nested_jax, jax or optax, and nothing is fast: each line is meant to be checked
against the equation named above it.

No method here couples tensors, so each is written for one array. `per_tensor` makes of it
`method(params, gradients, ...)` for a dict of arrays and a list (over time) of dicts; it returns
the parameters after each step, theta_1 ... theta_T. Functions on lists of arrays (`cascade`,
`adam_directions`, `factored_directions`) give what a transform gives; `by_name` lifts them.

Papers count t = 1, 2, ...; schedules and callable rates are asked with the 0-based `step` = t - 1,
as in optax. `learning_rate` is alpha, a number or a function of the step; `schedule` is the
multiplier eta_t of Loshchilov & Hutter (AdamW 2019), which scales step and weight decay alike.
"""

from tests.oracles._adafactor import adafactor as adafactor
from tests.oracles._adafactor import clip_by_block_rms as clip_by_block_rms
from tests.oracles._adafactor import dims_to_factor as dims_to_factor
from tests.oracles._adafactor import factored_adamw as factored_adamw
from tests.oracles._adafactor import factored_directions as factored_directions
from tests.oracles._adafactor import relative_rate as relative_rate
from tests.oracles._adafactor import rms as rms
from tests.oracles._adam import adam as adam
from tests.oracles._adam import adam_directions as adam_directions
from tests.oracles._adam import adamw as adamw
from tests.oracles._matrices import delta_gradient_descent as delta_gradient_descent
from tests.oracles._matrices import delta_momentum_directions as delta_momentum_directions
from tests.oracles._matrices import m3_directions as m3_directions
from tests.oracles._momentum import aggmo as aggmo
from tests.oracles._momentum import momentum as momentum
from tests.oracles._momentum import nesterov as nesterov
from tests.oracles._momentum import nesterov_lookahead as nesterov_lookahead
from tests.oracles._momentum import qhm as qhm
from tests.oracles._nested import cascade as cascade
from tests.oracles._nested import matched_delay_decays as matched_delay_decays
from tests.oracles._nested import nested_decays as nested_decays
from tests.oracles._nested import nested_momentum as nested_momentum
from tests.oracles._nested import periodic_cascade as periodic_cascade
from tests.oracles._regression import drifting_regression as drifting_regression
from tests.oracles._schedules import constant as constant
from tests.oracles._schedules import cosine as cosine
from tests.oracles._schedules import step_drop as step_drop
from tests.oracles._schedules import warm_restarts as warm_restarts
from tests.oracles._schedules import warmup_linear_decay as warmup_linear_decay
from tests.oracles._schedules import with_warmup as with_warmup
from tests.oracles._trees import by_name as by_name
from tests.oracles._trees import rows as rows
