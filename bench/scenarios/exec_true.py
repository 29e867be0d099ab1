"""Run /bin/true in a container that is running."""

from bench.measure import ContestantError, rows_of
from bench.scenario import Context, Result, Scenario
from bench.settings import open_settings

_ROUNDS = 100


def measure(context: Context) -> Result:
    """Let shim, vapp-oci, crun and runc take turns with a sleeping container each."""
    result = Result()
    with open_settings(context.scratch / "exec", ["/bin/sleep", "3600"]) as settings:
        for setting in settings:
            try:
                answer = setting.work("use_running", rounds=context.rounds(_ROUNDS))
            except ContestantError as error:
                result.remarks.append(str(error))
                continue
            for metric, samples in answer["samples"].items():
                for ours in ("shim", "vapp-oci"):
                    result.rows += rows_of("exec", f"{metric}, {setting.name}: {ours}", "ms", samples, ours, 1e3)
            result.remarks += [f"{setting.name}: {name}: {why}" for name, why in answer["absent"].items()]
    return result


SCENARIO = Scenario(
    "exec",
    "In a container that sleeps: run `/bin/true` until its end (`exec`), and ask for its state (`state`). Ours through "
    "the shim, with three pipes as the program's standard streams, and by `vapp-oci exec` and `vapp-oci state`.",
    measure,
)
