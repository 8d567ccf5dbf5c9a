"""Errors caused by user input. Every message is one sentence that names the flag or file and the remedy."""


class UserError(ValueError):
    """Base class of all errors caused by user input: a command prints the message and exits with status 2."""


class ConfigError(UserError):
    """An option is unknown, malformed or contradicts another; the message is one sentence that names the flag."""


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
