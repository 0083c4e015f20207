"""Momentum levels diverge because their delays add up; matching the data's levels does not help.

The published level sweep left two conjectures: that the loss is smallest where model and data have
the same number of levels, and that every further level of the model multiplies the loss. This
experiment tests both. `nested_jax.theory` predicts the growth, the largest stable learning rate and
the stationary loss of every cascade from its transfer function alone; runs over many seeds measure
them. The first conjecture is tested where every level count is stable: with matched delays, and
with a learning rate tuned for each combination.

    python -m experiments stability            # about 6 minutes on 2 CPU cores
    python -m experiments stability --quick    # below a minute: a smoke test

Expected of the default, with 32 seeds: with equal decays, runs with up to 5 levels converge, 6 are
on the edge, and more diverge. They grow faster than the mean error and slower than its mean square,
from 10 levels on within 2 % of the latter. All 95 stationary losses are within 3 standard errors of
the prediction. With matched delays all 19 level counts converge. One level is best at every data
level and in every scheme: as many levels as the data cost 10 to 220 % in loss.
"""

from experiments import lab
from experiments.stability.config import QUICK, Config, check

EXPERIMENT = lab.Experiment(
    package=__name__,
    question="Why do momentum levels diverge, and does matching the data's levels help?",
    duration="about 6 minutes on 2 CPU cores",
    config=Config,
    parts=("growth", "thresholds", "tuning", "losses"),
    check=check,
    presets={"quick": QUICK},
)
