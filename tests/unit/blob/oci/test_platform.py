import pytest

from blob.errors import InvalidReferenceError
from blob.oci.platform import Platform, choose_platform, machine_platform, parse_platform


def linux(*names: str) -> list[Platform | None]:
    return [parse_platform(f"linux/{name}") for name in names]


@pytest.mark.parametrize(
    ("offered", "wanted", "expected"),
    [
        (["amd64", "arm64"], "arm64", 1),
        (["arm/v6", "arm/v7"], "arm/v7", 1),
        (["arm/v5", "arm/v6"], "arm/v7", 1),
        (["arm/v7"], "arm/v6", None),
        (["arm"], "arm/v7", 0),
        (["arm64/v8"], "arm64", 0),
        (["arm64"], "arm64/v8", 0),
        (["amd64/v3", "amd64"], "amd64", 1),
        (["amd64", "amd64/v2"], "amd64/v3", 1),
        (["s390x"], "amd64", None),
        (["amd64", "amd64"], "amd64", 0),
    ],
)
def test_the_closest_variant_wins(offered: list[str], wanted: str, expected: int | None) -> None:
    assert choose_platform(linux(*offered), parse_platform(f"linux/{wanted}")) == expected


def test_another_system_never_fits() -> None:
    assert choose_platform([parse_platform("windows/amd64")], parse_platform("linux/amd64")) is None


def test_a_lone_image_without_platform_fits_everything() -> None:
    assert choose_platform([None], parse_platform("linux/riscv64")) == 0
    assert choose_platform([None, None], parse_platform("linux/riscv64")) is None


def test_machines_have_go_names() -> None:
    assert str(machine_platform("x86_64")) == "linux/amd64"
    assert str(machine_platform("aarch64")) == "linux/arm64/v8"
    assert str(machine_platform("armv7l")) == "linux/arm/v7"
    assert str(machine_platform("mips64")) == "linux/mips64"


def test_uname_names_may_be_written_as_platforms() -> None:
    assert parse_platform("linux/x86_64") == Platform("amd64", "linux")


@pytest.mark.parametrize("text", ["", "linux", "linux/", "a/b/c/d"])
def test_other_shapes_are_refused(text: str) -> None:
    with pytest.raises(InvalidReferenceError):
        parse_platform(text)
