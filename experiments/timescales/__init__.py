"""A second time scale pays in a quarter of the comparisons, once all methods are tuned alike.

Delta gradient descent, delta momentum, nested momentum with periods, AggMo, QHM, Lookahead,
AdEMAMix and M3 against the method with one time scale that each extends: SGD, momentum, Adam or
Muon. They run on drift, on quadratics and on a language model of characters. Along runs of the
language model, `theory.edge_of_stability` is recorded, the gauge, and compared with the spikes of
the loss.

    python -m experiments timescales                 # about 5 minutes on 2 CPU cores
    python -m experiments timescales --quick         # below a minute: a smoke test
    python -m experiments timescales --text FILE     # another text

Expected of the default, in how many comparisons the loss is smaller by 1 % beyond its interval:
5 of 24 on drift, 10 of 28 on quadratics, 0 of 7 on the language model. Delta gradient descent has
0.834, 0.893 and 0.979 times the loss of SGD on drift of 1, 2 and 3 levels, AdEMAMix 0.808, 0.954
and 1.01 times that of Adam; delta momentum and AggMo equal momentum within 0.1 %. Test losses of
the language model are smallest for M3, 2.42 nats a character. The gauge had passed 1 before 13 of
30 spikes: 6 of 11 of momentum and 7 of 19 of Adam.
"""

from experiments import lab
from experiments.timescales.config import QUICK, Config, check

EXPERIMENT = lab.Experiment(
    package=__name__,
    question="Where does a second time scale pay, and does the edge of stability foresee spikes?",
    duration="about 5 minutes on 2 CPU cores",
    config=Config,
    parts=("bound", "drift", "quadratics", "language", "gauge"),
    check=check,
    presets={"quick": QUICK},
    x64=False,  # The network is trained in single precision.
)
