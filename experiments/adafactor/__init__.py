"""Adafactor's second moment can be stale; update clipping limits the damage; its state is small.

Shazeer & Stern (2018) use RMS(u), the root mean square of an update, to see whether the second
moment lags behind the gradients: 1 is healthy, above 1 it is stale. RMS(u) is recorded while a
small network learns images, for several schedules of beta2, with and without clipping, with ramp-up
and decay of the step, and through a change of labels that makes every second moment stale. The
factored second moment is compared with other approximations in KL divergence, and the state's
memory with Adam's, as arrays and as XLA reports it.

    python -m experiments adafactor

Expected: a constant beta2 of 0.999 without correction begins with updates 31.62 times as large as
those of a schedule, and clipping removes the difference. Schedules stay below 2 until the labels
change; then RMS(u) rises to 5 with 1 - t^-0.5, to 11 with the paper's 1 - t^-0.8, and to 16 with
0.999. Without clipping, 0.999 diverges at a cap of 0.3. With each method at its best cap, clipping
makes the last training loss 6.7 times lower with 0.999, and 1.8 times with the paper's schedule. On
the first layer, a second moment of rows and columns loses 0.050 in KL divergence, that of singular
values 0.057, rows alone 0.40 and columns alone 0.74. For a matrix of 4096 x 4096, Adam holds
128 MiB and Adafactor 32 KiB.
"""

from experiments import lab
from experiments.adafactor.config import QUICK, Config

EXPERIMENT = lab.Experiment(
    package=__name__,
    question="When is Adafactor's second moment stale, and does update clipping help?",
    duration="about 3 minutes on 2 CPU cores",
    config=Config,
    parts=("training", "shift", "factored", "memory"),
    presets={"quick": QUICK},
    learns=True,
)
