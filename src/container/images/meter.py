"""Turn the bytes of many layers into one progress that never goes back."""

from container.progress import Progress, Report

#: What comes before and after the layers.
_FIRST, _LAST = 2, 98


class Meter:
    """Counts the bytes of one pull and reports each step forward."""

    def __init__(self, name: str, report: Report) -> None:
        self._name = name
        self._report = report
        self._sizes: dict[str, int] = {}
        self._done: dict[str, int] = {}
        self._most = 0

    def begin(self) -> None:
        """Report that the name is being resolved."""
        self._report(Progress(0, "image", f"looking up {self._name}"))

    def expect(self, sizes: dict[str, int]) -> None:
        """Say which layers are to come."""
        self._sizes = sizes
        self._tell()

    def update(self, layer: str, done: int) -> None:
        """Note how many bytes of `layer` are here; a layer that starts again does not take back what it told."""
        self._done[layer] = min(max(done, self._done.get(layer, 0)), self._sizes[layer])
        self._tell()

    def finish(self, layer: str) -> None:
        """Note that all of `layer` is here, also if it was before."""
        self.update(layer, self._sizes[layer])

    def end(self) -> None:
        """Report that all is done."""
        total = sum(self._sizes.values())
        self._report(Progress(100, "image", f"pulled {self._name}", total, total))

    def _tell(self) -> None:
        total, done = sum(self._sizes.values()), sum(self._done.values())
        span = _LAST - _FIRST
        self._most = max(self._most, _FIRST + (span * done // total if total else span))
        left = sum(self._done.get(layer, 0) < size for layer, size in self._sizes.items())
        text = f"pulling {self._name}: {len(self._sizes) - left} of {len(self._sizes)} layers"
        self._report(Progress(self._most, "image", text, done, total))
