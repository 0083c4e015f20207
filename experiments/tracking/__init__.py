"""Which optimizer follows drift best, and how far from the best possible is it?

On drift of 1 to 5 levels, theory knows the smallest possible mean loss, that of a Kalman filter
which knows the drift. Optimizers and adaptive filters are tuned on some seeds, and their loss on
others is a multiple of it. Kalman filters that assume other numbers of levels show what levels are
good for. Three real series follow.

    python -m experiments tracking            # about 3 minutes on 2 CPU cores
    python -m experiments tracking --quick    # below a minute: a smoke test

Expected of the default, as multiples of the best possible loss at 1 to 5 data levels: SGD with
weight decay 1.18, 1.34, 1.30, 1.26, 1.22; SGD 1.51, 1.62, 1.47, 1.37, 1.31; Adam 1.97, 2.57, 1.97,
1.65, 1.51; RLS with forgetting 1.39, 1.31, 1.25, 1.21, 1.19. Momentum gains at most 1 %. The filter
that assumes the right number of levels is always the best; one too many costs 2 to 15 %, one too
few 1 to 20 %.
"""

from experiments import lab
from experiments.tracking.config import QUICK, Config, check

EXPERIMENT = lab.Experiment(
    package=__name__,
    question="Which optimizer follows drift best, and how far from the best possible is it?",
    duration="about 3 minutes on 2 CPU cores",
    config=Config,
    parts=("bound", "tuning", "methods", "filters", "series"),
    check=check,
    presets={"quick": QUICK},
)
