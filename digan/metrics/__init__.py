"""Video metrics: FVD, KVD, inception score, FID, and rfvd, which needs no download. A metric's name is its protocol.

Example:
    result = compute("rfvd256_16f", reals, fakes, device=device)
    result = compute("fvd2048_16f", reals, make_fakes, detector="i3d_torchscript.pt", trials=10)
    append_result(run_folder, result, clips=clips_seen)
"""

from digan.errors import MetricError
from digan.metrics.clip_sets import ClipSource
from digan.metrics.compute import append_result, compute
from digan.metrics.detectors import DETECTORS, Detector, check_i3d, detector_files, load_detector
from digan.metrics.distances import frechet_distance, kernel_distance
from digan.metrics.features import Extractor, RandomFeatures
from digan.metrics.inception_score import inception_score
from digan.metrics.protocol import KINDS, MetricProtocol

parse = MetricProtocol.parse

__all__ = [
    "DETECTORS",
    "KINDS",
    "ClipSource",
    "Detector",
    "Extractor",
    "MetricError",
    "MetricProtocol",
    "RandomFeatures",
    "append_result",
    "check_i3d",
    "compute",
    "detector_files",
    "frechet_distance",
    "inception_score",
    "kernel_distance",
    "load_detector",
    "parse",
]
