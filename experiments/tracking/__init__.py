"""Which optimizer follows drift best, and how far from the best possible is it?

python -m experiments tracking            # about 5 minutes on 2 CPU cores
python -m experiments tracking --quick    # below a minute: a smoke test
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
