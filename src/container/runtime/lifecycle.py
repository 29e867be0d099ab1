"""The operations of runtime.md on containers that any process may have created: create, start, kill, delete…

Each takes the state directory and an id, so the command line and the shim share them. The caller
must be, or become, an ancestor of the init to see its exit status; nothing here waits for programs.
"""

import errno
import json
import os
import select
import signal
import time

from container.cgroups.group import Cgroup
from container.cgroups.hierarchy import open_hierarchy
from container.errors import ContainerError, DeadlineError, NotFoundError, StateError
from container.linux._libc import SyscallError
from container.linux.files import read_file
from container.linux.process import open_verified, pidfd_send_signal
from container.runtime import channel as wire
from container.runtime import hooks, launch
from container.runtime import state as states
from container.runtime.state import State
from container.spec import config as specs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from container.spec.types import Config, Hook

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
        LaunchError: the program could not be started; the container is then stopped.
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
    os.unlink(gate)
    kind, payload, fds = channel.receive()
    while kind == wire.LISTENER:
        for fd in fds:
            os.close(fd)
        kind, payload, fds = channel.receive()
    channel.close()
    if kind == wire.ERROR:
        raise wire.parse_error(payload)
    run_hooks(state, "poststart", "running")


def run_hooks(state: State, phase: str, status: str) -> None:
    """Run the hooks of `phase` in the runtime's namespaces."""
    if phase in state.hooks:
        every: dict[str, list[Hook]] = dict(load_config(state).get("hooks") or {})  # type: ignore[arg-type] # phases
        hooks.run(every[phase], json.dumps(state.document(status)).encode(), phase, state.bundle)


def load_config(state: State) -> "Config":
    """Return the document that the container was created from; it was checked then."""
    config: Config = json.loads(read_file(f"{state.directory}/config.json", specs.MAX_BYTES))
    return config


def cgroup_of(state: State) -> Cgroup:
    """Return the container's cgroup."""
    return open_hierarchy().load(state.cgroup)


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
    if number == signal.SIGKILL and status_of(state) == "paused":
        cgroup_of(state).thaw()  # a frozen process dies when it may run again (cgroup v1)


def delete(root: str, container_id: str, force: bool = False) -> None:
    """Remove a stopped container and all it had; with `force` also one that runs, or none.

    Raises:
        StateError: it runs and `force` is not given.
    """
    try:
        state = states.load(root, container_id)
    except NotFoundError:
        directory = f"{root}/{container_id}"
        if not os.path.isdir(directory):
            if force:
                return
            raise
        state = State(container_id, directory, "")  # died before state.json was written
    except StateError:
        if not force:
            raise
        state = State(container_id, f"{root}/{container_id}", "")
    status = status_of(state) if state.pid else "stopped"
    if status not in ("stopped", "created") and not force:
        raise StateError(f"cannot delete container `{container_id}` that is not stopped: {status}", "use `--force`")
    if state.pid:
        destroy(state)
    if state.pid:
        try:
            run_hooks(state, "poststop", "stopped")
        except ContainerError:
            pass  # runtime.md, lifecycle 13: a failing poststop hook is a warning and no more
    states.remove_directory(state.directory)


def destroy(state: State) -> None:
    """Kill all processes of the container and remove its cgroup."""
    pidfd = open_verified(state.pid, state.started_ticks)
    if pidfd is not None:
        try:
            pidfd_send_signal(pidfd, signal.SIGKILL)
        except SyscallError as error:
            if error.errno != errno.ESRCH:
                raise
    if state.cgroup:
        cgroup = cgroup_of(state)
        cgroup.kill()
        if is_frozen(state):
            cgroup.thaw()
        wait_gone(pidfd, state.id)
        cgroup.remove()
    else:
        wait_gone(pidfd, state.id)
    if pidfd is not None:
        os.close(pidfd)


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
    cgroup_of(state).freeze()


def resume(root: str, container_id: str) -> None:
    """Let a paused container go on."""
    state = states.load(root, container_id)
    if status_of(state) != "paused":
        raise StateError(f"container not paused: `{container_id}`")
    cgroup_of(state).thaw()


def processes(root: str, container_id: str) -> "list[int]":
    """Return the pids of the container, as this pid namespace numbers them."""
    state = states.load(root, container_id)
    if not state.is_alive():
        raise StateError(f"container not running: `{container_id}`")
    if state.cgroup:
        return cgroup_of(state).pids()
    return [state.pid]


def _kill_everyone(state: State, number: int) -> None:
    if number == signal.SIGKILL and state.cgroup:
        cgroup_of(state).kill()
        return
    pids = cgroup_of(state).pids() if state.cgroup else [state.pid] if state.is_alive() else []
    for pid in pids:
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
    deadline = time.monotonic() + timeout_s
    try:
        return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))
    finally:
        os.close(pidfd)
