"""Running the hooks of config.json: each gets the container's state on standard input.

The process is made by a plain fork: whoever calls this has one thread and is small.
"""

import errno
import os
import select
import time

from container.errors import LaunchError
from container.linux.files import write_all
from container.linux.process import pidfd_open
from container.runtime import signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from container.spec.types import Hook

#: How much of a failed hook's stderr is told.
_TAIL = 2048


def run(hooks: "list[Hook]", state: bytes, phase: str, cwd: "str | None" = None) -> None:
    """Run `hooks` one after the other.

    Args:
        hooks: those of one phase.
        state: the document that each reads on standard input.
        phase: its name, for errors.
        cwd: where they run; a hook without `env` gets our environment there. None in the container, where
            our environment is nobody's business.

    Raises:
        LaunchError: one failed, could not be run, or took longer than its timeout.
    """
    for hook in hooks:
        _run_one(hook, state, phase, cwd)


def _run_one(hook: "Hook", state: bytes, phase: str, cwd: "str | None") -> None:
    pairs = hook.get("env")
    inherited = dict(os.environ) if cwd and pairs is None else {}
    variables = inherited | dict(variable.partition("=")[::2] for variable in pairs or ())
    stdin, feed = os.pipe2(os.O_CLOEXEC)
    complaints, stderr = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _become(hook, stdin, stderr, cwd, variables)
    os.close(stdin)
    os.close(stderr)
    try:
        write_all(feed, state)
    except BrokenPipeError:
        pass  # a hook need not read its input
    os.close(feed)
    status, text = _wait(pid, complaints, hook.get("timeout"))
    os.close(complaints)
    if status is None:
        raise LaunchError(f"{phase} hook `{hook['path']}` took longer than its timeout of {hook.get('timeout')} s")
    if status != 0:
        code = os.waitstatus_to_exitcode(status)
        raise LaunchError(
            f"{phase} hook failed with exit code {code}: `{hook['path']}`: {text.strip() or 'it printed nothing'}"
        )


def _wait(pid: int, stderr: int, timeout: "int | None") -> "tuple[int | None, str]":
    """Return (wait status or None at the timeout, tail of stderr)."""
    try:
        os.setpgid(pid, pid)  # the hook does so too; whoever comes first, it has a group before it can be killed
    except OSError:
        pass  # it has called exec already
    pidfd = pidfd_open(pid)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(stderr, select.POLLIN)
    deadline = time.monotonic() + timeout if timeout else None
    tail = b""
    try:
        while True:
            left = None if deadline is None else max(0, int((deadline - time.monotonic()) * 1000))
            ready = dict(poll.poll(left))
            if not ready:
                os.killpg(pid, signals.SIGKILL)  # with what it started: a shell's children are not the shell
                os.waitpid(pid, 0)
                return None, ""
            if ready.get(stderr, 0) & select.POLLIN:
                tail = (tail + os.read(stderr, 4096))[-_TAIL:]
            elif stderr in ready:
                poll.unregister(stderr)
            if pidfd in ready and not ready.get(stderr, 0) & select.POLLIN:
                return os.waitpid(pid, 0)[1], tail.decode(errors="replace")
    finally:
        os.close(pidfd)


def _become(hook: "Hook", stdin: int, stderr: int, cwd: "str | None", variables: "dict[str, str]") -> None:
    try:
        os.setpgid(0, 0)
        os.dup2(stdin, 0)
        null = os.open("/dev/null", os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(stderr, 2)
        if cwd:
            os.chdir(cwd)
        signals.reset()
        os.execve(hook["path"], hook.get("args") or [hook["path"]], variables)
    except OSError as error:
        write_all(2, (error.strerror or errno.errorcode.get(error.errno or 0, "?")).lower().encode())
    finally:
        os._exit(127)
