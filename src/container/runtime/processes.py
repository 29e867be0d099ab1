"""The process that `exec` runs: read from a document, or the container's own with what the options change."""

from container.errors import ConfigError
from container.linux.capabilities import NUMBERS
from container.runtime import lifecycle
from container.runtime.arguments import Arguments, is_number
from container.runtime.state import State
from container.spec import config as specs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from container.spec.types import Process


def build(arguments: Arguments, state: State, command: "list[str]") -> "Process":
    """Return the checked process that `arguments` ask for.

    Raises:
        ConfigError: there is no command, or an option is wrong.
    """
    if arguments.get("--process"):
        process = specs.parse_process(specs.read_input(arguments.get("--process")))
        if arguments.has("--tty"):
            process["terminal"] = True
        return process
    if not command:
        raise ConfigError("`exec` needs a command", "name one behind the ID, or use `--process`")
    process = _base(state)
    process["args"] = command
    process["terminal"] = arguments.has("--tty")
    process["cwd"] = arguments.get("--cwd", process["cwd"])
    process["env"] = [*(process.get("env") or ()), *arguments.all("--env")]
    _set_user(arguments, process)
    _set_capabilities(arguments, process)
    if arguments.has("--no-new-privs"):
        process["noNewPrivileges"] = True
    if arguments.get("--apparmor"):
        process["apparmorProfile"] = arguments.get("--apparmor")
    if arguments.get("--process-label"):
        process["selinuxLabel"] = arguments.get("--process-label")
    specs.check_process(process)
    return process


def parse_user(text: str) -> "tuple[int, int | None]":
    """Return (uid, gid) of `UID` or `UID:GID`; a uid alone says nothing of the group (CVE-2026-30892)."""
    uid, colon, gid = text.partition(":")
    if not is_number(uid) or (colon and not is_number(gid)):
        raise ConfigError(f"`--user` takes UID or UID:GID in numbers, not `{text}`", "such as `1000:1000`")
    return int(uid), int(gid) if colon else None


def _base(state: State) -> "Process":
    process = lifecycle.load_config(state).get("process")
    if process is None:
        raise ConfigError(f"container `{state.id}` has no process to take defaults from", "use `--process`")
    return process


def _set_user(arguments: Arguments, process: "Process") -> None:
    user = process.setdefault("user", {})
    if arguments.get("--user"):
        uid, gid = parse_user(arguments.get("--user"))
        user["uid"] = uid
        if gid is not None:
            user["gid"] = gid
    for text in arguments.all("--additional-gids"):
        if not is_number(text):
            raise ConfigError(f"`--additional-gids` takes a number, not `{text}`", "such as `1000`")
        user["additionalGids"] = [*(user.get("additionalGids") or ()), int(text)]


def _set_capabilities(arguments: Arguments, process: "Process") -> None:
    wanted: dict[str, list[str]] = process.setdefault("capabilities", {})  # type: ignore[assignment] # five lists
    # Not the inheritable set: it would let programs with file capabilities gain them (CVE-2022-29162).
    wanted["inheritable"] = []
    for name in arguments.all("--cap"):
        if name not in NUMBERS:
            raise ConfigError(f"unknown capability `{name}`", "such as CAP_NET_ADMIN")
        for which in ("bounding", "effective", "permitted"):
            wanted[which] = [*(wanted.get(which) or ()), name]
