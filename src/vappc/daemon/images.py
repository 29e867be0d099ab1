"""The image store of a daemon whose registry may still be starting, or be starting again."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from container.images.image import Image
from container.images.service import Images
from container.progress import Report, ignore


async def _at_once() -> None:
    pass


class PatientImages(Images):
    """Images that waits for `before_use` before it talks to the registry."""

    before_use: Callable[[], Awaitable[None]] = staticmethod(_at_once)

    async def pull(self, reference: str, platform: str | None = None, report: Report = ignore) -> Image:
        """Pull an image once the registry is ready."""
        await self.before_use()
        return await super().pull(reference, platform, report)

    async def load(self, path: Path, name: str, report: Report = ignore) -> Image:
        """Load an archive once the registry is ready."""
        await self.before_use()
        return await super().load(path, name, report)
