"""What a container needs of the host and its init may not open: it is opened by the launcher, before the clone.

An init in a new user namespace has lost the rights over the host: it cannot pass directories that are closed
to others, map the ids of a mount, or make a device node. The launcher makes detached mounts of these and the
init attaches them (container.runtime.operations). Out of scope: which mounts there are (container.runtime.rootfs).
"""

import os
import stat

from container.errors import ConfigError, LaunchError
from container.linux import mount as mounts
from container.linux._libc import SyscallError
from container.runtime import idmap
from container.runtime.options import Options, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from container.spec.types import Config, Device, IDMapping, Mount


def open_trees(config: "Config", bundle: str, new_user: bool) -> "dict[int, int]":
    """Return index in `mounts` -> detached mount, for those that the init could not make itself."""
    trees: dict[int, int] = {}
    linux = config.get("linux") or {}
    # An ordinary user's init has in its namespace all the rights over files that the user has.
    helps = new_user and os.geteuid() == 0
    try:
        for index, mount in enumerate(config.get("mounts") or ()):
            options = parse(mount.get("options") or [])
            source = os.path.join(bundle, mount.get("source") or "")
            if options.idmap:
                uids, gids = _mappings(mount, options, linux.get("uidMappings") or [], linux.get("gidMappings") or [])
                trees[index] = _open_mapped(source, options, uids, gids)
            elif (options.bind or mount.get("type") == "bind") and helps and _is_closed(source):
                trees[index] = _open_tree(source, options)
    except BaseException:
        for fd in trees.values():
            os.close(fd)
        raise
    return trees


def make_nodes(devices: "list[Device]", uids: "list[IDMapping]", gids: "list[IDMapping]") -> "dict[str, int]":
    """Return path -> detached mount of a node, for `devices` of a container in a new user namespace.

    Only root can: for others the host's own node of that path is bound (container.runtime.operations).
    """
    nodes: dict[str, int] = {}
    if not devices or os.geteuid() != 0:
        return nodes
    try:
        # A file system of the host's user namespace: nodes on one of the container's would be inert.
        tree = mounts.new_mount("tmpfs", [("mode", "700"), ("size", "4k")], mounts.MOUNT_ATTR_NOSUID)
        try:
            for number, device in enumerate(devices):
                nodes[device["path"]] = _make_node(tree, str(number), device, uids, gids)
        finally:
            os.close(tree)
    except OSError:
        # This root is one of a user namespace, or the kernel is older than Linux 6.15: the host's nodes then.
        return nodes
    except BaseException:
        for fd in nodes.values():
            os.close(fd)
        raise
    return nodes


def _make_node(tree: int, name: str, device: "Device", uids: "list[IDMapping]", gids: "list[IDMapping]") -> int:
    kind = {"b": stat.S_IFBLK, "p": stat.S_IFIFO}.get(device["type"], stat.S_IFCHR)
    directory = os.open(f"/proc/self/fd/{tree}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.mknod(name, kind | 0o600, os.makedev(device.get("major", 0), device.get("minor", 0)), dir_fd=directory)
        uid, gid = _host_id(device.get("uid", 0), uids), _host_id(device.get("gid", 0), gids)
        os.chown(name, uid, gid, dir_fd=directory, follow_symlinks=False)
        os.chmod(name, device.get("fileMode", 0o666) & 0o7777, dir_fd=directory)
        return mounts.open_tree(directory, name, mounts.OPEN_TREE_CLONE)
    finally:
        os.close(directory)


def _host_id(inside: int, mappings: "list[IDMapping]") -> int:
    for mapping in mappings:
        if 0 <= inside - mapping["containerID"] < mapping["size"]:
            return mapping["hostID"] + inside - mapping["containerID"]
    raise ConfigError(f"`linux.devices`: id {inside} is not mapped", "map it, or give the device to another id")


def _is_closed(path: str) -> bool:
    """Tell whether a directory on the way to `path` lets only its owner or group pass."""
    above = os.path.dirname(os.path.realpath(path))
    while True:
        try:
            if not os.stat(above).st_mode & stat.S_IXOTH:
                return True
        except OSError:
            return False  # opening it will say what is wrong
        if above == "/":
            return False
        above = os.path.dirname(above)


def _open_tree(source: str, options: Options) -> int:
    try:
        tree = mounts.clone_tree(source, options.recursive)
    except SyscallError as error:
        raise LaunchError(
            f"cannot bind mount `{source}`: {error}", "check `source` in `mounts`", error.errno or 0
        ) from error
    # A copy of a shared mount is its peer: what the container mounts below would show on the host.
    mounts.setattr_mount(tree, propagation=mounts.MS_SLAVE, recursive=True)
    return tree


def _open_mapped(source: str, options: Options, uids: "list[IDMapping]", gids: "list[IDMapping]") -> int:
    userns = idmap.open_namespace(uids, gids)
    try:
        tree = _open_tree(source, options)
        try:
            mounts.setattr_mount(tree, mounts.MOUNT_ATTR_IDMAP, userns_fd=userns, recursive=options.idmap == "ridmap")
        except SyscallError as error:
            os.close(tree)
            raise LaunchError(
                f"cannot map the ids of `{source}`: {error}",
                "its file system must know idmapped mounts, and belong to the user namespace this runs in",
                error.errno or 0,
            ) from error
        return tree
    finally:
        os.close(userns)


def _mappings(
    mount: "Mount", options: Options, uids: "list[IDMapping]", gids: "list[IDMapping]"
) -> "tuple[list[IDMapping], list[IDMapping]]":
    """Return the maps of a mount: its own, those in its option, or those of the container."""
    if mount.get("uidMappings") or mount.get("gidMappings"):
        return mount.get("uidMappings") or [], mount.get("gidMappings") or []
    if options.idmap_text:
        return _parse_maps(options.idmap_text)
    if not uids or not gids:
        raise ConfigError(
            f"mount at `{mount['destination']}` is to be idmapped and says not how",
            "give it `uidMappings` and `gidMappings`",
        )
    return uids, gids


def _parse_maps(text: str) -> "tuple[list[IDMapping], list[IDMapping]]":
    """Return the maps in `uids=0-1000-1#1-2000-9;gids=…`: inside, outside and size of each range."""
    found: dict[str, list[IDMapping]] = {"uids": [], "gids": []}
    for part in text.split(";"):
        kind, _, ranges = part.partition("=")
        for one in ranges.split("#"):
            fields = one.split("-")
            if kind not in found or len(fields) != 3 or not all(field.isdecimal() for field in fields):
                raise ConfigError(f"mount option `idmap={text}` is not valid", "such as uids=0-1000-1;gids=0-1000-1")
            inside, outside, size = map(int, fields)
            found[kind].append({"containerID": inside, "hostID": outside, "size": size})
    return found["uids"], found["gids"]
