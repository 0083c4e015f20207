"""AdamW's learning rate and weight decay cannot be tuned independently: 16 heatmaps on images.

AdamW with its paper's decay (scaled by the schedule, not by the learning rate) under five
schedules, normalized by the length of the cycle or not; Adam with an L2 penalty; AdamW with
Adafactor's second moment and relative step; and Adafactor over its step cap and clip threshold.
Each heatmap has 11 x 12 cells, and each cell one training per seed. Cells are compared on
validation images, and the test images are evaluated once, for the best cell. A last part trains
AdamW for five lengths.

    python -m experiments heatmaps            # 9,605 trainings on digits
    python -m experiments heatmaps --quick    # smoke test: fewer steps and seeds
    python -m experiments heatmaps --full     # Fashion-MNIST, for a GPU

Expected of the default: AdamW's best decay grows with the learning rate under all five schedules,
with a log-log slope of 0.6 to 1.1, and the largest tolerable decay with a slope of 0.6 to 0.7. The
units decide the slope: a decay that the learning rate multiplies (optax, torch) gives the same
trainings, and its slopes are 1 less. Adam with L2 has a slope of 0.7 for the best decay and of 0.0
for the tolerable decay. Its test loss is 0.040 +- 0.002, and AdamW's is 0.031 +- 0.005. For longer
runs, normalization does not help: the slope of log best decay against log length is 0.2 for the
plain and 0.7 for the normalized decay; for the tolerable decay, it is -0.1 and 0.4.
"""

from experiments import lab
from experiments.heatmaps.config import FULL, PARTS, QUICK, Config, check

EXPERIMENT = lab.Experiment(
    package=__name__,
    question="Can learning rate and weight decay be tuned independently?",
    duration="about 8 minutes on 2 CPU cores",
    config=Config,
    parts=PARTS,
    check=check,
    presets={"quick": QUICK, "full": FULL},
    x64=False,  # Networks are trained in single precision.
    learns=True,
)
