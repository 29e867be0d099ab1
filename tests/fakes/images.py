"""An image store in memory: the interface of container.images.service.Images."""

import asyncio
from collections.abc import Collection
from pathlib import Path

from blob.oci.image import ContainerConfig, ImageConfig
from container.errors import NotFoundError
from container.images.image import Image
from container.progress import Progress, ignore


def make_image(name: str = "docker.io/library/demo:latest", **config) -> Image:
    return Image(
        id="sha256:" + "1" * 64,
        names=(name,),
        manifest_digest="sha256:" + "2" * 64,
        created="2026-01-02T03:04:05Z",
        size=1234567,
        architecture="amd64",
        os="linux",
        layers=("sha256:" + "3" * 64,),
        config=ImageConfig("amd64", "linux", ContainerConfig(**config)),
    )


class FakeImages:
    """`remote` is what can be pulled; `gate`, if set, holds pulls back until it is opened."""

    def __init__(self, layer: Path) -> None:
        self.layer = layer
        self.local: dict[str, Image] = {}
        self.remote: dict[str, Image] = {"demo": make_image(cmd=("/bin/sh",))}
        self.pulls: list[str] = []
        self.used: Collection[str] = ()
        self.gate: asyncio.Event | None = None

    async def pull(self, reference, platform=None, report=ignore) -> Image:
        self.pulls.append(reference)
        report(Progress(10, "image", f"fetching {reference}", 1, 10))
        if self.gate is not None:
            await self.gate.wait()
        if reference not in self.remote:
            raise NotFoundError(f"no image `{reference}` in its registry", "check the name")
        report(Progress(100, "image", f"have {reference}", 10, 10))
        self.local[reference] = self.remote[reference]
        return self.remote[reference]

    async def load(self, path: Path, name: str, report=ignore) -> Image:
        if not path.exists():
            raise NotFoundError(f"no archive `{path}`")
        self.local[name] = make_image(name)
        return self.local[name]

    def list(self) -> list[Image]:
        return list(self.local.values())

    def inspect(self, name: str) -> Image:
        if name not in self.local:
            raise NotFoundError(f"no image `{name}`", f"pull it with `vappc pull {name}`")
        return self.local[name]

    async def remove(self, name: str, used: Collection[str] = ()) -> None:
        self.used = used
        self.inspect(name)
        del self.local[name]

    def prepare(self, image: Image, container_dir: Path, rootless: bool) -> dict:
        options = [f"lowerdir={self.layer}", f"upperdir={container_dir}/upper", f"workdir={container_dir}/work"]
        return {"destination": "/", "type": "overlay", "source": "overlay", "options": options}
