"""The table of a run: one line for each of our paths, within the width of a terminal."""

import pytest

from benchmarks import table


def row(path: str, seconds: float | None, **options) -> dict:
    options = {"case": "render N1", "dtype": "float32", "failure": "", **options}
    return {"path": path, "seconds": seconds, "quartiles": [seconds, seconds], "peak_bytes": 2**25, **options}


def line(*rows: dict) -> dict[str, str]:
    (result,) = table.lines(rows)
    return result


def test_a_line_has_the_ratios_to_naive_and_compiled():
    ours = row("ours", 0.1, quartiles=[0.09, 0.11], of_roofline=0.5, peak_bytes=2**24)
    assert line(row("naive", 1.0), row("naive, kept", 0.8), row("compiled", 0.25), ours) == {
        "what": "render N1",
        "type": "f32",
        "ours": "100 ms ±10%",
        "naive": "8.0x",
        "compiled": "2.5x",
        "limit": "50% roof",
        "memory": "16 MB (50%)",
    }


@pytest.mark.parametrize("kind", ["naive", "compiled"])
@pytest.mark.parametrize("variant", [" jvp", ", kept"])
def test_the_fastest_path_of_a_kind_counts(kind, variant):
    ours = row("ours", 0.5, peak_bytes=2**26)
    slow, fast = row(kind, 4.0, peak_bytes=2**25), row(f"{kind}{variant}", 2.0, peak_bytes=2**27)
    for paths in ((slow, fast, ours), (fast, slow, ours)):
        assert line(*paths)[kind] == "4.0x"
        assert line(*paths)["memory"] == ("64 MB (50%)" if kind == "naive" else "64 MB")
    failed = row(kind, None, failure="out of memory")
    assert line(failed, fast, ours)[kind] == "4.0x"
    assert line(failed, row(f"{kind}{variant}", None, failure="RuntimeError: no"), ours)[kind] == "OOM"


def test_several_paths_of_ours_have_a_line_each():
    paths = ("naive, float32", "ours, float32", "ours, bfloat16", "ours, kept")
    lines = table.lines([row(path, 1.0, dtype="", case="G forward + backward") for path in paths])
    names = [(each["what"], each["type"]) for each in lines]
    assert names == [("G fwd + bwd", "f32"), ("G fwd + bwd", "bf16"), ("G fwd + bwd, kept", "")]


def test_a_path_is_compared_with_rivals_of_its_own_type_or_of_float32():
    seconds = {"naive, float32": 8.0, "naive, bfloat16": 4.0, "compiled, bfloat16": 2.0}
    rows = [row(path, value, dtype="") for path, value in seconds.items()]
    wide, narrow = table.lines([*rows, *(row(f"ours, {name}", 1.0, dtype="") for name in ("float32", "bfloat16"))])
    assert (wide["naive"], wide["compiled"]) == ("8.0x", "")
    assert (narrow["naive"], narrow["compiled"]) == ("4.0x", "2.0x")
    (narrow,) = table.lines([rows[0], row("ours, bfloat16", 1.0, dtype="")])
    assert narrow["naive"] == "8.0x"


@pytest.mark.parametrize(
    ("failure", "cell"), [("out of memory", "OOM"), ("not measured: no time left", "-"), ("RuntimeError: no", "-")]
)
def test_rivals_that_failed(failure, cell):
    assert line(row("compiled", None, failure=failure), row("ours", 1.0))["compiled"] == cell


def test_our_failure_replaces_the_time():
    failure = "wrong result, 1e-1"
    assert line(row("ours", None, failure=failure)) == {"what": "render N1", "type": "f32", "ours": failure}


@pytest.mark.parametrize(
    ("seconds", "amount", "cell"),
    [(2.5, None, "2.5 s ±0%"), (2e-6, None, "2 µs ±0%"), (0.5, 16, "32 frames/s"), (0.001, 2, "2,000 frames/s")],
)
def test_times_and_rates(seconds, amount, cell):
    options = {"amount": [amount, "frames"]} if amount else {}
    assert line(row("ours", seconds, **options))["ours"] == cell


def test_limits_other_than_the_roofline_have_names():
    assert line(row("ours", 1.0, of_limits={"copy": 0.9, "clone": 3.0}))["limit"] == "90% copy"
    assert line(row("ours", 1.0, of_limits={"matrix product": 1.2}))["limit"] == "120% gemm"


def test_the_plain_table_fits_a_terminal():
    rows = [
        row("naive", 12.0, case="a name that is longer than " * 5),
        row("ours", 0.1, case="a name that is longer than " * 5),
    ]
    text = table.plain(table.lines([*rows, row("naive", 1.0), row("ours", 0.5)]))
    assert max(map(len, text.splitlines())) <= table.WIDTH
    assert "…" in text
    first, second, *_ = text.splitlines()
    assert first.split() == ["over", "over", "of", "the"]
    assert second.split() == list(table.COLUMNS)


def test_markdown_omits_empty_columns():
    text = table.markdown([{"what": "a", "ours": "1 s", "compiled": ""}, {"what": "b", "naive": "2x"}])
    assert text.splitlines() == [
        "| what | ours | over naive |",
        "|------|------|------------|",
        "| a    | 1 s  |            |",
        "| b    |      | 2x         |",
    ]
