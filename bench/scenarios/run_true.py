"""Run /bin/true: create, start, wait, delete."""

from bench.measure import ContestantError, rows_of
from bench.scenario import Context, Result, Scenario
from bench.settings import open_settings

_ROUNDS = 150
_OURS = ("shim", "vapp-oci")


def measure(context: Context) -> Result:
    """Let shim, vapp-oci, crun and runc take turns in every setting."""
    result = Result()
    with open_settings(context.scratch / "run-true", ["/bin/true"]) as settings:
        for setting in settings:
            try:
                answer = setting.work("run_true", rounds=context.rounds(_ROUNDS))
            except ContestantError as error:
                result.remarks.append(str(error))
                continue
            for ours in _OURS:
                metric = f"{setting.name}: {ours}"
                result.rows += rows_of("run-true", metric, "ms", answer["samples"]["run"], ours, 1e3)
            result.remarks += [f"{setting.name}: {name}: {why}" for name, why in answer["absent"].items()]
    return result


SCENARIO = Scenario(
    "run-true",
    "Run `/bin/true` from static busybox with fresh pid, network, ipc, uts and mount namespaces, the usual six "
    "mounts, masked paths and the default device rule: create, start, wait, delete. Ours twice: through a shim "
    "that runs already, request by request over its socket, and by the command `vapp-oci run`; rivals by `crun run` "
    "and `runc run`. As root with cgroups, as root without (crun and vapp-oci with `--cgroup-manager=disabled`, "
    "nothing mounted on `/sys/fs/cgroup`), and as an unprivileged user: there the shim has made its node namespaces "
    "once, and the commands make a user namespace with `newuidmap` for each container.",
    measure,
)
