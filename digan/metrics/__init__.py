"""FVD, KVD and the download-free rfvd. A metric's name is its protocol: see `parse`.

result = compute("rfvd256_16f", reals, fakes, device=device)
append_result(run_folder, result, clips=clips_seen)
"""

from digan.errors import MetricError
from digan.metrics.compute import Source, append_result, compute
from digan.metrics.features import Detector, Extractor, RandomFeatures
from digan.metrics.frechet import frechet_distance, kernel_distance
from digan.metrics.protocol import Protocol

parse = Protocol.parse

__all__ = [
    "Detector",
    "Extractor",
    "MetricError",
    "Protocol",
    "RandomFeatures",
    "Source",
    "append_result",
    "compute",
    "frechet_distance",
    "kernel_distance",
    "parse",
]
