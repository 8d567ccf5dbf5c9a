"""A metric's name is its protocol."""

import pytest

from digan.metrics import MetricError, MetricProtocol, parse


@pytest.mark.parametrize(
    ("name", "fields", "frame_indices"),
    [
        ("fvd2048_16f", ("fvd", 2048, 16, 1), list(range(16))),
        ("kvd2048_16f", ("kvd", 2048, 16, 1), list(range(16))),
        ("rfvd256_16f", ("rfvd", 256, 16, 1), list(range(16))),
        ("fvd2048_128f_subsample8f", ("fvd", 2048, 128, 8), list(range(0, 128, 8))),
        ("rfvd2_5f_subsample2f", ("rfvd", 2, 5, 2), [0, 2, 4]),
        ("isv2048", ("isv", 2048, 16, 1), list(range(16))),
        ("isv10000", ("isv", 10000, 16, 1), list(range(16))),
        ("isv512_32f_subsample2f", ("isv", 512, 32, 2), list(range(0, 32, 2))),
        ("isv512_16f_subsample2f", ("isv", 512, 16, 2), list(range(0, 16, 2))),
        ("fid2048", ("fid", 2048, 16, 1), list(range(16))),
        ("fid256_1f", ("fid", 256, 1, 1), [0]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_valid_names(name, fields, frame_indices):
    protocol = parse(name)
    assert protocol == MetricProtocol(*fields)
    assert protocol.name == name
    assert list(protocol.frame_indices) == frame_indices
    assert parse(protocol) is protocol
    assert protocol.needs_detector == (fields[0] != "rfvd")
    assert protocol.needs_reals == (fields[0] != "isv")


@pytest.mark.parametrize(
    ("name", "full"), [("fid", "fid2048"), ("isv", "isv2048"), ("isv2048_16f", "isv2048"), ("fid_8f", "fid2048_8f")]
)
def test_short_and_long_names_mean_the_same(name, full):
    assert parse(name) == parse(full)
    assert parse(name).name == full


@pytest.mark.parametrize(
    "name",
    [
        "",
        "fvd",
        "rfvd256",
        "fvd2048",
        "fvd2048_16",
        "fvd0_16f",
        "FVD2048_16f",
        "fvd2048_16f ",
        "fid50k",
        "fvd_16f",
        "fid64_subsample2f",
    ],
)
def test_other_names_list_the_valid_forms(name):
    with pytest.raises(
        MetricError, match=r"fvd<clips>_<frames>f, kvd<clips>.*isv<clips>, fid<clips>.*fvd2048_128f_subsample8f"
    ):
        parse(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [("fvd1_16f", "at least 2 clips"), ("fvd2_16f_subsample17f", "every 17th of only 16 frames")],
)
def test_impossible_protocols(name, message):
    with pytest.raises(MetricError, match=message):
        parse(name)
