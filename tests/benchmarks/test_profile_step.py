"""The profile of a training iteration."""

import json
from types import SimpleNamespace

from torch.autograd import DeviceType

from benchmarks import profile_step

SMALL = "--resolution 32 --batch 4 --channel-base 128 --channel-max 8 --z-dim 8 --w-dim 8 --fourier-dim 4 --fmm-rank 2"


def test_a_small_iteration(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    trace = tmp_path / "new" / "trace.json"
    assert profile_step.main([*SMALL.split(), "--trace", str(trace)]) == 0
    names = {event.get("name") for event in json.loads(trace.read_text())["traceEvents"]}
    assert {profile_step.ITERATION, "aten::_fused_adam_", "aten::_foreach_lerp_"} <= names
    assert "waits for the device: none" in capsys.readouterr().out


def test_waits_within_the_iteration_are_counted():
    def event(name, start, end):
        return SimpleNamespace(name=name, device_type=DeviceType.CPU, time_range=SimpleNamespace(start=start, end=end))

    events = [
        event(profile_step.ITERATION, 10, 20),
        event("cudaStreamSynchronize", 5, 6),
        event("cudaStreamSynchronize", 12, 13),
        event("aten::mm", 13, 14),
        event("cudaEventSynchronize", 19, 22),
        event("cudaDeviceSynchronize", 21, 22),
    ]
    assert profile_step.waits(events) == {"cudaStreamSynchronize": 1, "cudaEventSynchronize": 1}
