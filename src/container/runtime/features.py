"""What this runtime can do, as `features` prints it (runtime-spec, features.md). Pure."""

from container.linux.capabilities import NAMES
from container.linux.namespaces import FLAGS
from container.linux.seccomp import FLAGS as SECCOMP_FLAGS
from container.linux.seccomp import SCMP_ACT, SCMP_CMP
from container.runtime import options
from container.runtime.limits import MEMORY_FLAGS, MEMORY_MODES
from container.spec.config import OCI_VERSION

#: What libseccomp calls the machines it knows; a profile may name any of them.
_ARCHITECTURES = (
    "AARCH64", "ARM", "LOONGARCH64", "MIPS", "MIPS64", "MIPS64N32", "MIPSEL", "MIPSEL64", "MIPSEL64N32",
    "PARISC", "PARISC64", "PPC", "PPC64", "PPC64LE", "RISCV64", "S390", "S390X", "X32", "X86", "X86_64",
)  # fmt: skip


def document() -> "dict[str, object]":
    """Return the document."""
    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": OCI_VERSION,
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": _mount_options(),
        "linux": {
            "namespaces": sorted(FLAGS),
            "capabilities": list(NAMES),
            "cgroup": {"v1": True, "v2": True, "systemd": False, "systemdUser": False, "rdma": False},
            "seccomp": {
                "enabled": True,
                "actions": sorted(SCMP_ACT),
                "operators": list(SCMP_CMP),
                "archs": [f"SCMP_ARCH_{name}" for name in _ARCHITECTURES],
                "knownFlags": list(SECCOMP_FLAGS),
                "supportedFlags": list(SECCOMP_FLAGS),
            },
            "apparmor": {"enabled": True},
            "selinux": {"enabled": True},
            "intelRdt": {"enabled": False},
            "memoryPolicy": {"modes": list(MEMORY_MODES), "flags": list(MEMORY_FLAGS)},
            "mountExtensions": {"idmap": {"enabled": True}},
            "netDevices": {"enabled": True},
        },
        "annotations": {"org.opencontainers.runc.checkpoint.enabled": "false"},
        "potentiallyUnsafeConfigAnnotations": ["run.oci.keep_original_groups"],
    }


def _mount_options() -> "list[str]":
    words = {*options.ATTRIBUTES, *options.PROPAGATION, *options.SUPERBLOCK, *options.IGNORED}
    words |= {f"r{word}" for word in options.ATTRIBUTES}
    return sorted(words | {"bind", "rbind", "tmpcopyup", "idmap", "ridmap"})
