"""Platforms: which of an index's images fits a machine.

Out of scope: emulation. An image for another architecture fits only when it is asked for by name.
"""

import os
from collections.abc import Iterator, Sequence

import msgspec

from blob.errors import InvalidReferenceError


class Platform(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an image runs on, in Go's words (`amd64`, `arm64`, `arm` with variant `v7`)."""

    architecture: str = ""
    os: str = ""
    variant: str = ""
    os_version: str = msgspec.field(default="", name="os.version")
    os_features: tuple[str, ...] | None = msgspec.field(default=None, name="os.features")

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


#: uname's machine to architecture and variant.
_MACHINES = {
    "x86_64": ("amd64", ""),
    "amd64": ("amd64", ""),
    "aarch64": ("arm64", "v8"),
    "arm64": ("arm64", "v8"),
    "armv8l": ("arm", "v8"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "armv5tel": ("arm", "v5"),
    "i386": ("386", ""),
    "i486": ("386", ""),
    "i586": ("386", ""),
    "i686": ("386", ""),
    "ppc64le": ("ppc64le", ""),
    "s390x": ("s390x", ""),
    "riscv64": ("riscv64", ""),
    "loongarch64": ("loong64", ""),
}
_ARM_VARIANTS = ("v8", "v7", "v6", "v5")


def machine_platform(machine: str) -> Platform:
    """Return the Linux platform of a machine as uname names it; unknown names stand for themselves."""
    architecture, variant = _MACHINES.get(machine, (machine, ""))
    return Platform(architecture, "linux", variant)


def host_platform() -> Platform:
    """Return the platform of this machine."""
    return machine_platform(os.uname().machine)


def parse_platform(text: str) -> Platform:
    """Parse `os/architecture[/variant]`.

    Raises:
        InvalidReferenceError: it has another shape.
    """
    parts = text.lower().split("/")
    if len(parts) not in (2, 3) or not all(parts):
        raise InvalidReferenceError(f"`{text}` is not a platform", "write for example `linux/arm64`")
    architecture, variant = _MACHINES.get(parts[1], (parts[1], ""))
    return Platform(architecture, parts[0], parts[2] if len(parts) == 3 else variant)


def choose_platform(offered: Sequence[Platform | None], wanted: Platform) -> int | None:
    """Return the position of the best fit for `wanted`, None if nothing fits.

    An offer without a platform fits nothing, unless it is the only one. An exact variant beats a lower
    one (an armv7 machine runs v6 and v5 images), and among equals the first wins.
    """
    if len(offered) == 1 and offered[0] is None:
        return 0
    for variant in _accepted_variants(wanted):
        for position, platform in enumerate(offered):
            if platform is not None and _fits(platform, wanted, variant):
                return position
    return None


def _fits(offer: Platform, wanted: Platform, variant: str) -> bool:
    same = (offer.os, offer.architecture) == (wanted.os, wanted.architecture)
    return same and _variant_of(offer) == variant


def _variant_of(platform: Platform) -> str:
    # arm without a variant means v7 and arm64 without one v8, as containerd normalises them.
    return platform.variant or {"arm": "v7", "arm64": "v8"}.get(platform.architecture, "")


def _accepted_variants(wanted: Platform) -> Iterator[str]:
    own = _variant_of(wanted)
    yield own
    if wanted.architecture == "arm" and own in _ARM_VARIANTS:
        yield from _ARM_VARIANTS[_ARM_VARIANTS.index(own) + 1 :]
    elif wanted.architecture == "arm64" and own != "v8":
        yield "v8"
    elif wanted.architecture == "amd64":
        # v2 to v4 name instruction sets; the baseline runs on all of them.
        yield from (f"v{n}" for n in (3, 2, 1) if f"v{n}" < own)
        if own:
            yield ""
