"""A second time scale rarely pays once all methods are tuned alike.

Delta gradient descent, delta momentum, nested momentum with periods, AggMo, QHM, Lookahead,
AdEMAMix and M3 against the method with one time scale that each extends: SGD, momentum, Adam or
Muon. They run on drift, on quadratics and on a language model of characters. Along runs of the
language model, the gauge of the edge of stability is read and compared with the spikes of the loss.

    python -m experiments timescales                 # about 5 minutes on 2 CPU cores
    python -m experiments timescales --quick         # a smoke test
    python -m experiments timescales --text FILE     # another text

Expected of the default, in how many comparisons the loss is smaller by 1 % beyond its interval:
5 of 24 on drift, 4 of 28 on quadratics, 0 of 7 on the language model. Delta gradient descent has
0.834, 0.893 and 0.979 times the loss of SGD on drift of 1, 2 and 3 levels, AdEMAMix 0.833, 0.810
and 0.890 times that of Adam. Momentum is the best of its kind on quadratics without noise. Test
losses of the language model lie between 2.43 (M3, Muon) and 2.56 (momentum) nats a character. The
gauge had passed 1 before 13 of 28 spikes: 10 of 15 of momentum and 3 of 13 of Adam.
"""

from experiments import lab
from experiments.timescales.config import QUICK, Config, check

EXPERIMENT = lab.Experiment(
    package=__name__,
    question="Where does a second time scale pay, and what does the gauge say at each spike?",
    duration="about 5 minutes on 2 CPU cores",
    config=Config,
    parts=("bound", "drift", "quadratics", "language", "gauge"),
    check=check,
    presets={"quick": QUICK},
    x64=False,  # The network is trained in single precision.
)
