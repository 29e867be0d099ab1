"""The operations of runtime.md on containers that any process may have created: create, start, kill, delete…

Each takes the state directory and an id, so the command line and the shim share them. The caller
must be, or become, an ancestor of the init to see its exit status; nothing here waits for programs.
"""

import errno
import os
import select

from container.cgroups.group import Cgroup
from container.cgroups.hierarchy import open_hierarchy
from container.errors import ContainerError, DeadlineError, NotFoundError, StateError
from container.linux._libc import SyscallError
from container.linux.files import read_file
from container.linux.process import open_verified, pidfd_send_signal
from container.runtime import channel as wire
from container.runtime import hooks, launch, listener
from container.runtime import state as states
from container.runtime.signals import SIGKILL
from container.runtime.state import State
from container.spec.config import MAX_BYTES
from container.spec.document import decode, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from container.spec.types import Config, Hook

    Result = TypeVar("Result")

#: The document that we wrote may be somewhat longer than the one we read: other spacing, other escapes.
_MAX_BYTES = 4 * MAX_BYTES

#: How long a killed container may take to disappear; the kernel may be busy freeing its memory.
KILL_TIMEOUT_S = 10.0


def create(root: str, container_id: str, bundle: str, config: "Config", options: launch.Options) -> launch.Launch:
    """Create a container and wait until it is built; it then waits at its gate, or for `Launch.go`.

    Raises:
        ContainerError: it could not be built; nothing is left behind.
    """
    started = launch.prepare(root, container_id, bundle, config, options)
    try:
        started.clone()
        while started.feed() != "ready":
            pass
    except BaseException:
        started.abort()
        raise
    return started


def start(root: str, container_id: str) -> None:
    """Start the program of a created container; returns when it runs.

    Raises:
        StateError: the container is not in state created.
        LaunchError: the program could not be started, the container is then stopped; or a poststart hook
            failed, the container is then deleted (runtime.md, lifecycle 9).
    """
    state = states.load(root, container_id)
    status = status_of(state)
    if status != "created":
        raise StateError(f"cannot start container `{container_id}` in state {status}", "only a created one can start")
    gate = f"{state.directory}/start.sock"
    try:
        channel = wire.connect(gate)
    except OSError as error:
        raise StateError(f"init of `{container_id}` does not answer: {(error.strerror or '').lower()}") from error
    try:
        os.unlink(gate)
        _follow_start(channel, state)
    finally:
        channel.close()
    if state.later:
        with_cgroup(state, lambda cgroup: cgroup.apply(state.later))
    run_poststart(state)


def _follow_start(channel: wire.Channel, state: State) -> None:
    """Serve the init until its program runs."""
    while True:
        kind, payload, fds = channel.receive()
        if kind == wire.ERROR:
            raise wire.parse_error(payload)
        if kind != wire.LISTENER:
            return
        listener.hand_over(load_config(state), state.document("running"), state.pid, fds[0])


def run_poststart(state: State) -> None:
    """Run the poststart hooks; if one fails, delete the container and raise LaunchError."""
    try:
        run_hooks(state, "poststart", "running")
    except ContainerError:
        delete(os.path.dirname(state.directory), state.id, force=True)
        raise


def run_hooks(state: State, phase: str, status: str) -> None:
    """Run the hooks of `phase` in the runtime's namespaces."""
    for hook in _hooks_of(state, phase):
        hooks.run([hook], encode(state.document(status)).encode(), phase, state.bundle)


def _hooks_of(state: State, phase: str) -> "list[Hook]":
    if phase not in state.hooks:
        return []
    every: dict[str, list[Hook]] = dict(load_config(state).get("hooks") or {})  # type: ignore[arg-type] # phases
    return every.get(phase) or []


def load_config(state: State) -> "Config":
    """Return the document that the container was created from; it was checked then."""
    config: Config = decode(read_file(f"{state.directory}/config.json", _MAX_BYTES))  # type: ignore[assignment] # as said
    return config


def cgroup_of(state: State) -> Cgroup:
    """Return the container's cgroup; close it."""
    return open_hierarchy().load(state.cgroup)


def with_cgroup(state: State, action: "Callable[[Cgroup], Result]") -> "Result":
    """Return what `action` returns for the container's cgroup, which is closed afterwards."""
    cgroup = cgroup_of(state)
    try:
        return action(cgroup)
    finally:
        cgroup.close()


def status_of(state: State) -> str:
    """Return creating, created, running, paused or stopped."""
    status = state.status()
    if status == "running" and state.cgroup and is_frozen(state):
        return "paused"
    return status


def is_frozen(state: State) -> bool:
    """Tell whether the container's cgroup is frozen, by whichever freezer it has."""
    for name, file, frozen in (("freezer", "freezer.state", "FROZEN"), ("unified", "cgroup.freeze", "1")):
        path = state.cgroup.get(name)
        if path is None:
            continue
        try:
            with open(f"{path}/{file}", encoding="ascii") as handle:
                if handle.read().strip() == frozen:
                    return True
        except OSError:
            continue
    return False


def kill(root: str, container_id: str, number: int, everyone: bool = False) -> None:
    """Send signal `number` to the init, or to every process of the container.

    Raises:
        StateError: the container does not run.
    """
    state = states.load(root, container_id)
    if everyone:
        _kill_everyone(state, number)
        return
    pidfd = open_verified(state.pid, state.started_ticks) if state.is_alive() else None
    if pidfd is None:
        raise StateError(f"container not running: `{container_id}`")
    try:
        pidfd_send_signal(pidfd, number)
    except SyscallError as error:
        if error.errno == errno.ESRCH:
            raise StateError(f"container not running: `{container_id}`") from error
        raise
    finally:
        os.close(pidfd)
    if number == SIGKILL and status_of(state) == "paused":
        with_cgroup(state, lambda cgroup: cgroup.thaw())  # a frozen process dies when it may run again (cgroup v1)


def delete(root: str, container_id: str, force: bool = False) -> "list[str]":
    """Remove a stopped container and all it had; with `force` also one that runs, or none.

    Returns:
        Warnings: poststop hooks that failed, which is no reason to keep anything (runtime.md, lifecycle 13).

    Raises:
        StateError: it runs and `force` is not given.
    """
    state = _load_remains(root, container_id, force)
    if state is None:
        return []
    status = status_of(state)
    if status not in ("stopped", "created") and not force:
        raise StateError(f"cannot delete container `{container_id}` that is not stopped: {status}", "use `--force`")
    destroy(state)
    warnings = _run_poststop(state) if state.pid else []
    states.remove_directory(state.directory)
    return warnings


def _load_remains(root: str, container_id: str, force: bool) -> "State | None":
    """Return as much of the state as there is; None if there is nothing and `force` is given."""
    states.check_id(container_id)
    directory = f"{root}/{container_id}"
    try:
        return states.load(root, container_id, unfinished=True)
    except NotFoundError:
        if os.path.isdir(directory):
            return _guess_remains(State(container_id, directory, ""))
        if force:
            return None
        raise
    except StateError:
        if not force:
            raise
        return State(container_id, directory, "")


def _guess_remains(state: State) -> State:
    """Find the empty cgroup of a launcher that died between making it and writing it down."""
    try:
        linux = load_config(state).get("linux") or {}
        cgroup = open_hierarchy().create(linux.get("cgroupsPath") or state.id, linux.get("resources"))
    except (ContainerError, OSError, ValueError, AttributeError):
        return state  # it died even earlier, or somebody else has that cgroup by now
    state.cgroup = dict(cgroup.paths)
    cgroup.close()
    return state


def _run_poststop(state: State) -> "list[str]":
    warnings = []
    document = encode(state.document("stopped")).encode()
    try:
        wanted = _hooks_of(state, "poststop")
    except (OSError, ValueError) as error:
        return [f"poststop hooks of `{state.id}` are lost with its config.json: {error}"]
    for hook in wanted:
        try:
            hooks.run([hook], document, "poststop", state.bundle)
        except ContainerError as error:
            warnings.append(error.message)
    return warnings


def destroy(state: State) -> None:
    """Kill all processes of the container and remove its cgroup."""
    pidfd = open_verified(state.pid, state.started_ticks)
    cgroup = cgroup_of(state) if state.cgroup else None
    try:
        if pidfd is not None:
            _kill_pidfd(pidfd)
        if cgroup is not None:
            cgroup.kill()
            if is_frozen(state):
                cgroup.thaw()
        wait_gone(pidfd, state.id)
        if cgroup is not None:
            cgroup.remove()
    finally:
        if cgroup is not None:
            cgroup.close()
        if pidfd is not None:
            os.close(pidfd)


def _kill_pidfd(pidfd: int) -> None:
    try:
        pidfd_send_signal(pidfd, SIGKILL)
    except SyscallError as error:
        if error.errno != errno.ESRCH:
            raise


def wait_gone(pidfd: "int | None", container_id: str, timeout_s: float = KILL_TIMEOUT_S) -> None:
    """Wait until the process behind `pidfd` has exited."""
    if pidfd is None:
        return
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    if not poll.poll(timeout_s * 1000):
        raise DeadlineError(f"container `{container_id}` was killed and did not exit within {timeout_s:g} s")


def pause(root: str, container_id: str) -> None:
    """Freeze every process of a running container."""
    state = states.load(root, container_id)
    status = status_of(state)
    if status not in ("running", "created"):
        raise StateError(f"cannot pause container `{container_id}` in state {status}")
    with_cgroup(state, lambda cgroup: cgroup.freeze())


def resume(root: str, container_id: str) -> None:
    """Let a paused container go on."""
    state = states.load(root, container_id)
    if status_of(state) != "paused":
        raise StateError(f"container not paused: `{container_id}`")
    with_cgroup(state, lambda cgroup: cgroup.thaw())


def processes(root: str, container_id: str) -> "list[int]":
    """Return the pids of the container, as this pid namespace numbers them."""
    state = states.load(root, container_id)
    if not state.is_alive():
        raise StateError(f"container not running: `{container_id}`")
    if state.cgroup:
        return with_cgroup(state, lambda cgroup: cgroup.pids())
    return [state.pid]


def _kill_everyone(state: State, number: int) -> None:
    if number == SIGKILL and state.cgroup:
        with_cgroup(state, lambda cgroup: cgroup.kill())
        return
    alone = [state.pid] if state.is_alive() else []
    for pid in with_cgroup(state, lambda cgroup: cgroup.pids()) if state.cgroup else alone:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def wait_stopped(state: State, timeout_s: float) -> bool:
    """Wait until the init has exited; False at the timeout."""
    pidfd = open_verified(state.pid, state.started_ticks)
    if pidfd is None:
        return True
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    try:
        return bool(poll.poll(timeout_s * 1000))
    finally:
        os.close(pidfd)
