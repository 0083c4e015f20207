"""Every momentum level multiplies the loss; levels in the drifting weights do not matter.

The published level sweep: m = 1 ... 19 momentum levels in the model against d = 1 ... 19 levels in
the drift of the true weights of a linear regression. The default reproduces it to the printed
digit, with its own random numbers. `--stream jax` repeats it with others.

    python -m experiments levels

Expected with the published random numbers: the regression of the log loss on the levels has slope
12.9085 +- 0.2984 for model levels and -0.0347 +- 0.2984 for data levels. Runs with up to 5 levels
converge, 6 are on the edge, and more diverge. Theory, which uses none of the runs, predicts slopes
of 13.02 and -0.03; `python -m experiments stability` explains why. The best loss of each data level
is 1.2 to 2.4 times the best possible one. Of the 98 runs that end below the untrained model's loss,
which include 3 with 6 levels, 41 are worse than always answering 0.
"""

from experiments import lab
from experiments.levels.config import Config, check

EXPERIMENT = lab.Experiment(
    package=__name__,
    question="Is the loss smallest where the model has as many momentum levels as the data?",
    duration="10 to 20 seconds on 2 CPU cores",
    config=Config,
    parts=("levels",),
    check=check,
)
