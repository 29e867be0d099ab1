"""How long work tells how far it is: a callback, and the record it gets.

Percentages never go backwards; the receiver sees stages in order and exactly one end.
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """One step of a long operation.

    Attributes:
        percentage: 0 to 100, never less than in the record before.
        stage: the phase, one word such as `image`, `bundle`, `start`.
        message: one line for a person.
        bytes_done: bytes handled so far in this stage, 0 where bytes are not the measure.
        bytes_total: how many there will be, 0 where unknown.
    """

    percentage: int
    stage: str
    message: str
    bytes_done: int = 0
    bytes_total: int = 0


Report = Callable[[Progress], None]


def ignore(_: Progress) -> None:
    """Report to nobody."""
