"""`vappc run`: start a container, and be its terminal until it ends."""

import argparse
import sys

from container.intent import ContainerRunSpec
from vappc.cli import values
from vappc.cli.output import ProgressLine, write_output
from vappc.cli.terminal import on_interrupt, on_resize, open_stdin, raw, terminal_size
from vappc.client.blocking import Client
from vappc.client.process import Process
from vappc.errors import ServerError, UsageError, VappcError

_EPILOG = """\
What comes after IMAGE is the command; `--` may stand between them. It replaces the image's Cmd, and its
entrypoint stays, as with Docker; with --entrypoint that is replaced too.

The exit status is the command's. 125: we failed; 126: the command cannot be run; 127: it was not found.
Ctrl-C is passed on to the command; the second one kills the container.
"""


def configure(_: str, parser: argparse.ArgumentParser) -> None:
    """Fill in the verb's options."""
    parser.epilog = _EPILOG
    add = parser.add_argument
    add("-d", "--detach", action="store_true", help="print the id and leave it running")
    add("--name", type=values.instance_id, metavar="NAME", help="name of the container (default: made up)")
    add("-e", "--env", action="append", default=[], metavar="KEY[=VALUE]", help="set a variable")
    add(
        "-v",
        "--volume",
        action="append",
        default=[],
        type=values.volume,
        metavar="SRC:DST[:ro]",
        help="show a directory or file of the host",
    )
    add("-l", "--label", action="append", default=[], type=values.label, metavar="KEY=VALUE", help="attach a label")
    add("--rm", action="store_true", help="delete the container when it ends")
    add("-i", "--interactive", action="store_true", help="pass our stdin on")
    add("-t", "--tty", action="store_true", help="give the command a terminal")
    add("--entrypoint", metavar="PROGRAM", help="replace the image's entrypoint")
    add("-w", "--workdir", metavar="DIR", help="working directory")
    add("-u", "--user", metavar="USER[:GROUP]", help="names or numbers")
    add("--hostname", metavar="NAME", help="host name (default: begin of the id)")
    add("--network", choices=("node", "none", "host"), default="node", help="which network (default: node)")
    add("-m", "--memory", type=values.memory, metavar="SIZE", help="most memory, such as 512m")
    add("--cpus", type=values.positive, metavar="N", help="most processor time, such as 1.5")
    add("--pids-limit", type=int, metavar="N", help="most processes")
    add("--read-only", action="store_true", help="a root file system that cannot be written")
    add("--privileged", action="store_true", help="all capabilities, nothing hidden, the host's devices")
    add("--cap-add", action="append", default=[], metavar="CAP", help="add a capability")
    add("--cap-drop", action="append", default=[], metavar="CAP", help="drop a capability")
    add("--stop-timeout", type=float, default=10.0, metavar="SECONDS", help="before SIGKILL (default: 10)")
    add(
        "--pull",
        choices=("missing", "always", "never"),
        default="missing",
        help="when to fetch the image (default: missing)",
    )
    add("--platform", metavar="OS/ARCH", help="which of the image's platforms (default: this machine's)")
    add("image", metavar="IMAGE", help="name of the image")
    add("command", nargs=argparse.REMAINDER, metavar="COMMAND", help="what to run (default: what the image says)")
    parser.set_defaults(act=act)


def act(options: argparse.Namespace) -> int:
    """Do it."""
    spec = make_spec(options)
    with Client(options.socket) as client:
        progress = ProgressLine()
        if options.detach:
            try:
                handle = client.run_container(spec, progress)
            finally:
                progress.clear()
            sys.stdout.write(f"{handle.instance_id}\n")
            return 0
        return _run_attached(client, spec, progress)


def make_spec(options: argparse.Namespace) -> ContainerRunSpec:
    """Return what the options ask for."""
    if options.detach and options.interactive:
        raise UsageError("`-d` and `-i` exclude each other", "leave out one of them")
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    return ContainerRunSpec(
        image=options.image,
        command=[options.entrypoint] if options.entrypoint else None,
        args=list(command) or None,
        env=values.environment(options.env) or None,
        mounts=options.volume or None,
        instance_id=options.name,
        privileged=options.privileged,
        labels=dict(options.label),
        workdir=options.workdir,
        user=options.user,
        network=options.network,
        terminal=options.tty,
        stdin=options.interactive,
        memory_bytes=options.memory,
        cpus=options.cpus,
        pids_limit=options.pids_limit,
        read_only=options.read_only,
        capabilities_add=options.cap_add,
        capabilities_drop=options.cap_drop,
        hostname=options.hostname,
        stop_timeout_s=options.stop_timeout,
        remove=options.rm,
        pull=options.pull,
        platform=options.platform,
    )


def _run_attached(client: Client, spec: ContainerRunSpec, progress: ProgressLine) -> int:
    interrupts = _Interrupts(client, progress)
    with on_interrupt(interrupts), client.run_attached(spec, progress, *terminal_size()) as process:
        interrupts.process = process
        try:
            started = process.wait_started()
        finally:
            progress.clear()
        interrupts.instance_id = started.instance_id
        with raw(spec.terminal and spec.stdin), on_resize(process.resize if spec.terminal else _ignore):
            if spec.stdin:
                process.feed(open_stdin())
            for found in process:
                write_output(found)
    return process.exit.code if process.exit else 0


def _ignore(_: int, __: int) -> None:
    pass


class _Interrupts:
    """What Ctrl-C means by and by. Uses connections of its own: it may come in the middle of anything."""

    def __init__(self, client: Client, progress: ProgressLine) -> None:
        self._client = client
        self._progress = progress
        self.process: Process | None = None
        self.instance_id = ""

    def __call__(self, count: int) -> None:
        if count > 2:
            raise KeyboardInterrupt
        try:
            with Client(str(self._client.address)) as other:
                if not self.instance_id:
                    self._cancel(other)
                elif count == 1:
                    other.kill(self.instance_id, "SIGINT")
                    self._progress.note("passed on; Ctrl-C again kills the container")
                else:
                    other.kill(self.instance_id, "SIGKILL")
        except ServerError:
            pass  # it ended just now
        except VappcError:
            raise KeyboardInterrupt from None

    def _cancel(self, other: Client) -> None:
        if not self._progress.operation:
            raise KeyboardInterrupt
        other.cancel(self._progress.operation)
