"""Momentum replaces a condition number by its square root, on quadratics and on hard surfaces.

Gradient descent, heavy ball and Nesterov's method on quadratics with condition numbers from 10 to
10^4, each at its optimal constants, against the rates of theory; the velocity that they reach down
a slope; what to do with the learning rate when momentum is introduced; four surfaces on which
descent is slow or gets lost, with the curvature along the way, and what helps there; and the batch
sizes whose noise leaves a local minimum.

    python -m experiments momentum            # about 3 minutes on 2 CPU cores
    python -m experiments momentum --quick    # half of that: a smoke test

Expected: measured factors per step agree with (k-1)/(k+1), (r-1)/(r+1), 1-1/r and 1-2/sqrt(3k+1),
where r is the square root of the condition number k, to 4 digits. On the regression, all runs with
decay 0.9 and more diverge if the learning rate is kept, and none if it is multiplied by 1 - decay.
Whitened features need 4 steps on the collinear regression where plain descent needs 1,800; no
mitigation helps on all surfaces. Newton's method solves every quadratic in one step. Of 200 runs in
a local minimum, all leave it with batches of 2 and none with batches of 64.
"""

from experiments import lab
from experiments.momentum.config import QUICK, Config, check

EXPERIMENT = lab.Experiment(
    package=__name__,
    question="How much faster is momentum than gradient descent, and where?",
    duration="about 3 minutes on 2 CPU cores",
    config=Config,
    parts=(
        "tuning",
        "surfaces",
        "quadratics",
        "velocities",
        "regression",
        "newton",
        "terminal",
        "mitigations",
        "escapes",
    ),
    check=check,
    presets={"quick": QUICK},
)
