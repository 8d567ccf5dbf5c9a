"""Index videos, cut them into clips, and stream training pairs."""

from digan.data.clips import Clips, ClipWindows, FramePairs, choose
from digan.data.demo import make_demo_videos
from digan.data.index import load_index
from digan.data.loader import StreamSampler, on_device, pair_loader
from digan.data.store import FrameStore
from digan.data.video import Video, VideoIndex
from digan.errors import DataError, UnreadableVideo

__all__ = [
    "ClipWindows",
    "Clips",
    "DataError",
    "FramePairs",
    "FrameStore",
    "StreamSampler",
    "UnreadableVideo",
    "Video",
    "VideoIndex",
    "choose",
    "load_index",
    "make_demo_videos",
    "on_device",
    "pair_loader",
]
