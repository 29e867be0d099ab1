"""What watching a container costs in memory."""

import os

from bench.measure import ContestantError, Row
from bench.scenario import Context, Result, Scenario
from bench.settings import Setting, open_settings

_COUNTS = (50, 200)


def measure(context: Context) -> Result:
    """Weigh the shim, and as many conmons, with many containers that sleep."""
    result = Result()
    with open_settings(context.scratch / "memory", ["/bin/sleep", "3600"]) as settings:
        if os.geteuid() != 0:
            result.remarks.append("memory needs root")
            return result
        for count in _COUNTS:
            try:
                result.rows += _weigh(settings[0], max(2, round(count * context.scale)), result.remarks)
            except ContestantError as error:
                result.remarks.append(str(error))
    return result


def _weigh(setting: Setting, count: int, remarks: list[str]) -> list[Row]:
    answer = setting.work("weigh", count=count)
    weight = {name: values[0] for name, values in answer["samples"]["memory"].items()}
    remarks += [f"{name}: {why}" for name, why in answer["absent"].items()]
    metric, each = f"{count} containers: per container", weight["shim"] / count
    rows = [Row("memory", f"{count} containers: what one more adds", "KiB", round((each - weight["idle"] / count), 1))]
    if "conmon" not in weight:
        return [Row("memory", metric, "KiB", round(each, 1)), *rows]
    theirs = weight["conmon"] / count
    return [Row("memory", metric, "KiB", round(each, 1), round(theirs, 1), "conmon", round(each / theirs, 4)), *rows]


SCENARIO = Scenario(
    "memory",
    "Proportional set size of what watches containers that sleep, divided by their number: our one shim against one "
    "`conmon` per container (as podman has it, over crun). `what one more adds` leaves out the shim's own size.",
    measure,
)
