"""The words of a mount's `options` (runtime-spec, config.md, Linux mount options) as data. Pure."""

from container.linux.mount import (
    MOUNT_ATTR__ATIME,
    MOUNT_ATTR_NOATIME,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NODIRATIME,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_NOSYMFOLLOW,
    MOUNT_ATTR_RDONLY,
    MOUNT_ATTR_RELATIME,
    MOUNT_ATTR_STRICTATIME,
    MS_PRIVATE,
    MS_REC,
    MS_SHARED,
    MS_SLAVE,
    MS_UNBINDABLE,
)

#: word -> (attributes to set, attributes to clear); with an `r` in front it holds for the whole tree.
ATTRIBUTES = {
    "ro": (MOUNT_ATTR_RDONLY, 0),
    "rw": (0, MOUNT_ATTR_RDONLY),
    "nosuid": (MOUNT_ATTR_NOSUID, 0),
    "suid": (0, MOUNT_ATTR_NOSUID),
    "nodev": (MOUNT_ATTR_NODEV, 0),
    "dev": (0, MOUNT_ATTR_NODEV),
    "noexec": (MOUNT_ATTR_NOEXEC, 0),
    "exec": (0, MOUNT_ATTR_NOEXEC),
    "nodiratime": (MOUNT_ATTR_NODIRATIME, 0),
    "diratime": (0, MOUNT_ATTR_NODIRATIME),
    "nosymfollow": (MOUNT_ATTR_NOSYMFOLLOW, 0),
    "symfollow": (0, MOUNT_ATTR_NOSYMFOLLOW),
    # The three of access time exclude each other: the kernel wants the whole field cleared.
    "relatime": (MOUNT_ATTR_RELATIME, MOUNT_ATTR__ATIME),
    "norelatime": (MOUNT_ATTR_STRICTATIME, MOUNT_ATTR__ATIME),
    "noatime": (MOUNT_ATTR_NOATIME, MOUNT_ATTR__ATIME),
    "atime": (MOUNT_ATTR_RELATIME, MOUNT_ATTR__ATIME),
    "strictatime": (MOUNT_ATTR_STRICTATIME, MOUNT_ATTR__ATIME),
    "nostrictatime": (MOUNT_ATTR_RELATIME, MOUNT_ATTR__ATIME),
}
PROPAGATION = {
    "private": MS_PRIVATE,
    "rprivate": MS_PRIVATE | MS_REC,
    "slave": MS_SLAVE,
    "rslave": MS_SLAVE | MS_REC,
    "shared": MS_SHARED,
    "rshared": MS_SHARED | MS_REC,
    "unbindable": MS_UNBINDABLE,
    "runbindable": MS_UNBINDABLE | MS_REC,
}
#: Accepted and without effect on a new mount: they name the default or what mount(8) alone acts on.
IGNORED = frozenset(
    (
        "defaults",
        "async",
        "loud",
        "nomand",
        "remount",
        "auto",
        "noauto",
        "user",
        "nouser",
        "nolazytime",
        "iversion",
    )
)
#: Flags of the file system itself, given to fsconfig(2) as they are.
SUPERBLOCK = frozenset(("sync", "dirsync", "mand", "lazytime", "silent"))


class Options:
    """What the words of one mount mean.

    Attributes:
        bind, recursive: the mount is a copy of an existing one, of all below it too.
        attr_set, attr_clr: MOUNT_ATTR_ flags of the mount itself.
        tree_set, tree_clr: the same for the mount and all below it.
        propagation: MS_ flags, 0 if unsaid.
        idmap: None, `idmap` or `ridmap`; `idmap_text` is what followed its equals sign.
        copy_up: a tmpfs starts with the content of the directory it covers.
        data: options of the file system, (key, value or None).
    """

    __slots__ = (
        "attr_clr",
        "attr_set",
        "bind",
        "copy_up",
        "data",
        "idmap",
        "idmap_text",
        "propagation",
        "recursive",
        "tree_clr",
        "tree_set",
    )

    def __init__(self) -> None:
        self.bind = self.recursive = self.copy_up = False
        self.attr_set = self.attr_clr = self.tree_set = self.tree_clr = self.propagation = 0
        self.idmap: str | None = None
        self.idmap_text = ""
        self.data: list[tuple[str, str | None]] = []


def parse(words: "list[str]") -> Options:
    """Return the meaning of `words`; what we do not know goes to the file system, which judges it."""
    options = Options()
    for word in words:
        if word in ATTRIBUTES:
            options.attr_set, options.attr_clr = _merge(options.attr_set, options.attr_clr, ATTRIBUTES[word])
        elif word in PROPAGATION:
            options.propagation = PROPAGATION[word]
        elif word[:1] == "r" and word[1:] in ATTRIBUTES:
            options.tree_set, options.tree_clr = _merge(options.tree_set, options.tree_clr, ATTRIBUTES[word[1:]])
        elif word in ("bind", "rbind"):
            options.bind = True
            options.recursive = options.recursive or word == "rbind"
        elif word.partition("=")[0] in ("idmap", "ridmap"):
            options.idmap, _, options.idmap_text = word.partition("=")
        elif word == "tmpcopyup":
            options.copy_up = True
        elif word in SUPERBLOCK:
            options.data.append((word, None))
        elif word and word not in IGNORED:
            key, equals, value = word.partition("=")
            options.data.append((key, value if equals else None))
    return options


def _merge(set_so_far: int, clear_so_far: int, change: "tuple[int, int]") -> "tuple[int, int]":
    # The last word wins: what is set now is not cleared by an earlier word, and the other way round.
    adds, removes = change
    return (set_so_far & ~removes) | adds, (clear_so_far & ~adds) | removes
