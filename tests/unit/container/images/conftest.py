from collections.abc import Iterator
from pathlib import Path

import pytest

from unit.container.images.registry import Registry, serve


@pytest.fixture
def registry() -> Iterator[Registry]:
    """A registry on the loopback."""
    with serve() as running:
        yield running


@pytest.fixture
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry on a Unix socket."""
    with serve(tmp_path_factory.mktemp("s") / "blob.sock") as running:
        yield running


@pytest.fixture
def blob_socket(local: Registry) -> Path:
    return Path(local.url.removeprefix("unix://"))
