"""All scenarios, in the order in which they are run and shown."""

from bench.scenario import Scenario
from bench.scenarios import blob_cold, blob_warm, exec_true, memory, phases, run_true, start_up, unpack

ALL: tuple[Scenario, ...] = (
    run_true.SCENARIO,
    phases.SCENARIO,
    exec_true.SCENARIO,
    memory.SCENARIO,
    start_up.SCENARIO,
    unpack.SCENARIO,
    blob_warm.SCENARIO,
    blob_cold.SCENARIO,
)
