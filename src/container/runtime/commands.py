"""The verbs of `vapp-oci`; each takes the parsed arguments and returns an exit status."""

import os
import sys

from container.errors import ConfigError, ContainerError
from container.linux.files import replace_file
from container.runtime import joins, launch, lifecycle, signals
from container.runtime import state as states
from container.runtime.arguments import TEXTS, UPDATES, Arguments
from container.runtime.channel import send_descriptor
from container.spec import config as specs
from container.spec.document import pretty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from container.runtime.exec import Exec
    from container.spec.types import Config, Linux

#: What a failing exec exits with, so that it differs from the program's own statuses (runc).
EXEC_FAILED = 255


def default_root() -> str:
    """Return the state directory for this user; inside podman's user namespace the user's own."""
    runtime_dir = os.environ.get("XDG_RUNTIME_DIR")
    if runtime_dir and (os.geteuid() != 0 or joins.in_user_namespace()):
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
    root, container_id, detach = _root(arguments), started.state.id, arguments.has("--detach")
    try:
        waker = -1 if detach else _forward_signals(started.pidfd)
        started.go()
        while started.feed() != "started":
            pass
    except BaseException:
        started.abort()
        raise
    _tell_poststart(started)
    if detach:
        started.close()
        return 0
    code = _wait(arguments, started, waker)
    started.close()
    if not arguments.has("--keep"):
        _warn(lifecycle.delete(root, container_id, force=True))
    return code


def _forward_signals(pidfd: int) -> int:
    from container.runtime import foreground  # for those alone who wait

    return foreground.forward_signals(pidfd)


def _wait(arguments: Arguments, running: "launch.Launch | Exec", waker: int) -> int:
    from container.runtime import foreground

    master = -1 if arguments.get("--console-socket") else running.console
    return foreground.wait(running.pid, running.pidfd, waker, master)


def _tell_poststart(started: launch.Launch) -> None:
    try:
        lifecycle.run_poststart(started.state)
    except BaseException:
        started.abort()
        raise


def start(arguments: Arguments) -> int:
    """Open the gate of a created container."""
    lifecycle.start(_root(arguments), arguments.operands[0])
    return 0


def execute(arguments: Arguments) -> int:
    """Run a further program."""
    from container.runtime import exec as execs
    from container.runtime import processes

    if not arguments.operands:
        raise ConfigError("`exec` takes ID [COMMAND…]", "see `exec --help`")
    container_id, *command = arguments.operands
    root = _root(arguments)
    spec = processes.build(arguments, states.load(root, container_id), command)
    _check_console(arguments, bool(spec.get("terminal")), arguments.has("--detach"))
    listening = _listening()
    running = execs.begin(
        root,
        container_id,
        spec,
        keep_fds=arguments.number("--preserve-fds") + listening,
        listen_fds=listening,
        cache_dir=_cache(root),
    )
    waker = -1
    try:
        while (event := running.feed()) != "started":
            if event == "staged":
                waker = -1 if arguments.has("--detach") else _forward_signals(running.pidfd)
                running.proceed()
        os.waitpid(running.stage, 0)
        _hand_out(arguments, running.pid, running.pidfd, running.console)
    except BaseException:
        running.abort()
        raise
    code = 0
    if not arguments.has("--detach"):
        code = _wait(arguments, running, waker)
    running.close()
    return code


def kill(arguments: Arguments) -> int:
    """Send a signal."""
    word = arguments.operands[1] if len(arguments.operands) > 1 else "TERM"
    lifecycle.kill(_root(arguments), arguments.operands[0], signals.parse(word), arguments.has("--all"))
    return 0


def delete(arguments: Arguments) -> int:
    """Remove a container."""
    _warn(lifecycle.delete(_root(arguments), arguments.operands[0], arguments.has("--force")))
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
    """Set new limits, from a document or from options."""
    resources = _resources(arguments)
    state = states.load(_root(arguments), arguments.operands[0])
    lifecycle.with_cgroup(state, lambda cgroup: cgroup.apply(resources))
    return 0


def _resources(arguments: Arguments) -> "dict[str, object]":
    found: dict[str, object] = {}
    if arguments.has("--resources"):
        decoded = specs.decode(specs.read_input(arguments.get("--resources")), "resources")
        if not isinstance(decoded, dict):
            raise ConfigError("resources must be an object", "such as `linux.resources` of config.json")
        found = decoded
    for option, (section, field) in UPDATES.items():
        if arguments.has(option):
            part = found.setdefault(section, {})
            if isinstance(part, dict):
                part[field] = arguments.get(option) if option in TEXTS else arguments.number(option)
    specs.check_resources(found)
    if not found:
        raise ConfigError("`update` changes nothing", "pass `--resources` or an option such as `--memory`")
    return found


def events(arguments: Arguments) -> int:
    """Print usage once."""
    container_id = arguments.operands[0]
    state = states.load(_root(arguments), container_id)
    stats = lifecycle.with_cgroup(state, lambda cgroup: cgroup.stats())
    _print({"type": "stats", "id": container_id, "data": stats})
    return 0


def spec(arguments: Arguments) -> int:
    """Write an example document."""
    from container.spec import example

    path = os.path.join(arguments.get("--bundle", "."), "config.json")
    if os.path.exists(path):
        raise ConfigError(f"`{path}` exists", "remove it first")
    document = example.config(os.getuid(), os.getgid(), arguments.has("--rootless") or os.getuid() != 0)
    replace_file(path, pretty(document).encode() + b"\n")
    return 0


def plan(arguments: Arguments) -> int:
    """Print the operations that a bundle causes."""
    from container.runtime import rootfs

    bundle = os.path.abspath(arguments.get("--bundle", "."))
    config = specs.load(bundle)
    linux: Linux = config.get("linux") or {}
    kinds = {namespace["type"] for namespace in linux.get("namespaces") or ()}
    for operation in rootfs.plan(config, bundle, rootfs.Host(userns="user" in kinds)):
        sys.stdout.write(operation.describe() + "\n")
    return 0


def features(arguments: Arguments) -> int:  # noqa: ARG001 - every verb takes them
    """Print what this runtime can do."""
    from container.runtime import features as abilities

    _print(abilities.document())
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


def _create(arguments: Arguments, gate: bool) -> launch.Launch:
    bundle, root = arguments.get("--bundle", "."), _root(arguments)
    config = _load_config(arguments, bundle)
    process = config.get("process")
    _check_console(arguments, bool(process and process.get("terminal")), gate or arguments.has("--detach"))
    options = launch.Options()
    options.gate = gate
    options.listen_fds = _listening()
    options.keep_fds = arguments.number("--preserve-fds") + options.listen_fds
    options.new_keyring = not arguments.has("--no-new-keyring")
    options.cgroup_manager = arguments.get("--cgroup-manager", "cgroupfs")
    options.cache_dir = _cache(root)
    started = lifecycle.create(root, arguments.operands[0], bundle, config, options)
    try:
        _hand_out(arguments, started.pid, started.pidfd, started.console)
    except BaseException:
        started.abort()
        raise
    _warn(started.warnings)
    return started


def _load_config(arguments: Arguments, bundle: str) -> "Config":
    if arguments.get("--config"):
        return specs.parse(specs.read_input(arguments.get("--config")))
    return specs.load(bundle)


def _check_console(arguments: Arguments, terminal: bool, detached: bool) -> None:
    if terminal and detached and not arguments.get("--console-socket"):
        raise ConfigError(
            "cannot allocate tty if runc will detach without setting console socket",
            "pass `--console-socket`, or do without a terminal",
        )
    if not terminal and arguments.get("--console-socket"):
        raise ConfigError(
            "cannot use console socket if runc will not detach or allocate tty",
            "set `process.terminal` to true, or leave `--console-socket` out",
        )


def _hand_out(arguments: Arguments, pid: int, pidfd: int, master: int) -> None:
    if arguments.get("--console-socket") and master >= 0:
        send_descriptor(arguments.get("--console-socket"), master, b"/dev/pts/0")
    if arguments.get("--pidfd-socket"):
        send_descriptor(arguments.get("--pidfd-socket"), pidfd, b"pidfd")
    if arguments.get("--pid-file"):
        # No newline: callers parse the whole file as a number.
        replace_file(arguments.get("--pid-file"), str(pid).encode())


def _listening() -> int:
    """Return how many sockets of socket activation we were given (sd_listen_fds(3)); they go through."""
    text = os.environ.get("LISTEN_FDS", "")
    return int(text) if text.isascii() and text.isdecimal() else 0


def _cache(root: str) -> str:
    return f"{root}/.cache/seccomp"


def _warn(warnings: "list[str]") -> None:
    for warning in warnings:
        sys.stderr.write(f"warning: {warning}\n")


def _root(arguments: Arguments) -> str:
    return arguments.get("--root") or default_root()


def _command_of(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return "?"


def _print(document: object) -> None:
    sys.stdout.write(pretty(document) + "\n")


def _table(columns: "tuple[str, ...]", rows: "list[dict[str, object]]") -> None:
    cells = [[column.upper() for column in columns]] + [[str(row[column]) for column in columns] for row in rows]
    widths = [max(len(row[index]) for row in cells) for index in range(len(columns))]
    for row in cells:
        sys.stdout.write("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n")
