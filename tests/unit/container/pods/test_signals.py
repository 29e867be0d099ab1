import pytest

from container.errors import ConfigError
from container.pods.signals import parse


@pytest.mark.parametrize(
    ("text", "number"),
    [("SIGTERM", 15), ("term", 15), ("15", 15), ("SIGRTMIN+3", 37), ("rtmax-1", 63), ("SIGRTMIN", 34), ("64", 64)],
)
def test_signals_have_many_spellings(text, number):
    assert parse(text) == number


@pytest.mark.parametrize("text", ["", "0", "65", "-9", "SIGNOPE", "RTMIN+99", "RTMIN+x", "\u00b2"])
def test_unknown_signals_are_refused(text):
    with pytest.raises(ConfigError, match="unknown"):
        parse(text)
