"""The verbs of `vapp-oci`; each takes the parsed arguments and returns an exit status."""

import json
import os
import signal
import sys

from container.errors import ConfigError, ContainerError
from container.linux.capabilities import NAMES
from container.linux.files import replace_file
from container.linux.namespaces import FLAGS
from container.runtime import exec as execs
from container.runtime import foreground, launch, lifecycle, rootfs
from container.runtime import options as mount_options
from container.runtime import state as states
from container.runtime.arguments import Arguments
from container.spec import config as specs
from container.spec import example

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from container.spec.types import Config, Linux, Process

#: What a failing exec exits with, so that it differs from the program's own statuses (runc).
EXEC_FAILED = 255


def default_root() -> str:
    """Return the state directory for this user; inside podman's user namespace the user's own."""
    runtime_dir = os.environ.get("XDG_RUNTIME_DIR")
    if runtime_dir and (os.geteuid() != 0 or launch.in_user_namespace()):
        return f"{runtime_dir}/vapp-oci"
    return "/run/vapp-oci" if os.geteuid() == 0 else f"/tmp/vapp-oci-{os.getuid()}"


def create(arguments: Arguments) -> int:
    """Build a container and leave it waiting."""
    started = _create(arguments, gate=True)
    started.close()
    return 0


def run(arguments: Arguments) -> int:
    """Create, start, wait, delete."""
    started = _create(arguments, gate=False)
    root, container_id = _root(arguments), started.state.id
    try:
        started.go()
        while started.feed() != "started":
            pass
    except BaseException:
        started.abort()
        raise
    lifecycle.run_hooks(started.state, "poststart", "running")
    if arguments.has("--detach"):
        started.close()
        return 0
    master = -1 if arguments.get("--console-socket") else started.console
    code = foreground.wait(started.pid, started.pidfd, master)
    started.close()
    if not arguments.has("--keep"):
        lifecycle.delete(root, container_id, force=True)
    return code


def start(arguments: Arguments) -> int:
    """Open the gate of a created container."""
    lifecycle.start(_root(arguments), arguments.operands[0])
    return 0


def execute(arguments: Arguments) -> int:
    """Run a further program."""
    if not arguments.operands:
        raise ConfigError("`exec` takes ID [COMMAND…]")
    container_id, *command = arguments.operands
    root = _root(arguments)
    spec = _process(arguments, root, container_id, command)
    if spec.get("terminal") and arguments.has("--detach") and not arguments.get("--console-socket"):
        raise ConfigError(
            "cannot allocate tty if runc will detach without setting console socket",
            "pass `--console-socket`",
        )
    running = execs.begin(root, container_id, spec, keep_fds=_preserved(arguments))
    try:
        while (event := running.feed()) != "started":
            if event == "staged":
                running.proceed()
        os.waitpid(running.stage, 0)
        _hand_out(arguments, running.pid, running.pidfd, running.console)
    except BaseException:
        running.abort()
        raise
    code = 0
    if not arguments.has("--detach"):
        master = -1 if arguments.get("--console-socket") else running.console
        code = foreground.wait(running.pid, running.pidfd, master)
    running.close()
    return code


def kill(arguments: Arguments) -> int:
    """Send a signal."""
    word = arguments.operands[1] if len(arguments.operands) > 1 else "TERM"
    lifecycle.kill(_root(arguments), arguments.operands[0], parse_signal(word), arguments.has("--all"))
    return 0


def delete(arguments: Arguments) -> int:
    """Remove a container."""
    lifecycle.delete(_root(arguments), arguments.operands[0], arguments.has("--force"))
    return 0


def state(arguments: Arguments) -> int:
    """Print the state document."""
    found = states.load(_root(arguments), arguments.operands[0])
    _print(found.document(lifecycle.status_of(found)))
    return 0


def list_containers(arguments: Arguments) -> int:
    """Print all containers."""
    root = _root(arguments)
    documents = []
    for container_id in states.ids(root):
        try:
            found = states.load(root, container_id)
        except ContainerError:
            continue  # being created or deleted at this moment
        documents.append(found.document(lifecycle.status_of(found)))
    if arguments.has("--quiet"):
        sys.stdout.write("".join(f"{document['id']}\n" for document in documents))
    elif arguments.get("--format") == "json":
        _print(documents)
    else:
        _table(("id", "pid", "status", "bundle", "created", "owner"), documents)
    return 0


def ps(arguments: Arguments) -> int:
    """Print the pids of a container."""
    pids = lifecycle.processes(_root(arguments), arguments.operands[0])
    if arguments.get("--format") == "json":
        _print(pids)
    else:
        _table(("pid", "command"), [{"pid": pid, "command": _command_of(pid)} for pid in pids])
    return 0


def pause(arguments: Arguments) -> int:
    """Freeze."""
    lifecycle.pause(_root(arguments), arguments.operands[0])
    return 0


def resume(arguments: Arguments) -> int:
    """Thaw."""
    lifecycle.resume(_root(arguments), arguments.operands[0])
    return 0


def update(arguments: Arguments) -> int:
    """Set new limits."""
    resources = specs.decode(_read(arguments.get("--resources", "-")), "resources")
    if not isinstance(resources, dict):
        raise ConfigError("resources must be an object such as `linux.resources` of config.json")
    lifecycle.cgroup_of(states.load(_root(arguments), arguments.operands[0])).apply(resources)
    return 0


def events(arguments: Arguments) -> int:
    """Print usage once."""
    container_id = arguments.operands[0]
    stats = lifecycle.cgroup_of(states.load(_root(arguments), container_id)).stats()
    _print({"type": "stats", "id": container_id, "data": stats})
    return 0


def spec(arguments: Arguments) -> int:
    """Write an example document."""
    path = os.path.join(arguments.get("--bundle", "."), "config.json")
    if os.path.exists(path):
        raise ConfigError(f"`{path}` exists", "remove it first")
    document = example.config(os.getuid(), os.getgid(), arguments.has("--rootless") or os.getuid() != 0)
    replace_file(path, json.dumps(document, indent=2).encode() + b"\n")
    return 0


def plan(arguments: Arguments) -> int:
    """Print the operations that a bundle causes."""
    bundle = os.path.abspath(arguments.get("--bundle", "."))
    config = specs.load(bundle)
    linux: Linux = config.get("linux") or {}
    kinds = {namespace["type"] for namespace in linux.get("namespaces") or ()}
    for operation in rootfs.plan(config, bundle, rootfs.Host(userns="user" in kinds)):
        sys.stdout.write(operation.describe() + "\n")
    return 0


def features(arguments: Arguments) -> int:  # noqa: ARG001 - every verb takes them
    """Print what this runtime can do (runtime-spec, features.md)."""
    words = sorted(
        {
            *mount_options.ATTRIBUTES,
            *(f"r{word}" for word in mount_options.ATTRIBUTES),
            "bind",
            "rbind",
            "tmpcopyup",
            "idmap",
            "ridmap",
            *mount_options.PROPAGATION,
            *mount_options.SUPERBLOCK,
        }
    )
    _print({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": specs.OCI_VERSION,
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": words,
        "linux": {
            "namespaces": sorted(FLAGS),
            "capabilities": list(NAMES),
            "cgroup": {"v1": True, "v2": True, "systemd": False, "systemdUser": False, "rdma": False},
            "seccomp": {"enabled": True},
            "apparmor": {"enabled": True},
            "selinux": {"enabled": True},
            "mountExtensions": {"idmap": {"enabled": True}},
        },
    })  # fmt: skip
    return 0


VERBS: "dict[str, Callable[[Arguments], int]]" = {
    "create": create,
    "start": start,
    "run": run,
    "exec": execute,
    "kill": kill,
    "delete": delete,
    "state": state,
    "list": list_containers,
    "ps": ps,
    "pause": pause,
    "resume": resume,
    "update": update,
    "events": events,
    "spec": spec,
    "plan": plan,
    "features": features,
}


def parse_signal(word: str) -> int:
    """Return the number of a signal given as `9`, `KILL` or `SIGKILL`."""
    if word.isdecimal() and 0 < int(word) < signal.NSIG:
        return int(word)
    name = word.upper()
    found = getattr(signal, name if name.startswith("SIG") else f"SIG{name}", None)
    if not isinstance(found, signal.Signals):
        raise ConfigError(f"unknown signal `{word}`", "a number, or a name such as TERM")
    return int(found)


def parse_user(text: str) -> "tuple[int, int | None]":
    """Return (uid, gid) of `UID` or `UID:GID`; a uid alone says nothing of the group (CVE-2026-30892)."""
    uid, colon, gid = text.partition(":")
    if not uid.isdecimal() or (colon and not gid.isdecimal()):
        raise ConfigError(f"`--user` takes UID or UID:GID in numbers, not `{text}`")
    return int(uid), int(gid) if colon else None


def _create(arguments: Arguments, gate: bool) -> launch.Launch:
    bundle = arguments.get("--bundle", ".")
    config = _load_config(arguments, bundle)
    options = launch.Options()
    options.gate = gate
    options.keep_fds = _preserved(arguments)
    options.new_keyring = not arguments.has("--no-new-keyring")
    options.cgroup_manager = arguments.get("--cgroup-manager", "cgroupfs")
    _check_terminal(arguments, config, gate)
    started = lifecycle.create(_root(arguments), arguments.operands[0], bundle, config, options)
    try:
        _hand_out(arguments, started.pid, started.pidfd, started.console)
    except BaseException:
        started.abort()
        raise
    for warning in started.warnings:
        sys.stderr.write(f"warning: {warning}\n")
    return started


def _load_config(arguments: Arguments, bundle: str) -> "Config":
    if arguments.get("--config"):
        return specs.parse(_read(arguments.get("--config")))
    return specs.load(bundle)


def _check_terminal(arguments: Arguments, config: "Config", gate: bool) -> None:
    process = config.get("process")
    terminal = process is not None and bool(process.get("terminal"))
    detached = gate or arguments.has("--detach")
    if terminal and detached and not arguments.get("--console-socket"):
        raise ConfigError(
            "cannot allocate tty if runc will detach without setting console socket",
            "pass `--console-socket`, or set `process.terminal` to false",
        )
    if not terminal and arguments.get("--console-socket"):
        raise ConfigError(
            "cannot use console socket if runc will not detach or allocate tty",
            "set `process.terminal` to true, or leave `--console-socket` out",
        )


def _hand_out(arguments: Arguments, pid: int, pidfd: int, master: int) -> None:
    if arguments.get("--console-socket") and master >= 0:
        foreground.send_descriptor(arguments.get("--console-socket"), master, b"/dev/pts/0")
    if arguments.get("--pidfd-socket"):
        foreground.send_descriptor(arguments.get("--pidfd-socket"), pidfd, b"pidfd")
    if arguments.get("--pid-file"):
        # No newline: callers parse the whole file as a number.
        replace_file(arguments.get("--pid-file"), str(pid).encode())


def _process(arguments: Arguments, root: str, container_id: str, command: "list[str]") -> "Process":
    if arguments.get("--process"):
        process = specs.parse_process(_read(arguments.get("--process")))
        if arguments.has("--tty"):
            process["terminal"] = True
        return process
    if not command:
        raise ConfigError("`exec` needs a command or `--process`")
    config = lifecycle.load_config(states.load(root, container_id))
    base = config.get("process")
    if base is None:
        raise ConfigError(f"container `{container_id}` has no process to take defaults from", "use `--process`")
    process = base
    process["args"] = command
    process["terminal"] = arguments.has("--tty")
    process["cwd"] = arguments.get("--cwd", process["cwd"])
    process["env"] = [*(process.get("env") or ()), *arguments.all("--env")]
    _set_user(arguments, process)
    wanted: dict[str, list[str]] = process.setdefault("capabilities", {})  # type: ignore[assignment] # five lists
    # Not the inheritable set: it would let programs with file capabilities gain them (CVE-2022-29162).
    wanted["inheritable"] = []
    for name in arguments.all("--cap"):
        for which in ("bounding", "effective", "permitted"):
            wanted[which] = [*(wanted.get(which) or ()), name]
    if arguments.has("--no-new-privs"):
        process["noNewPrivileges"] = True
    if arguments.get("--apparmor"):
        process["apparmorProfile"] = arguments.get("--apparmor")
    if arguments.get("--process-label"):
        process["selinuxLabel"] = arguments.get("--process-label")
    specs.check_process(process)
    return process


def _set_user(arguments: Arguments, process: "Process") -> None:
    user = process.setdefault("user", {})
    if arguments.get("--user"):
        uid, gid = parse_user(arguments.get("--user"))
        user["uid"] = uid
        if gid is not None:
            user["gid"] = gid
    for text in arguments.all("--additional-gids"):
        if not text.isdecimal():
            raise ConfigError(f"`--additional-gids` takes a number, not `{text}`")
        user["additionalGids"] = [*(user.get("additionalGids") or ()), int(text)]


def _preserved(arguments: Arguments) -> int:
    """Return how many descriptors go through: those asked for, after those of socket activation."""
    listening = os.environ.get("LISTEN_FDS", "")
    return arguments.number("--preserve-fds") + (int(listening) if listening.isdecimal() else 0)


def _root(arguments: Arguments) -> str:
    return arguments.get("--root") or default_root()


def _read(path: str) -> bytes:
    if path == "-":
        return sys.stdin.buffer.read(specs.MAX_BYTES + 1)
    try:
        with open(path, "rb") as file:
            return file.read(specs.MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read `{path}`: {(error.strerror or '').lower()}") from error


def _command_of(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return "?"


def _print(document: object) -> None:
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


def _table(columns: "tuple[str, ...]", rows: "list[dict[str, object]]") -> None:
    cells = [[column.upper() for column in columns]] + [[str(row[column]) for column in columns] for row in rows]
    widths = [max(len(row[index]) for row in cells) for index in range(len(columns))]
    for row in cells:
        sys.stdout.write("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n")
