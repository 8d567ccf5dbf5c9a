"""What goes wrong because of what the user gave. Every message is one sentence: the flag or file, and the remedy."""


class UserError(ValueError):
    """The base of them all: a command prints the message and ends with status 2."""


class ConfigError(UserError):
    """An option is unknown, malformed or contradicts another; the message is one sentence that names the flag."""


class DataError(UserError):
    """The data cannot be used as asked; the message names the flag or the file and the remedy."""


class MetricError(UserError):
    """A metric cannot be computed as asked; the message names the cause and the remedy."""


class NetworkError(UserError):
    """A file that should hold a network does not; the message names the file and what to give in its place."""


class NetworkNotFound(NetworkError, FileNotFoundError):
    """There is no network at the place that was named."""


class MissingPackages(UserError):
    """A command needs packages that are not installed; the message continues a sentence that begins with its name."""
