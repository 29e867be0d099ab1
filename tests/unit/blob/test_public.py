import subprocess
import sys

import pytest

import blob
from blob import errors


def test_the_public_names_are_these() -> None:
    assert blob.__all__ == ["BlobError", "Digest", "Reference", "parse_digest", "parse_reference"]
    assert all(hasattr(blob, name) for name in blob.__all__)


def test_importing_the_package_loads_no_http() -> None:
    check = "import sys, blob; sys.exit('aiohttp' in sys.modules or 'asyncio' in sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)


def all_errors(kind: type[errors.BlobError] = errors.BlobError) -> list[type[errors.BlobError]]:
    return [kind] + [found for child in kind.__subclasses__() for found in all_errors(child)]


@pytest.mark.parametrize("kind", all_errors())
def test_every_error_can_be_answered_and_is_in_the_drawing(kind: type[errors.BlobError]) -> None:
    assert 400 <= kind.status < 600
    assert kind.oci_code.isupper()
    assert kind.__name__ in (errors.__doc__ or "")
