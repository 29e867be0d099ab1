"""The command line of `vapp-oci`, as callers of runc and of crun write it. Pure.

argparse alone would cost a third of a container's start, and it does not know
runc's habits: `--x v` and `--x=v`, one dash as well as two, options before the id.
"""

from container.errors import ConfigError

#: option -> (takes a value, what `--help` says). Short forms are listed in _SHORT.
GLOBAL = {
    "--root": ("DIR", "where the state of containers is kept"),
    "--log": ("FILE", "append messages to FILE instead of standard error"),
    "--log-format": ("FORMAT", "text or json (text)"),
    "--log-level": ("LEVEL", "accepted for crun's callers; errors are always told"),
    "--cgroup-manager": ("NAME", "cgroupfs or disabled (cgroupfs)"),
    "--rootless": ("WORD", "accepted for runc's callers; found out by looking"),
    "--criu": ("PATH", "accepted for runc's callers"),
    "--systemd-cgroup": ("", "accept cgroup paths in systemd's form; cgroups are still made by hand"),
    "--debug": ("", "tell what is done, each operation before it runs"),
    "--version": ("", "print the version"),
    "--help": ("", "print this help"),
}

_CREATE = {
    "--bundle": ("DIR", "directory with config.json (the current one)"),
    "--config": ("FILE", "another document than config.json in the bundle"),
    "--pid-file": ("FILE", "write the pid of the container's first process to FILE"),
    "--console-socket": ("SOCKET", "send the master of the terminal to this socket"),
    "--pidfd-socket": ("SOCKET", "send a pidfd of the first process to this socket"),
    "--preserve-fds": ("N", "pass N further descriptors to the program (0)"),
    "--no-pivot": ("", "accepted for runc's callers; the root is always pivoted"),
    "--no-new-keyring": ("", "keep the caller's session keyring"),
    "--no-subreaper": ("", "accepted for runc's callers"),
}

#: Options of `update` that stand for one field of linux.resources; texts stay texts, the others are numbers.
UPDATES = {
    "--memory": ("memory", "limit"),
    "--memory-reservation": ("memory", "reservation"),
    "--memory-swap": ("memory", "swap"),
    "--cpu-period": ("cpu", "period"),
    "--cpu-quota": ("cpu", "quota"),
    "--cpu-burst": ("cpu", "burst"),
    "--cpu-share": ("cpu", "shares"),
    "--cpu-rt-period": ("cpu", "realtimePeriod"),
    "--cpu-rt-runtime": ("cpu", "realtimeRuntime"),
    "--cpu-idle": ("cpu", "idle"),
    "--cpuset-cpus": ("cpu", "cpus"),
    "--cpuset-mems": ("cpu", "mems"),
    "--blkio-weight": ("blockIO", "weight"),
    "--pids-limit": ("pids", "limit"),
}
TEXTS = frozenset(("--cpuset-cpus", "--cpuset-mems"))

#: verb -> (operands, options, help)
VERBS: "dict[str, tuple[str, dict[str, tuple[str, str]], str]]" = {
    "create": ("ID", _CREATE, "build a container; its program waits for `start`"),
    "start": ("ID", {}, "start the program of a created container"),
    "run": (
        "ID",
        {**_CREATE, "--detach": ("", "do not wait for the program"), "--keep": ("", "do not delete it afterwards")},
        "create, start, wait, delete; exits with the program's status",
    ),
    "exec": (
        "ID [COMMAND…]",
        {
            "--process": ("FILE", "the process as JSON (config.json, `process`); `-` reads standard input"),
            "--cwd": ("DIR", "working directory"),
            "--env": ("NAME=VALUE", "add to the environment; may be repeated"),
            "--user": ("UID[:GID]", "user and group, as numbers"),
            "--additional-gids": ("GID", "add a group; may be repeated"),
            "--cap": ("NAME", "add a capability; may be repeated"),
            "--tty": ("", "give it a terminal"),
            "--detach": ("", "do not wait for the program"),
            "--no-new-privs": ("", "deny gaining privileges"),
            "--pid-file": ("FILE", "write the pid to FILE"),
            "--console-socket": ("SOCKET", "send the master of the terminal to this socket"),
            "--preserve-fds": ("N", "pass N further descriptors to the program (0)"),
            "--apparmor": ("PROFILE", "AppArmor profile"),
            "--process-label": ("LABEL", "SELinux label"),
            "--cgroup": ("PATH", "accepted; the process joins the container's cgroup"),
            "--ignore-paused": ("", "accepted for runc's callers"),
        },
        "run a further program in a running container",
    ),
    "kill": ("ID [SIGNAL]", {"--all": ("", "to every process of the container")}, "send a signal (TERM)"),
    "delete": ("ID", {"--force": ("", "also one that runs; none at all is fine")}, "remove a stopped container"),
    "state": ("ID", {}, "print the state as JSON"),
    "list": (
        "",
        {"--format": ("FORMAT", "table or json (table)"), "--quiet": ("", "ids alone")},
        "list the containers of this state directory",
    ),
    "ps": ("ID", {"--format": ("FORMAT", "table or json (table)")}, "list the processes of a container"),
    "pause": ("ID", {}, "freeze a container"),
    "resume": ("ID", {}, "let a paused container go on"),
    "update": (
        "ID",
        {
            "--resources": ("FILE", "linux.resources as JSON; `-` reads standard input"),
            **{option: ("N", f"sets `{'.'.join(path)}`") for option, path in UPDATES.items()},
        },
        "change limits",
    ),
    "events": ("ID", {"--stats": ("", "print once and end")}, "print usage as JSON"),
    "spec": (
        "",
        {"--bundle": ("DIR", "where to write it (the current one)"), "--rootless": ("", "for an ordinary user")},
        "write an example config.json",
    ),
    "plan": ("", {"--bundle": ("DIR", "directory with config.json (the current one)")},
             "print what creating a bundle would do, without doing it"),
    "features": ("", {}, "print what this runtime can do as JSON"),
}  # fmt: skip

_SHORT = {
    "-b": "--bundle",
    "-f": "--force",
    "-a": "--all",
    "-d": "--detach",
    "-e": "--env",
    "-u": "--user",
    "-t": "--tty",
    "-p": "--process",
    "-c": "--cap",
    "-g": "--additional-gids",
    "-q": "--quiet",
    "-r": "--resources",
    "-h": "--help",
    "-v": "--version",
}
_REPEATED = frozenset(("--env", "--cap", "--additional-gids"))


class Arguments:
    """One parsed command line: the verb, its operands, and options by their long names."""

    __slots__ = ("_values", "operands", "verb")

    def __init__(self, verb: str, operands: "list[str]", values: "dict[str, list[str]]") -> None:
        self.verb = verb
        self.operands = operands
        self._values = values

    def get(self, option: str, default: str = "") -> str:
        """Return the last value given for `option`."""
        return self._values.get(option, [default])[-1]

    def all(self, option: str) -> "list[str]":
        """Return every value given for `option`."""
        return self._values.get(option, [])

    def has(self, option: str) -> bool:
        """Tell whether `option` was given."""
        return option in self._values and self._values[option][-1] != "false"

    def number(self, option: str) -> int:
        """Return the value of `option` as a number, 0 if it was not given."""
        text = self.get(option, "0")
        if not is_number(text.removeprefix("-")):
            raise ConfigError(f"`{option}` takes a number, not `{text}`", "such as 0, 1024 or -1")
        return int(text)


def is_number(text: str) -> bool:
    """Tell whether `text` is a plain number: digits of ASCII, for int() also takes those of every other script."""
    return text.isascii() and text.isdecimal()


def parse(words: "list[str]") -> Arguments:
    """Return what `words` ask for.

    Raises:
        ConfigError: an option or verb that does not exist, or lacks its value.
    """
    values: dict[str, list[str]] = {}
    rest = _take_options(words, GLOBAL, values, "vapp-oci")
    if not rest or values.keys() & {"--help", "--version"}:
        return Arguments("", rest, values)
    verb, *rest = rest
    if verb == "help":
        return Arguments("", rest, {"--help": ["true"]})
    if verb not in VERBS:
        raise ConfigError(f"unknown command `{verb}`", f"one of {', '.join(VERBS)}")
    options = {**VERBS[verb][1], "--help": ("", "")}
    if verb == "exec":
        return Arguments(verb, _take_options(rest, options, values, verb), values)
    operands: list[str] = []
    while rest:
        # Everywhere but in exec options may follow the id, as `kill ID --all` of some callers.
        rest = _take_options(rest, options, values, verb)
        operands += rest[:1]
        rest = rest[1:]
    _check_operands(verb, operands, values)
    return Arguments(verb, operands, values)


def _take_options(
    words: "list[str]", known: "dict[str, tuple[str, str]]", values: "dict[str, list[str]]", where: str
) -> "list[str]":
    """Move leading options from `words` to `values`; return the rest."""
    words = list(words)
    while words and words[0].startswith("-") and words[0] != "-":
        word = words.pop(0)
        if word == "--":
            break
        name, equals, value = word.partition("=")
        option = _SHORT.get(name, name if name.startswith("--") else "-" + name)
        if option not in known:
            raise ConfigError(f"unknown option `{name}`", f"see `{where} --help`")
        if not known[option][0]:
            value = value if equals else "true"
        elif not equals:
            if not words:
                raise ConfigError(f"option `{option}` requires an argument", f"see `{where} --help`")
            value = words.pop(0)
        values.setdefault(option, []).append(value)
    return words


def _check_operands(verb: str, operands: "list[str]", values: "dict[str, list[str]]") -> None:
    if "--help" in values:
        return
    wanted = VERBS[verb][0].split()
    least = sum(not word.startswith("[") for word in wanted)
    if not least <= len(operands) <= len(wanted):
        raise ConfigError(f"`{verb}` takes {' '.join(wanted) or 'no operands'}, not `{' '.join(operands)}`")


def help_text(verb: str) -> str:
    """Return what `--help` prints."""
    if verb in VERBS:
        operands, options, text = VERBS[verb]
        head = f"usage: vapp-oci {verb} [OPTIONS] {operands}\n\n{text}\n"
        return head + (f"\noptions:\n{_rows(options)}" if options else "")
    verbs = "".join(f"  {name:<10} {text}\n" for name, (_, _, text) in VERBS.items())
    return (
        "usage: vapp-oci [OPTIONS] COMMAND …\n\n"
        "An OCI runtime with the command line of runc, for podman, containerd, CRI-O, buildah and by hand:\n\n"
        "  mkdir -p demo/rootfs/bin && cp /usr/bin/busybox demo/rootfs/bin/sh\n"
        "  vapp-oci spec --bundle demo && vapp-oci run --bundle demo hello\n\n"
        f"commands:\n{verbs}\noptions:\n{_rows(GLOBAL)}"
    )


def _rows(options: "dict[str, tuple[str, str]]") -> str:
    names = {long: short for short, long in _SHORT.items()}
    rows = []
    for option, (value, text) in options.items():
        left = f"{names.get(option, '  ')} {option} {value}".rstrip()
        rows.append(f"  {left:<28} {text}\n")
    return "".join(rows)
