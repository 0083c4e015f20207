"""Untuned, Adam is far ahead of SGD; tuned, the two are close.

The optimizer notes train a small network one example at a time, with an L2 penalty and a learning
rate of 0.001, and find Adam's running loss far below SGD's from the first thousands of 20,000
examples. The experiment reproduces that and asks what remains once every method is tuned: ten
methods, one example at a time and in mini-batches. Learning rate, momentum, initialisation and
batch size are cross-validated on one grid for all. The test images are used once, at the end.

    python -m experiments adam-vs-sgd
    python -m experiments adam-vs-sgd --full     # Fashion-MNIST; prints an estimate without a GPU

Expected with the defaults: at a learning rate of 0.001 Adam's running loss is below SGD's from the
first thousand examples on and ends at 0.028 +- 0.008 against 0.228 +- 0.008. With each method at
its best rate (0.0032 and 0.032) it ends at 0.054 +- 0.045 for Adam and 0.028 +- 0.017 for SGD. In
mini-batches, tuning reduces the cross-validated errors from 5 ... 87 % to 2.6 ... 3.9 %, most of it
by the learning rate. On the test images, the tuned SGD and Adam differ by 0.2 +- 2.1 percentage
points.
"""

from experiments import lab
from experiments.adam_vs_sgd.config import FULL, QUICK, Config, check_images

EXPERIMENT = lab.Experiment(
    package=__name__,
    question="Is Adam still better than SGD once both are tuned?",
    duration="about 5 minutes on 2 CPU cores, with `--quick` less than one",
    config=Config,
    parts=(
        "online",
        "one_pass",
        "tuning",
        "schedules",
        "activations",
        "races",
        "timing",
        "final",
        "generalization",
    ),
    check_images=check_images,
    presets={"quick": QUICK, "full": FULL},
    x64=False,  # Networks are trained in single precision.
    learns=True,
)
