"""Adam's paper promises a bounded step, a signal-to-noise ratio, and a regret that vanishes.

Kingma & Ba (2015) bound Adam's step, read its ratio of moments as a signal-to-noise ratio, correct
its bias for the sake of the first steps, and prove that its regret vanishes. Reddi, Kale & Kumar
(2018) show that it need not. Each of these claims is measured.

    python -m experiments adam

Expected: a lone gradient makes a step of 3.1623 times the learning rate, and growing gradients make
one of 7.2703 times, the tight bound. Alternating gradients leave 1/19 of the learning rate. In
[-1, 1], where -1 is best, Adam ends at 0.995 in the game of period 101 and at 0.999 in the game of
period 3; AMSGrad ends at -0.9998 and -0.999. If bias correction stops at t = 100, steps jump by a
factor of 3.24 and the loss on a quadratic rises by a factor of 2.8. A fresh Adam on a trained
network raises its loss by a factor of 3, with warm-up or without. From AdaGrad to Adam, the last
training loss of a small network falls by factors of 1.16 (average in place of the sum) and 2.1
(bias correction); momentum makes no difference larger than a factor of 1.3.
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
