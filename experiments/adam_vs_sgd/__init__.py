"""Untuned, Adam is far ahead of SGD; tuned, the two are close.

The optimizer notes train a small network one example at a time, with an L2 penalty and a learning
rate of 0.001, and find Adam's running loss far below SGD's from the first thousands of 20,000
examples. The experiment reproduces that and asks what remains once every method is tuned: ten
methods, one example at a time and in mini-batches. Learning rate, momentum, initialisation and
batch size are cross-validated on one grid for all; for SGD and Adam, a schedule and a warm-up, too.
The test images are used only in the last two parts. Further parts race on other models, in one pass
over the images, and ask whether SGD generalizes better, with a measurement for each of the notes'
three reasons.

    python -m experiments adam-vs-sgd
    python -m experiments adam-vs-sgd --full     # Fashion-MNIST; prints an estimate without a GPU

Expected with the defaults: at a learning rate of 0.001 Adam's running loss is below SGD's from the
first thousand examples on and ends at 0.028 +- 0.008 against 0.228 +- 0.008. With each method at
its best rate (0.0032 and 0.032) it ends at 0.044 +- 0.016 for Adam and 0.036 +- 0.052 for SGD. In
mini-batches, tuning reduces the cross-validated errors from 5 ... 87 % to 2.6 ... 3.9 %, most of it
by the learning rate. On the test images, the tuned SGD and Adam differ by 0.2 +- 2.1 percentage
points.

In one pass over the 1,438 training images, Adam's mean loss is 0.645 +- 0.033 and SGD's 0.757 +-
0.039. With schedule, warm-up and initialisation tuned alike, the median cross-validated errors are
2.44 % for Adam and 3.48 % for SGD. Adam has the smaller loss in logistic regression (0.132 against
0.150) and, by far, in the autoencoder (0.034 against 0.068). A linear network differs from its one
matrix by 3e-7 of the largest output.

In 20 random splits, SGD does not generalize measurably better: its error minus Adam's is 0.39
percentage points (p = 0.13 over splits and 0.032 over images). Of the notes' reasons, SGD does stay
nearer to its initial weights (0.76 of their norm against 1.03), but the distance is not correlated
with the test error; smaller batches help both; and Adam's effective rate grows by a factor of 1.6,
while only AdaGrad's shrinks, by 0.89.
"""

from experiments import lab
from experiments.adam_vs_sgd.config import FULL, QUICK, Config, check_images

EXPERIMENT = lab.Experiment(
    package=__name__,
    question="Is Adam still better than SGD once both are tuned?",
    duration="about 9 minutes on 2 CPU cores, with `--quick` less than one",
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
