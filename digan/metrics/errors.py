"""The one error of the metrics."""


class MetricError(ValueError):
    """A metric cannot be computed as asked; the message names the cause and the remedy."""
