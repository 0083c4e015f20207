"""What every experiment shares: the value, options, folder, report, images, networks, figures.

An experiment is a package of four modules. `config` has the options, `runs` has
`simulate(config, lab)`, `report` has `sections(config, results)`, and `__init__` joins them to an
`Experiment` and says what to expect. `lab.data`, `lab.models` and `lab.figures` are imported by
those who need them.
"""

from experiments.lab._experiment import Experiment as Experiment
from experiments.lab._experiment import Lab as Lab
from experiments.lab._experiment import resolved as resolved
from experiments.lab._experiment import run as run
from experiments.lab._experiment import use_device as use_device
from experiments.lab._folder import claim as claim
from experiments.lab._folder import describe as describe
from experiments.lab._options import Count as Count
from experiments.lab._options import Data as Data
from experiments.lab._options import Device as Device
from experiments.lab._options import Download as Download
from experiments.lab._options import Folder as Folder
from experiments.lab._options import Full as Full
from experiments.lab._options import NonNegative as NonNegative
from experiments.lab._options import Positive as Positive
from experiments.lab._options import Quick as Quick
from experiments.lab._options import Seed as Seed
from experiments.lab._options import Several as Several
from experiments.lab._options import UnitInterval as UnitInterval
from experiments.lab._options import UsageError as UsageError
from experiments.lab._options import check_warmup as check_warmup
from experiments.lab._options import choice as choice
from experiments.lab._options import count as count
from experiments.lab._options import option_name as option_name
from experiments.lab._section import Diverged as Diverged
from experiments.lab._section import Section as Section
from experiments.lab._section import Table as Table
