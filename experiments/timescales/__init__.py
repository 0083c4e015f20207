"""Where does a second time scale pay, and what does the gauge say at each spike?"""

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
