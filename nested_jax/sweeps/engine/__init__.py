"""The machinery that computes a sweep: chunks, executors, store, progress."""

from nested_jax.sweeps.engine._chunks import plan_stages as plan_stages
from nested_jax.sweeps.engine._examination import Structure as Structure
from nested_jax.sweeps.engine._examination import dimensions as dimensions
from nested_jax.sweeps.engine._examination import examine as examine
from nested_jax.sweeps.engine._executor import Executor as Executor
from nested_jax.sweeps.engine._fingerprint import digest as digest
from nested_jax.sweeps.engine._fingerprint import fingerprint_of as fingerprint_of
from nested_jax.sweeps.engine._fingerprint import origin_of as origin_of
from nested_jax.sweeps.engine._job import Job as Job
from nested_jax.sweeps.engine._local import LocalDevices as LocalDevices
from nested_jax.sweeps.engine._processes import gather as gather
from nested_jax.sweeps.engine._processes import share_of_this_process as share_of_this_process
from nested_jax.sweeps.engine._processes import together as together
from nested_jax.sweeps.engine._progress import Interruption as Interruption
from nested_jax.sweeps.engine._progress import Progress as Progress
from nested_jax.sweeps.engine._ray import RayWorkers as RayWorkers
from nested_jax.sweeps.engine._stage import CARRY as CARRY
from nested_jax.sweeps.engine._stage import REPORT as REPORT
from nested_jax.sweeps.engine._stage import Stage as Stage
from nested_jax.sweeps.engine._stage import advance as advance
from nested_jax.sweeps.engine._stage import stages_of as stages_of
from nested_jax.sweeps.engine._stage import start as start
from nested_jax.sweeps.engine._stage import state_of as state_of
from nested_jax.sweeps.engine._store import Store as Store
