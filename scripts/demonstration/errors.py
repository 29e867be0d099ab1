"""The one way in which the demonstration fails."""


class DemoError(Exception):
    """Something did not go as it must; `hint` says what to do or where to look."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint
