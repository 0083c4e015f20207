"""Adam's paper promises a bounded step, a signal-to-noise ratio, and a regret that vanishes.

Kingma & Ba (2015) bound Adam's step, read its ratio of moments as a signal-to-noise ratio, correct
its bias for the sake of the first steps, and prove that its regret vanishes. Reddi, Kale & Kumar
(2018) show that it need not. Each of these claims is measured.

    python -m experiments adam

Expected: a lone gradient makes a step of 3.1623 times the learning rate, and growing gradients make
one of 7.2703 times, the tight bound. Alternating gradients leave 1/19 of the learning rate. In
[-1, 1], where -1 is best, Adam ends at 0.995 in the game of period 101 and at 0.999 in the game of
period 3; AMSGrad ends at -0.9998 and -0.999.
"""

from experiments import lab
from experiments.adam.config import QUICK, Config

EXPERIMENT = lab.Experiment(
    package=__name__,
    question="Does Adam keep the promises of its paper?",
    duration="2 to 3 minutes on 2 CPU cores",
    config=Config,
    parts=(
        "silence",
        "bounds",
        "signal",
        "early",
        "training",
        "epsilon",
        "restart",
        "stopped",
        "ladder",
        "counterexamples",
        "regret",
    ),
    presets={"quick": QUICK},
    learns=True,
)
