"""Detector files: how each kind is called, the errors for wrong files, and which metric uses which file."""

import hashlib
import shutil
import warnings
from pathlib import Path

import pytest
import torch

from digan.errors import sentence
from digan.metrics import DETECTORS, Detector, MetricError, check_i3d, detector_files, parse
from digan.metrics import detectors as module

pytestmark = pytest.mark.filterwarnings("ignore:--detector .* is not the published")


def random_clips(count: int = 3, frames: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, frames, 3, 8, 8), generator=generator, dtype=torch.uint8)


class TooFewOutputs(torch.nn.Module):
    def forward(self, x: torch.Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False):
        return x.float().mean((2, 3, 4))


class OtherSignature(torch.nn.Module):
    def forward(self, x: torch.Tensor):
        return x


class OnlySixteenFrames(torch.nn.Module):
    """Like a C3D, whose fully connected layers fix the length of a clip."""

    def forward(self, x: torch.Tensor):
        return (x.float().flatten(3).mean(3).reshape(x.shape[0], 48)[:, :1] * torch.ones(101)).softmax(1)


def test_i3d_receives_float_clips_channels_first(detector_file):
    clips = random_clips()
    features = Detector(detector_file("i3d"))(clips)
    assert (features.shape, features.dtype) == ((3, 400), torch.float32)
    assert torch.allclose(features[:, :8], clips[:, :8, 0].float().mean((2, 3)))


def test_c3d_returns_probabilities_from_both_kinds_of_file(detector_file):
    clips = random_clips()
    logits = Detector(detector_file("c3d", logits=True), kind="c3d")(clips)
    probabilities = Detector(detector_file("c3d"), kind="c3d")(clips)
    assert (probabilities.shape, probabilities.dtype) == ((3, 101), torch.float32)
    assert torch.allclose(probabilities.sum(1), torch.ones(3))
    assert torch.allclose(logits, probabilities, atol=1e-6)
    assert probabilities.std(0).max() > 1e-3


@pytest.mark.parametrize("images", [1, 7, 64])
def test_inception_sees_single_frames(detector_file, monkeypatch, images):
    monkeypatch.setattr(module, "_IMAGES", images)
    clips = random_clips(2, frames=5)
    features = Detector(detector_file("inception"), kind="inception")(clips)
    assert (features.shape, features.dtype) == ((2, 5, 2048), torch.float32)
    assert torch.allclose(features[..., :3], clips.float().mean((3, 4)))


def test_detector_is_named_after_its_content(detector_file, tmp_path):
    path = detector_file("i3d", "a.pt")
    shutil.copy(path, tmp_path / "b.pt")
    other = detector_file("i3d", "c.pt", scale=2.0)
    assert Detector(path).name == Detector(tmp_path / "b.pt").name
    assert Detector(path).name != Detector(other).name
    assert Detector(path).name.startswith("i3d-")


def test_required_digests_are_checked(detector_file):
    path = detector_file("i3d")
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no warning about the file if its digest was given
        assert Detector(path, sha256=digest).sha256 == digest
        assert Detector(path, sha256=digest[:8].upper()).sha256 == digest
    with pytest.raises(MetricError, match=f"has SHA-256 {digest}, not 00000000; fetch the file again"):
        Detector(path, sha256="00000000")
    with pytest.raises(MetricError, match="not 8 to 64 hexadecimal digits"):
        Detector(path, sha256="abc")


def test_other_digests_are_refused_before_the_file_runs(tmp_path, monkeypatch):
    path = tmp_path / "i3d.pt"
    path.write_bytes(b"anything")
    monkeypatch.setattr(torch.jit, "load", lambda *args, **options: pytest.fail("the file was opened"))
    with pytest.raises(MetricError, match="fetch the file again"):
        Detector(path, sha256="0" * 64)


def test_published_files_are_recognised(detector_file, monkeypatch):
    """A file with a published digest is accepted for its kind without a warning, and refused for another kind."""
    path = detector_file("i3d")
    with pytest.warns(UserWarning, match="is not the published I3D"):
        Detector(path)
    published = DETECTORS["i3d"]
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    known = {**DETECTORS, "i3d": type(published)(**{**vars(published), "sha256": (digest,)})}
    monkeypatch.setattr(module, "DETECTORS", known)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Detector(path)
    with pytest.raises(MetricError, match="is the I3D of StyleGAN-V, not the Inception-v3"):
        Detector(path, kind="inception")


def test_published_digests_are_complete():
    digests = [digest for about in DETECTORS.values() for digest in about.sha256]
    assert len(set(digests)) == 2
    assert all(len(bytes.fromhex(digest)) == 32 for digest in digests)


def test_check_of_the_i3d(detector_file):
    # Black and white differ by 255 in each of the stand-in's 400 outputs; this scale gives the true distance.
    scale = (module.I3D_CHECK / (400 * 255**2)) ** 0.5
    assert check_i3d(Detector(detector_file("i3d", scale=scale))) == pytest.approx(module.I3D_CHECK, rel=1e-4)
    with pytest.raises(MetricError, match=r"157.36\d apart instead of 151.256; it is not the TorchScript I3D"):
        check_i3d(Detector(detector_file("i3d", scale=1.02 * scale)))


def write(path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


def write_state_dict(path) -> str:
    torch.save({"weight": torch.zeros(2)}, path)
    return str(path)


@pytest.mark.parametrize("kind", DETECTORS)
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: str(p), "does not exist; give the path of the TorchScript {title}"),
        (lambda p: "https://example.com/i3d.pt", "is an address; download the file"),
        (lambda p: write(p, b"\n<!DOCTYPE html><html><head>"), "is a web page"),
        (lambda p: write(p, b"PK\x03\x04 cut off"), "not a TorchScript file"),
        (lambda p: write(p, b""), "not a TorchScript file"),
        (write_state_dict, "not a TorchScript file.*give the TorchScript {title}"),
    ],
    ids=["absent", "address", "html", "damaged", "empty", "state-dict"],
)
def test_wrong_files_are_refused_in_one_line(tmp_path, kind, make, message):
    with pytest.raises(MetricError, match=message.format(title=DETECTORS[kind].title)) as caught:
        Detector(make(tmp_path / "detector.pt"), kind=kind)
    assert str(caught.value).startswith("--detector ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "wrong", "message"),
    [
        ("i3d", TooFewOutputs(), r"returned \[1, 3\] for 1 clips instead of \[1, 400\].*logits of Kinetics-400"),
        ("i3d", OtherSignature(), "called with rescale, resize and return_features"),
        ("c3d", TooFewOutputs(), r"returned \[1, 3\] for 1 clips instead of \[1, 101\].*classes of UCF-101"),
        ("inception", OtherSignature(), "called with return_features"),
    ],
    ids=["i3d-outputs", "i3d-signature", "c3d-outputs", "inception-signature"],
)
def test_wrong_modules_are_refused_in_one_line(save_script, kind, wrong, message):
    with pytest.raises(MetricError, match=message) as caught:
        Detector(save_script(wrong), kind=kind)
    assert "\n" not in str(caught.value)


class OutOfMemory(torch.nn.Module):
    def forward(self, clips):
        return torch.zeros(1 << 60)


def test_a_lack_of_memory_is_not_taken_for_a_wrong_file(save_script):
    with pytest.raises(RuntimeError, match="can't allocate memory") as caught:
        Detector(save_script(OutOfMemory()), kind="c3d")
    assert not isinstance(caught.value, MetricError)
    assert sentence(caught.value).startswith("out of memory (")


def test_unsupported_clip_lengths_are_refused(save_script):
    detector = Detector(save_script(OnlySixteenFrames()), kind="c3d")
    assert detector(random_clips()).shape == (3, 101)
    with pytest.raises(MetricError, match=r"failed on clips of 15 frames of 8x8.*called without options"):
        detector(random_clips(frames=15))


def test_unknown_kinds_are_refused():
    with pytest.raises(MetricError, match="'i4d' is not one of i3d, c3d, inception"):
        Detector("i3d.pt", kind="i4d")


ALL = ["fvd4_16f", "kvd4_16f", "isv16", "fid4", "rfvd4_16f"]


@pytest.mark.parametrize(
    ("values", "names", "files"),
    [
        ([], ["rfvd4_16f"], {}),
        (["a.pt"], ["rfvd4_16f"], {}),
        (["a.pt"], ["fvd4_16f", "kvd4_16f"], {"i3d": "a.pt"}),
        ([Path("a=b,c.pt")], ["isv16"], {"c3d": "a=b,c.pt"}),
        (["i3d=a.pt", "c3d=b.pt", "inception=c.pt"], ALL, {"i3d": "a.pt", "c3d": "b.pt", "inception": "c.pt"}),
        (["i3d=a.pt,c3d=b.pt,inception=c,d.pt"], ALL, {"i3d": "a.pt", "c3d": "b.pt", "inception": "c,d.pt"}),
        (["i3d=a.pt", "b.pt"], ["fvd4_16f", "isv16"], {"i3d": "a.pt", "c3d": "b.pt"}),
        (["i3d=a.pt", "i3d=a.pt"], ["fvd4_16f"], {"i3d": "a.pt"}),
    ],
    ids=["none", "not-needed", "bare", "odd-name", "named", "joined", "rest", "twice"],
)
def test_files_of_kinds(values, names, files):
    assert detector_files(values, [parse(name) for name in names]) == files


@pytest.mark.parametrize(
    ("values", "names", "message"),
    [
        ([], ["fvd4_16f"], "fvd4_16f needs the TorchScript I3D of StyleGAN-V: give it with --detector i3d=FILE"),
        (["i3d=a.pt"], ["fvd4_16f", "isv16"], "isv16 needs the TorchScript C3D"),
        (["a.pt"], ["fvd4_16f", "kvd4_16f", "isv16"], "KIND=FILE, since fvd4_16f needs i3d and isv16 needs c3d"),
        (["a.pt", "b.pt"], ["fvd4_16f"], "--detector a.pt: say what it is"),
        (["i3d=a.pt", "i3d=b.pt"], ["fvd4_16f"], "i3d already has a.pt"),
    ],
    ids=["none", "one-missing", "unclear", "two-bare", "contradiction"],
)
def test_ambiguous_files_are_refused(values, names, message):
    with pytest.raises(MetricError, match=message):
        detector_files(values, [parse(name) for name in names])
