"""Which sysctls a container may set: those that belong to a namespace of its own (config-linux.md). Pure.

Any other would be the host's. Out of scope: writing them (container.runtime.procfs).
"""

from container.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from container.spec.types import Config

#: ipc_namespaces(7); everything below fs.mqueue too.
_IPC = frozenset(
    f"kernel.{name}"
    for name in (
        "auto_msgmni",
        "msgmax",
        "msgmnb",
        "msgmni",
        "msg_next_id",
        "sem",
        "sem_next_id",
        "shm_next_id",
        "shm_rmid_forced",
        "shmall",
        "shmmax",
        "shmmni",
    )
)
_PREFIXES = {"net.": "network", "fs.mqueue.": "ipc", "user.": "user"}


def check(config: "Config", namespaces: "set[str]") -> None:
    """Raise ConfigError for a sysctl of `config` that no namespace among `namespaces` makes its own."""
    for name, value in ((config.get("linux") or {}).get("sysctl") or {}).items():
        dotted = name if "." in name.split("/")[0] else name.replace("/", ".")
        if dotted == "kernel.hostname" or (dotted == "kernel.domainname" and config.get("domainname", value) != value):
            field = dotted.partition(".")[2]
            raise ConfigError(f"sysctl `{name}` is what `{field}` is for", f"set `{field}` in config.json")
        needed = _namespace_of(dotted)
        if needed is None:
            raise ConfigError(f"sysctl `{name}` is not in a namespace: it would change the host", "leave it out")
        if needed not in namespaces:
            raise ConfigError(f"sysctl `{name}` needs a namespace of its own", f"add `{needed}` to `linux.namespaces`")


def _namespace_of(name: str) -> "str | None":
    if name == "kernel.domainname":
        return "uts"
    if name in _IPC:
        return "ipc"
    return next((kind for prefix, kind in _PREFIXES.items() if name.startswith(prefix)), None)
