"""The namespaces in which a node lives: made once per app directory, joined by whoever comes later.

Facts. Without root, a process gets mounts, interfaces and more than one user id only inside a user
namespace. Its maps must be written from outside: the kernel lets a process map itself to one id only,
and the setuid tools newuidmap and newgidmap take the number of a process that is not their caller.
pasta, too, has to stand outside and be told a process to attach to. And who started us waits for the
process that it started.

So two processes take part. The one that was started (the guide) forks the one that stays (the node):

    guide                                   node
    fork                              ->    setsid, unshare(user, mount, net, cgroup)
                                      <-    "unshared"
    newuidmap, newgidmap
    "mapped"                          ->    becomes root in there; lo up, cgroup2 mounted, keeper forked
                                      <-    "built", pid of the keeper
    pasta attaches to the node
    node.json is written
    the whole record                  ->    releases the keeper
                                      <-    "taken"; returns a Node and goes on as the shim
    exits 0

Either side that finds the other gone stops: the guide raises what went wrong (or an error without
words, if the node was killed), the node exits without a trace. As root the first and the third message
are empty of work, but the shape is the same, so whoever starts us sees one behaviour: exit 0 means
that the node stands.

The keeper is a process that sleeps. Containers usually live in network namespaces of their own, so
after a shim's death no one might be left in the node's; the keeper holds them, and it is what the
next shim joins. It costs the memory of `sleep`. node.json names it by pid, start time and the inode
numbers of its namespaces: only if all fit it is joined, else the record is stale, its pasta is ended
and a new node is made. Joining needs no privilege: the kernel gives the owner of a user namespace
every capability in it (user_namespaces(7)); the mount namespace is made anew, containers have theirs.

A pipe is closed, not timed: the steps that can hang (tools, pasta) have deadlines of their own.

Out of scope: what runs in the node (container.shim.server), and publishing ports.
"""

import json
import os
import time

from container.errors import ContainerError, HostError
from container.linux import prctl
from container.linux._libc import SyscallError
from container.linux.mount import MS_REC, MS_SLAVE, attach, mount, new_mount
from container.linux.namespaces import (
    CLONE_NEWCGROUP,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWUSER,
    setns,
    unshare,
)
from container.linux.process import is_alive, pidfd_open, start_time
from container.network.links import loopback_up
from container.network.pasta import end_stray_pasta, start_pasta, stop_pasta
from container.network.program import find_program, run_program
from container.shim import subids
from container.shim.record import RECORD, Node, is_joinable, read_namespaces, read_record, write_record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from container.shim.subids import Extent

_PASTA_PID = "pasta.pid"
_TOOL_TIMEOUT_S = 10.0
_STOP_TIMEOUT_S = 1.0
_SIGKILL = 9

# include/uapi/linux/capability.h
_CAP_SYS_ADMIN = 21

#: The ids that ordinary images use: 65534 is nobody.
_ENOUGH_IDS = 65536


def enter_node(run_dir: str, *, uplink: bool) -> Node:
    """Make or join the node of `run_dir`; the caller continues in another process, in the node.

    Call it first thing, with one thread and nothing buffered. The process that called exits 0 once the
    node stands; the one that returns is its child, the leader of a session of its own.

    Args:
        run_dir: where node.json is, ours alone.
        uplink: attach pasta; without one, or where it cannot be had, only a finding remains.

    Raises:
        HostError: user namespaces are not to be had here. Raised in the process that called.
    """
    if is_root():
        return _guide(run_dir, _root_node(), _Plan(0, False))
    old = read_record(run_dir)
    if old is not None and old.keeper is not None and is_joinable(old, old.keeper[0]):
        old.joined = True
        return _guide(run_dir, old, _Plan(old.keeper[0], uplink))
    end_node(run_dir)
    return _guide(run_dir, plan_node(os.geteuid(), os.getegid()), _Plan(0, uplink))


def join_node(run_dir: str, pid: int) -> Node:
    """Join the node of `run_dir` through process `pid`, which lives in its namespaces; else as enter_node.

    Raises:
        HostError: `pid` is gone, or its namespaces are not those of node.json.
    """
    old = read_record(run_dir)
    if old is None or not is_joinable(old, pid):
        raise HostError(f"process {pid} is not in the node of `{run_dir}`", "start the daemon anew")
    old.joined = True
    return _guide(run_dir, old, _Plan(pid, old.pasta is not None))


def end_node(run_dir: str) -> None:
    """End the keeper and the uplink of `run_dir`, and remove the record; containers are not touched."""
    node = read_record(run_dir)
    # Also the pasta of a guide that was killed before it wrote the record.
    end_stray_pasta(f"{run_dir}/{_PASTA_PID}")
    if node is not None and node.keeper is not None and is_alive(*node.keeper):
        os.kill(node.keeper[0], _SIGKILL)
    for name in (RECORD, _PASTA_PID):
        try:
            os.unlink(f"{run_dir}/{name}")
        except FileNotFoundError:
            continue


def is_root() -> bool:
    """Tell whether we may mount and map as we are: real root, or root of a user namespace around us."""
    if os.geteuid() != 0:
        return False
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        effective = next(line for line in file if line.startswith("CapEff:"))
    return bool(int(effective.split()[1], 16) >> _CAP_SYS_ADMIN & 1)


def plan_node(uid: int, gid: int) -> Node:
    """Decide how ids will be mapped for an ordinary user: by subids if all is there, else one id."""
    ranges = {tool: subids.read_ranges(path, uid) for tool, path in subids.TOOLS.items()}
    for tool, path in subids.TOOLS.items():
        if not ranges[tool]:
            fix = subids.suggest_fix(uid)
            return _single(uid, gid, "subids", HostError(f"no range for uid {uid} in `{path}`", fix))
        if subids.find_tool(tool) is None:
            fix = "install the `uidmap` package: `sudo apt install uidmap`"
            return _single(uid, gid, "idmap-tools", HostError(f"`{tool}` is missing or not setuid", fix))
    return Node("subids", subids.extents(uid, ranges["newuidmap"]), subids.extents(gid, ranges["newgidmap"]))


def _root_node() -> Node:
    node = Node("root", _own_map("uid"), _own_map("gid"))
    mapped = sum(count for _, _, count in node.uids)
    if mapped < _ENOUGH_IDS:
        error = HostError(
            f"only {mapped} ids are mapped into the user namespace around us",
            f"map {_ENOUGH_IDS} ids there, as `podman unshare` does with ranges in /etc/subuid",
        )
        node.add_finding("subids", error)
    return node


def _single(uid: int, gid: int, name: str, error: HostError) -> Node:
    node = Node("single", [(0, uid, 1)], [(0, gid, 1)])
    node.add_finding(name, error)
    return node


class _Plan:
    """What the two processes do: whom to join (0: nobody), and whether there shall be an uplink."""

    __slots__ = ("join", "uplink")

    def __init__(self, join: int, uplink: bool) -> None:
        self.join = join
        self.uplink = uplink


class _Pipe:
    """One half of the conversation: lines of JSON, each at most a pipe's atomic write or read whole."""

    __slots__ = ("_rest", "_source", "_target")

    def __init__(self, source: int, target: int) -> None:
        self._source = source
        self._target = target
        self._rest = b""

    def send(self, message: "dict[str, Any]") -> None:
        """Send; a partner who is gone is found out at the next `receive`."""
        try:
            os.write(self._target, json.dumps(message).encode() + b"\n")
        except BrokenPipeError:
            return

    def receive(self) -> "dict[str, Any] | None":
        """Return the next message, None when the partner is gone."""
        while b"\n" not in self._rest:
            chunk = os.read(self._source, 65536)
            if not chunk:
                return None
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message

    def close(self) -> None:
        """Hang up."""
        os.close(self._source)
        os.close(self._target)


def _guide(run_dir: str, node: Node, plan: _Plan) -> Node:
    """Fork; in the child return as the node, in the parent see it through and exit."""
    up, down = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(up[0])
        os.close(down[1])
        return _become_node(node, plan, _Pipe(down[0], up[1]))
    os.close(up[1])
    os.close(down[0])
    pipe = _Pipe(up[0], down[1])
    try:
        _see_through(run_dir, node, plan, pid, pipe)
    except BaseException:
        pipe.close()
        _reap(pid)
        if node.pasta is not None and not node.joined:
            stop_pasta(*node.pasta)
        raise
    os._exit(0)


def _see_through(run_dir: str, node: Node, plan: _Plan, pid: int, pipe: _Pipe) -> None:
    _expect(pipe, "unshared")
    if node.mode != "root" and not node.joined:
        write_maps(pid, node)
    pipe.send({"step": "mapped"})
    built = _expect(pipe, "built")
    if not node.joined:
        node.pid = pid
        node.keeper = tuple(built["keeper"]) if built["keeper"] else None
        node.namespaces = read_namespaces(pid)
    if node.mode != "root":
        if plan.uplink:
            _attach_uplink(run_dir, node, pid)
        write_record(run_dir, node)
    pipe.send(node.to_json())
    _expect(pipe, "taken")


def _expect(pipe: _Pipe, step: str) -> "dict[str, Any]":
    message = pipe.receive()
    if message is None:
        raise HostError("the node's process was killed while it was set up", "look at `dmesg` and try again")
    if message["step"] != step:
        raise HostError(message["error"], message["hint"])
    return message


def _attach_uplink(run_dir: str, node: Node, pid: int) -> None:
    if node.pasta is not None and is_alive(*node.pasta):
        return
    node.findings = [finding for finding in node.findings if finding[0] != "uplink"]
    try:
        number, started = start_pasta(pid, f"{run_dir}/{_PASTA_PID}")
        node.pasta = (number, started or 0)
    except ContainerError as error:
        node.pasta = None
        node.add_finding("uplink", error)


def write_maps(pid: int, node: Node) -> None:
    """Map ids into the user namespace of `pid`.

    Raises:
        HostError: the kernel or the tools refuse.
    """
    if node.mode == "single":
        # Without this the kernel refuses the group map: a dropped group could be one that denies access.
        _write_proc(pid, "setgroups", "deny")
        _write_proc(pid, "uid_map", _map_text(node.uids))
        _write_proc(pid, "gid_map", _map_text(node.gids))
        return
    for tool, mapping in zip(subids.TOOLS, (node.uids, node.gids), strict=True):
        numbers = [str(number) for extent in mapping for number in extent]
        path = subids.find_tool(tool) or tool
        code, words = run_program(path, [str(pid), *numbers], _TOOL_TIMEOUT_S)
        if code != 0:
            said = words[-1].lower() if words else f"it exited with {code}"
            raise HostError(
                f"cannot map ids `{' '.join(numbers)}`: {said}", f"check `{subids.TOOLS[tool]}` (subuid(5))"
            )


def _map_text(mapping: "list[Extent]") -> str:
    return "".join(f"{inside} {outside} {count}\n" for inside, outside, count in mapping)


def _write_proc(pid: int, name: str, text: str) -> None:
    try:
        fd = os.open(f"/proc/{pid}/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise HostError(
            f"cannot write `{text.strip()}` to {name}: {(error.strerror or '').lower()}",
            "allow user namespaces; `vappc doctor` names the setting",
        ) from error


def _reap(pid: int) -> None:
    """Wait for the node, which exits when its pipe is closed; kill it if it does not."""
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    while time.monotonic() < deadline:
        if os.waitpid(pid, os.WNOHANG)[0]:
            return
        time.sleep(0.002)
    os.kill(pid, _SIGKILL)
    os.waitpid(pid, 0)


def _become_node(node: Node, plan: _Plan, pipe: _Pipe) -> Node:
    """Do the node's half; returns in the node, or exits."""
    try:
        os.setsid()
        _enter_namespaces(node, plan)
        pipe.send({"step": "unshared"})
        if pipe.receive() is None:
            os._exit(1)
        built = _build(node)
    except (OSError, ContainerError) as error:
        _give_up(pipe, error)
    pipe.send(built.to_json())
    final = pipe.receive()
    if final is None:
        os._exit(1)
    built.keep()
    joined = node.joined
    node = Node.from_json(final)
    node.joined = joined
    pipe.send({"step": "taken"})
    pipe.close()
    return node


def _enter_namespaces(node: Node, plan: _Plan) -> None:
    if node.mode == "root":
        unshare(CLONE_NEWNS)
    elif plan.join:
        pidfd = pidfd_open(plan.join)
        try:
            setns(pidfd, CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWCGROUP)
        finally:
            os.close(pidfd)
        unshare(CLONE_NEWNS)
    else:
        unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWCGROUP)
    # New capabilities made us undumpable; then /proc/PID, with the maps, belongs to root of the host.
    prctl.set_dumpable(True)


def _build(node: Node) -> "_Built":
    """Furnish the namespaces; needs the maps."""
    # What the host mounts later shows up here, what we mount never shows up there.
    mount("none", "/", None, MS_REC | MS_SLAVE)
    if node.mode == "root":
        return _Built(None, -1)
    _mount_cgroup2()
    if node.joined:
        return _Built(None, -1)
    loopback_up()
    return _Built(*_fork_keeper())


class _Built:
    """What the node made: the keeper, and the descriptor by which it is told to stay."""

    __slots__ = ("keeper", "release")

    def __init__(self, keeper: "int | None", release: int) -> None:
        self.keeper = keeper
        self.release = release

    def to_json(self) -> "dict[str, Any]":
        """Return the message to the guide."""
        keeper = (self.keeper, start_time(self.keeper) or 0) if self.keeper else None
        return {"step": "built", "keeper": keeper}

    def keep(self) -> None:
        """All is well: the keeper shall stay."""
        if self.keeper:
            os.write(self.release, b"k")
            os.close(self.release)


def _mount_cgroup2() -> None:
    """Show the delegated part of the unified hierarchy as the whole, where it is the only hierarchy."""
    place = "/sys/fs/cgroup"
    if not os.path.exists(f"{place}/cgroup.controllers"):
        return
    target = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = new_mount("cgroup2", [])
        try:
            attach(fd, target)
        finally:
            os.close(fd)
    except SyscallError:
        return  # the host's view stays; then limits are a finding of container.cgroups
    finally:
        os.close(target)


def _fork_keeper() -> "tuple[int, int]":
    """Fork the process that holds the namespaces; returns its pid and the descriptor to release it by.

    It stays only if told so: a node that dies half-built takes it along.
    """
    program = find_program("sleep")
    source, target = os.pipe()
    pid = os.fork()
    if pid:
        os.close(source)
        return pid, target
    try:
        os.close(target)
        if os.read(source, 1) == b"k":
            _keep(program)
    finally:
        os._exit(1)


def _keep(program: "str | None") -> "NoReturn":
    """Sleep for ever, by `sleep` where there is one because that is smaller than an interpreter."""
    null = os.open("/dev/null", os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    os.closerange(3, 256)
    os.setsid()
    os.chdir("/")
    if program is not None:
        os.execve(program, ["vapp-node", "infinity"], {})
    while True:
        time.sleep(1 << 20)


def _give_up(pipe: _Pipe, error: Exception) -> "NoReturn":
    hint = getattr(error, "hint", "") or "allow user namespaces; `vappc doctor` names the setting"
    pipe.send({"step": "failed", "error": f"cannot make the node's namespaces: {error}", "hint": hint})
    os._exit(1)


def _own_map(kind: str) -> "list[Extent]":
    with open(f"/proc/self/{kind}_map", encoding="ascii") as file:
        rows = [tuple(int(word) for word in line.split()) for line in file]
    return [(row[0], row[1], row[2]) for row in rows]
