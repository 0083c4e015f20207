"""AdamW's learning rate and weight decay cannot be tuned independently: 16 heatmaps on images.

AdamW with its paper's decay (scaled by the schedule, not by the learning rate) under five
schedules, normalized by the length of the cycle or not; Adam with an L2 penalty; AdamW with
Adafactor's second moment and relative step; and Adafactor over its step cap and clip threshold.
Each heatmap has 11 x 12 cells, and each cell one training per seed. Cells are compared on
validation images, and the test images are evaluated once, for the best cell. A last part trains
AdamW for five lengths.

    python -m experiments heatmaps            # 11,814 trainings on digits
    python -m experiments heatmaps --quick    # smoke test: fewer steps and seeds
    python -m experiments heatmaps --full     # Fashion-MNIST, for a GPU

Expected of the default: under step drop, cosine and warm restarts AdamW's best decay grows with the
learning rate, with a log-log slope of 1 to 1.7, and the largest tolerable decay with a slope of 0.7
to 0.8. Under a fixed schedule too few learning rates have a clear best decay. Normalization only
changes units under schedules of one cycle; under warm restarts, 6 seeds show no effect on the
slopes. With Adafactor's second moment and relative step the slopes are about half as large.
"""

from experiments import lab
from experiments.heatmaps.config import FULL, PARTS, QUICK, Config, check

EXPERIMENT = lab.Experiment(
    package=__name__,
    question="Can learning rate and weight decay be tuned independently?",
    duration="about 5 minutes on 2 CPU cores",
    config=Config,
    parts=PARTS,
    check=check,
    presets={"quick": QUICK, "full": FULL},
    x64=False,  # Networks are trained in single precision.
    learns=True,
)
