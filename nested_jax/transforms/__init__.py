"""Pure `optax.GradientTransformation`s, one method per file."""

from nested_jax.transforms._adam import ScaleByAdamState as ScaleByAdamState
from nested_jax.transforms._adam import scale_by_adam as scale_by_adam
from nested_jax.transforms._aggmo import ScaleByAggmoState as ScaleByAggmoState
from nested_jax.transforms._aggmo import scale_by_aggmo as scale_by_aggmo
from nested_jax.transforms._clipping import ClipByBlockRmsState as ClipByBlockRmsState
from nested_jax.transforms._clipping import clip_by_block_rms as clip_by_block_rms
from nested_jax.transforms._delta_gradient_descent import (
    DeltaGradientDescentState as DeltaGradientDescentState,
)
from nested_jax.transforms._delta_gradient_descent import (
    delta_gradient_descent as delta_gradient_descent,
)
from nested_jax.transforms._delta_momentum import (
    ScaleByDeltaMomentumState as ScaleByDeltaMomentumState,
)
from nested_jax.transforms._delta_momentum import (
    scale_by_delta_momentum as scale_by_delta_momentum,
)
from nested_jax.transforms._factored_rms import FactoredMoment as FactoredMoment
from nested_jax.transforms._factored_rms import ScaleByFactoredRmsState as ScaleByFactoredRmsState
from nested_jax.transforms._factored_rms import scale_by_factored_rms as scale_by_factored_rms
from nested_jax.transforms._m3 import ScaleByM3State as ScaleByM3State
from nested_jax.transforms._m3 import scale_by_m3 as scale_by_m3
from nested_jax.transforms._metrics import Metrics as Metrics
from nested_jax.transforms._metrics import WithMetricsState as WithMetricsState
from nested_jax.transforms._metrics import metrics_of as metrics_of
from nested_jax.transforms._metrics import with_metrics as with_metrics
from nested_jax.transforms._momentum import (
    ScaleByAccumulatedMomentumState as ScaleByAccumulatedMomentumState,
)
from nested_jax.transforms._momentum import (
    scale_by_accumulated_momentum as scale_by_accumulated_momentum,
)
from nested_jax.transforms._nested_momentum import (
    ScaleByNestedMomentumState as ScaleByNestedMomentumState,
)
from nested_jax.transforms._nested_momentum import matched_delay_decays as matched_delay_decays
from nested_jax.transforms._nested_momentum import nested_decays as nested_decays
from nested_jax.transforms._nested_momentum import (
    scale_by_nested_momentum as scale_by_nested_momentum,
)
from nested_jax.transforms._nesterov import (
    ScaleByNesterovMomentumState as ScaleByNesterovMomentumState,
)
from nested_jax.transforms._nesterov import nesterov_iterate as nesterov_iterate
from nested_jax.transforms._nesterov import scale_by_nesterov_momentum as scale_by_nesterov_momentum
from nested_jax.transforms._periods import Periods as Periods
from nested_jax.transforms._qhm import ScaleByQhmState as ScaleByQhmState
from nested_jax.transforms._qhm import scale_by_qhm as scale_by_qhm
from nested_jax.transforms._rate import ScaleByLearningRateState as ScaleByLearningRateState
from nested_jax.transforms._rate import scale_by_learning_rate as scale_by_learning_rate
from nested_jax.transforms._relative_step import (
    ScaleByRelativeStepState as ScaleByRelativeStepState,
)
from nested_jax.transforms._relative_step import scale_by_relative_step as scale_by_relative_step
from nested_jax.transforms._weight_decay import (
    AddDecoupledWeightDecayState as AddDecoupledWeightDecayState,
)
from nested_jax.transforms._weight_decay import (
    add_decoupled_weight_decay as add_decoupled_weight_decay,
)
