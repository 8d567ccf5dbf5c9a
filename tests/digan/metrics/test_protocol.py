"""A metric's name is its protocol."""

import pytest

from digan.metrics import MetricError, Protocol, parse


@pytest.mark.parametrize(
    ("name", "fields", "frame_indices"),
    [
        ("fvd2048_16f", ("fvd", 2048, 16, 1), list(range(16))),
        ("kvd2048_16f", ("kvd", 2048, 16, 1), list(range(16))),
        ("rfvd256_16f", ("rfvd", 256, 16, 1), list(range(16))),
        ("fvd2048_128f_subsample8f", ("fvd", 2048, 128, 8), list(range(0, 128, 8))),
        ("rfvd2_5f_subsample2f", ("rfvd", 2, 5, 2), [0, 2, 4]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_valid_names(name, fields, frame_indices):
    protocol = parse(name)
    assert protocol == Protocol(*fields)
    assert protocol.name == name
    assert list(protocol.frame_indices) == frame_indices
    assert parse(protocol) is protocol
    assert protocol.needs_detector == (fields[0] != "rfvd")


@pytest.mark.parametrize(
    "name", ["", "fvd", "fvd2048", "fvd2048_16", "fvd0_16f", "FVD2048_16f", "fvd2048_16f ", "isv2048"]
)
def test_other_names_list_the_valid_forms(name):
    with pytest.raises(MetricError, match=r"fvd<clips>_<frames>f, kvd<clips>.*fvd2048_128f_subsample8f"):
        parse(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [("fvd1_16f", "at least 2 clips"), ("fvd2_16f_subsample17f", "every 17th of only 16 frames")],
)
def test_impossible_protocols(name, message):
    with pytest.raises(MetricError, match=message):
        parse(name)
