"""pasta: the uplink of a node's network namespace for users without root (passt.top).

One pasta serves one node. It runs in the background, outside of the namespace, as the user, and holds
the namespace open until it is killed: `stop_pasta`. Our namespace gets an address of its own instead
of a copy of the host's, which is pasta's default and makes the host's own address unreachable from
inside. Out of scope: publishing ports, and where the namespace comes from (container.shim.node).
"""

import errno
import os
import time

from container.errors import HostError
from container.linux.files import read_file
from container.linux.process import is_alive, start_time
from container.network.program import find_program, run_program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

INTERFACE: "Final" = "tap0"
ADDRESS: "Final" = "10.0.2.100"
PREFIX: "Final" = 24

#: The host as seen from inside; connections to it arrive at the host's loopback interface.
GATEWAY: "Final" = "10.0.2.2"

#: Where name servers are asked; pasta hands the question on to the host's resolver.
DNS: "Final" = "10.0.2.3"

_TUN = "/dev/net/tun"
_START_TIMEOUT_S = 10.0
_SIGTERM = 15
_SIGKILL = 9
_STOP_TIMEOUT_S = 1.0

#: pasta tells syslog too, and says so where there is none; that is not what went wrong.
_NOISE = ("Failed to send", "No interfaces with IPv6", "No external routable")


def pasta_arguments(pid: int, pid_file: str, host_loopback: bool = False) -> "list[str]":
    """Return the arguments to serve the namespaces of process `pid`. PURE.

    Args:
        pid: a process in the user and network namespace; Debian 12's pasta attaches by number only.
        pid_file: where pasta writes its own number.
        host_loopback: let GATEWAY reach what listens on the host's loopback.
    """
    options = {
        "--ns-ifname": INTERFACE,
        "--address": ADDRESS,
        "--netmask": str(PREFIX),
        "--gateway": GATEWAY,
        "--dns-forward": DNS,
        "--mtu": "65520",
        # No port of the host is taken and none of the namespace's is shown; both are `auto` by default.
        "--tcp-ports": "none",
        "--udp-ports": "none",
        "--tcp-ns": "none",
        "--udp-ns": "none",
        "--pid": pid_file,
    }
    flags = ["--quiet", "--config-net", "--ipv4-only"] + ([] if host_loopback else ["--no-map-gw"])
    return flags + [word for pair in options.items() for word in pair] + [str(pid)]


def check_pasta() -> str:
    """Return the path of pasta after a look at what it needs.

    Raises:
        HostError: it is not installed, or /dev/net/tun cannot be used.
    """
    path = find_program("pasta")
    if path is None:
        raise HostError("`pasta` is not installed", "install the `passt` package: `sudo apt install passt`")
    check_tun()
    return path


def check_tun() -> None:
    """Open the device that makes tap interfaces, once.

    Raises:
        HostError: it is missing, or not open to this user.
    """
    try:
        os.close(os.open(_TUN, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        fixes = {
            errno.EACCES: f"`sudo chmod 0666 {_TUN}` (until reboot; a udev rule makes it last)",
            errno.EPERM: f"allow the device `c 10:200` to the container that this runs in, or `sudo chmod 0666 {_TUN}`",
        }
        raise HostError(
            f"cannot open `{_TUN}`: {(error.strerror or '').lower()}",
            fixes.get(error.errno or 0, "`sudo modprobe tun`"),
        ) from error


def start_pasta(pid: int, pid_file: str, host_loopback: bool = False) -> "tuple[int, int | None]":
    """Attach pasta to the namespaces of `pid`; returns its pid and start time once the interface is up.

    It is started by the user outside of the namespaces, never from within.

    Raises:
        HostError: pasta is missing or refused; its own last line is in the message.
        DeadlineError: it did not come up.
    """
    path = check_pasta()
    try:
        os.unlink(pid_file)
    except FileNotFoundError:
        pass
    code, words = run_program(path, pasta_arguments(pid, pid_file, host_loopback), _START_TIMEOUT_S)
    if code != 0:
        raise HostError(f"`pasta` cannot attach: {last_words(words)}", _hint(words))
    with open(pid_file, encoding="ascii") as file:
        number = int(file.read())
    return number, start_time(number)


def last_words(lines: "list[str]") -> str:
    """Return the line of pasta's that says what was wrong. PURE."""
    said = [line for line in lines if not line.startswith(_NOISE)]
    return said[-1].lower() if said else "it gave no reason"


def _hint(lines: "list[str]") -> str:
    if any("tun" in line for line in lines):
        return f"`sudo chmod 0666 {_TUN}`"
    return "run the same command by hand with `--debug`, or go without an uplink"


def stop_pasta(pid: int, started: "int | None") -> None:
    """End the pasta that had `pid` and start time `started`; it need not be our child."""
    for signal in (_SIGTERM, _SIGKILL):
        if not is_alive(pid, started):
            return
        try:
            os.kill(pid, signal)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + _STOP_TIMEOUT_S
        while is_alive(pid, started) and time.monotonic() < deadline:
            time.sleep(0.002)


def end_stray_pasta(pid_file: str) -> None:
    """End the pasta that wrote `pid_file`, if it still runs: its command line names that file."""
    try:
        pid = int(read_file(pid_file))
        arguments = read_file(f"/proc/{pid}/cmdline").split(b"\0")
    except (OSError, ValueError):
        return
    if os.fsencode(pid_file) in arguments:
        stop_pasta(pid, start_time(pid))
