"""What can go wrong in `container`, by the decision a caller can take.

ContainerError
├── ConfigError          the caller's input is wrong: change it
├── NotFoundError        no such container, image or process
├── StateError           the container is not in the state that the operation needs
├── ExistsError          the name is taken
├── ImageError           an image cannot be had or is broken
├── DigestError          bytes do not match their digest (an ImageError)
├── RegistryError        the registry cannot be reached or refused (an ImageError; may pass)
├── HostError            this host lacks an ability; the hint says how to get it
├── DeadlineError        something took longer than it may
└── LaunchError          a container's process could not be started

Every error carries a `code` (stable, kebab-case, for programs), a `category` (the wire protocol's
word), `retryable`, and a `hint`: what to do, where we know it. Texts are lower case, name the
object and the value, and put literals in backticks. Errors never print; command lines do.
"""


class ContainerError(Exception):
    """Root of the tree; `str()` is the message alone, the hint is separate."""

    code = "container"
    category = "Runtime"
    retryable = False

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(ContainerError):
    """The input is wrong; the message names the field and the value."""

    code = "bad-config"
    category = "Config"


class NotFoundError(ContainerError):
    """No container, image or process of that name."""

    code = "not-found"


class StateError(ContainerError):
    """The operation needs the container in another state."""

    code = "wrong-state"


class ExistsError(ContainerError):
    """The name belongs to something else."""

    code = "exists"


class ImageError(ContainerError):
    """An image cannot be had, or is broken."""

    code = "bad-image"
    category = "Image"


class DigestError(ImageError):
    """Bytes do not match the digest they were asked for by."""

    code = "digest-mismatch"


class RegistryError(ImageError):
    """The registry cannot be reached, or refused."""

    code = "registry"
    category = "Network"
    retryable = True


class HostError(ContainerError):
    """This host lacks an ability."""

    code = "host"


class DeadlineError(ContainerError):
    """Something took longer than it may."""

    code = "deadline"
    category = "Timeout"
    retryable = True


class LaunchError(ContainerError):
    """The process of a container could not be started; `errno` is the kernel's word, 0 if it was not asked."""

    code = "launch"

    def __init__(self, message: str, hint: str = "", errno: int = 0) -> None:
        super().__init__(message, hint)
        self.errno = errno
