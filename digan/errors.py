"""Errors caused by user input. Every message is one sentence that names the flag or file and the remedy."""


class UserError(ValueError):
    """Base class of all errors caused by user input: a command prints the message and exits with status 2."""


class ConfigError(UserError):
    """An option is unknown, malformed or contradicts another; the message is one sentence that names the flag."""


class SharedError(UserError):
    """An error that ends all processes of a launch together; the message names the processes that it comes from.

    Args:
        message: the sentence.
        quiet: whether another process of the same machine prints it.
    """

    def __init__(self, message: str, quiet: bool = False) -> None:
        super().__init__(message)
        self.quiet = quiet


class DataError(UserError):
    """The data cannot be used as requested; the message names the flag or the file and the remedy."""


class MetricError(UserError):
    """A metric cannot be computed as requested; the message names the cause and the remedy."""


class NetworkError(UserError):
    """A file does not hold a usable network; the message names the file and what to give instead."""


class NetworkNotFound(NetworkError, FileNotFoundError):
    """No network exists at the specified location."""


class MissingPackages(UserError):
    """A command needs packages that are not installed; the message is the rest of a sentence after its name."""
