"""Messages of the page: what they mean, and that nothing in them is beyond its bounds."""

import json

import pytest

from digan.errors import ConfigError
from digan.explore.messages import Content, parse_file_request, parse_request

KINDS = ("frames", "slice", "enlarged", "motions")


@pytest.mark.parametrize("kind", KINDS)
def test_a_request_holds_what_the_message_says(kind, message):
    sent = message(kind)
    request = parse_request(json.dumps(sent), num_classes=3)
    assert (request.id, request.generation, request.motion) == (1, 2, 9)
    assert request.content == Content(3, (4, 5, 6, 7), (0.25, 0.5), 0.7, 1)
    for name in set(sent) & {"times", "size", "line", "span", "motions", "side", "time", "sharp"}:
        value = getattr(request, name)
        assert (list(value) if isinstance(value, tuple) else value) == sent[name]
    if "x" in sent:
        assert (list(request.window.x), list(request.window.y)) == (sent["x"], sent["y"])


def test_an_unconditional_network_has_no_label(message):
    assert parse_request(json.dumps(message()), num_classes=0).content.label is None


@pytest.mark.parametrize(
    ("pad", "contents", "expected"),
    [
        ((0, 0), (4, 5, 6, 7), {4: 1.0}),
        ((1, 0), (4, 5, 6, 7), {5: 1.0}),
        ((0, 1), (4, 5, 6, 7), {6: 1.0}),
        ((1, 1), (4, 5, 6, 7), {7: 1.0}),
        ((0.3, 0.4), (4, 5, 6, 7), {4: 0.42, 5: 0.18, 6: 0.28, 7: 0.12}),
        ((0.5, 0.5), (4, 4, 6, 4), {4: 0.75, 6: 0.25}),
    ],
)
def test_the_pad_mixes_the_corners(pad, contents, expected):
    plan = Content(0, contents, pad, 1.0, None).plan(motion=8)
    assert dict(zip(plan.contents, plan.weights, strict=True)) == expected
    assert plan.motion == 8


WRONG = [
    ("frames", {"kind": "paths"}, "kind must be one of frames, slice, enlarged, motions"),
    ("frames", {"kind": ["frames"]}, "kind must be one of"),
    ("frames", {"id": -1}, "id -1 must be at least 0"),
    ("frames", {"generation": 1.5}, "generation must be an integer"),
    ("frames", {"seed": True}, "seed must be an integer"),
    ("frames", {"seed": None}, "seed must be an integer"),
    ("frames", {"seed": 2**63}, "seed 9223372036854775808 must be at most"),
    ("frames", {"seed": 10**4000}, "seed 1000"),
    ("frames", {"contents": [1, 2, 3]}, "contents must be a list of 4 numbers"),
    ("frames", {"contents": "1234"}, "contents must be a list of 4 numbers"),
    ("frames", {"contents": [1, 2, 3, 2**31]}, "contents 2147483648 must be at most"),
    ("frames", {"pad": [0.5, 1.01]}, "pad 1.01 must be at most 1"),
    ("frames", {"psi": "1"}, "psi must be a number"),
    ("frames", {"psi": float("nan")}, "psi nan must be a finite number"),
    ("frames", {"psi": 11}, "psi 11 must be at most 10"),
    ("frames", {"label": 3}, "label 3 must be at most 2"),
    ("frames", {"motion": -1}, "motion -1 must be at least 0"),
    ("frames", {"x": [0.0, 0.000001]}, "x must extend over at least 1e-05"),
    ("frames", {"y": [0.0, 1e9]}, "y 1000000000.0 must be at most 1,000"),
    ("frames", {"times": []}, "times must be a list of 1 to 8 numbers"),
    ("frames", {"times": [0.0] * 9}, "times must be a list of 1 to 8 numbers"),
    ("frames", {"times": [float("inf")]}, "times inf must be a finite number"),
    ("frames", {"size": [0, 10]}, "size 0 must be at least 1"),
    ("frames", {"size": [2049, 10]}, "size 2049 must be at most 2,048"),
    ("frames", {"sharp": 1}, "sharp must be true or false"),
    ("frames", {"sharp": True}, "sharp must be true or false, and is for a single time"),
    ("slice", {"line": [0, 0, 0, 0]}, "line must lead from one point to another"),
    ("slice", {"line": [0, 0, 1]}, "line must be a list of 4 numbers"),
    ("slice", {"size": [10, 5000]}, "size 5000 must be at most 2,048"),
    ("slice", {"span": [0, 1e7]}, "span 10000000.0 must be at most 1,000"),
    ("enlarged", {"time": None}, "time must be a number"),
    ("motions", {"motions": list(range(13))}, "motions must be a list of 1 to 12 numbers"),
    ("motions", {"side": 97}, "side 97 must be at most 96"),
]


@pytest.mark.parametrize(("kind", "changes", "problem"), WRONG, ids=lambda value: str(value)[:40])
def test_a_wrong_request_is_one_sentence(kind, changes, problem, message):
    with pytest.raises(ConfigError) as refused:
        parse_request(json.dumps(message(kind, **changes)), num_classes=3)
    text = str(refused.value)
    assert text.startswith(problem)
    assert text.endswith(".")
    assert len(text) < 200


@pytest.mark.parametrize("text", ["", "{", "[" * 20000, "nonsense", "[]", "1", "null", '"frames"'])
def test_a_text_that_is_no_message_is_one_sentence(text):
    for parse in (parse_request, parse_file_request):
        with pytest.raises(ConfigError, match=r"^a message must be (JSON|a JSON object)\.$"):
            parse(text, 0)


def test_a_file_holds_what_the_message_says(message):
    request = parse_file_request(json.dumps(message("file", format="gif")), num_classes=3)
    assert (request.format, request.span, request.frames, request.fps, request.size) == ("gif", (0, 2), 5, 8, (32, 32))
    assert request.line is None
    assert parse_file_request(json.dumps(message("file", format="slice")), 3).line == (-1, -0.5, 1, 0.5)
    large = message("file", format="slice", size=[1024, 1024], frames=1000)  # one row for each time
    assert parse_file_request(json.dumps(large), 3).frames == 1000


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"format": "../../etc/passwd"}, "format must be one of mp4, gif, png, slice"),
        ({"frames": 1001}, "frames 1001 must be at most 1,000"),
        ({"fps": 0}, "fps 0 must be at least 0.1"),
        ({"size": [1025, 8]}, "size 1025 must be at most 1,024"),
        ({"size": [1024, 1024], "frames": 1000}, "1000 frames of 1024x1024 pixels are too many"),
        ({"span": [0]}, "span must be a list of 2 numbers"),
        ({"format": "slice", "line": None}, "line must be a list of 4 numbers"),
    ],
)
def test_a_wrong_file_is_one_sentence(changes, problem, message):
    with pytest.raises(ConfigError) as refused:
        parse_file_request(json.dumps(message("file", **changes)), num_classes=3)
    assert str(refused.value).startswith(problem)
