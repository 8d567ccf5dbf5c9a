"""The table of a run: a line for each case, our time and its ratios to the rivals; as plain text and in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.records import Record, by_case

WIDTH = 100  # columns of a terminal
COLUMNS = ("what", "type", "ours", "naive", "compiled", "limit", "memory")
# Ratios to smaller peaks are not reported: the C library rounds up.
SMALLEST = 2**24  # bytes
_SHORT = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
_UNITS = ((1, "s"), (1e-3, "ms"), (1e-6, "µs"))
_LIMITS = {"matrix product": "gemm", "convolutions": "conv", "imports": "import"}
_HEADS = {
    "what": ("", "what"),
    "naive": ("over", "naive"),
    "compiled": ("over", "compiled"),
    "limit": ("of the", "limit"),
}


def lines(rows: Sequence[Record]) -> list[dict[str, str]]:
    """Return the cells of every line, by the names of `COLUMNS`."""
    return [line for paths in by_case(rows) for line in _case(paths)]


def _case(paths: Sequence[Record]) -> Iterator[dict[str, str]]:
    ours = [row for row in paths if row["path"].startswith("ours")]
    for row in ours:
        naive, compiled = (rival(paths, kind, row) for kind in ("naive", "compiled"))
        name, variant, dtype = row["case"], row["path"].removeprefix("ours").strip(", "), row["dtype"]
        if variant in _SHORT:
            variant, dtype = "", variant
        name = ", ".join(filter(None, (name.replace("backward", "bwd").replace("forward", "fwd"), variant)))
        line = {"what": name, "type": _SHORT.get(dtype, dtype)}
        if row["seconds"] is None:
            yield line | {"ours": row["failure"]}
            continue
        yield line | {
            "ours": _time(row),
            "naive": _ratio(naive, row),
            "compiled": _ratio(compiled, row),
            "limit": _limit(row),
            "memory": _memory(naive, row),
        }


def rival(paths: Sequence[Record], kind: str, ours: Record) -> Record | None:
    """Return the path of a kind that ours is compared with: the fastest one of the same type, or else of float32."""
    own = _type(ours)
    rivals = [row for row in paths if row["path"].startswith(kind)]
    alike = [row for row in rivals if own and _type(row) == own]
    return fastest(alike or [row for row in rivals if _type(row) in (None, "float32")])


def _type(row: Record) -> str | None:
    """Return the type that a path names, if it names one: those of a case without a type do."""
    name = row["path"].partition(", ")[2]
    return name if name in _SHORT else None


def fastest(rows: Sequence[Record]) -> Record | None:
    """Return the row with the shortest time, or the first one if all of them failed; None if there are none."""
    return min(rows, key=lambda row: float("inf") if row["seconds"] is None else row["seconds"], default=None)


def _time(row: Record) -> str:
    seconds = row["seconds"]
    if "amount" in row:
        amount, unit = row["amount"]
        rate = amount / seconds
        return f"{rate:,.0f} {unit}/s" if rate >= 100 else f"{rate:.3g} {unit}/s"
    size, unit = next((unit for unit in _UNITS if seconds >= unit[0]), _UNITS[-1])
    low, high = row["quartiles"]
    return f"{seconds / size:.3g} {unit} ±{(high - low) / 2 / seconds:.0%}"


def _ratio(other: Record | None, ours: Record) -> str:
    if other is None:
        return ""
    if other["seconds"] is None:
        return {"out of memory": "OOM"}.get(other["failure"], "-")
    ratio = other["seconds"] / ours["seconds"]
    return f"{ratio:.0f}x" if ratio >= 100 else f"{ratio:.2g}x" if ratio >= 10 else f"{ratio:.1f}x"


def _limit(row: Record) -> str:
    if "of_roofline" in row:
        return f"{row['of_roofline']:.0%} roof"
    for name, share in row.get("of_limits", {}).items():
        return f"{share:.0%} {_LIMITS.get(name, name)}"
    return ""


def _memory(naive: Record | None, row: Record) -> str:
    if not row["peak_bytes"]:
        return ""
    text = f"{row['peak_bytes'] / 2**20:.0f} MB"
    if naive is None or naive["seconds"] is None or naive["peak_bytes"] < SMALLEST:
        return text
    return f"{text} ({row['peak_bytes'] / naive['peak_bytes']:.0%})"


def plain(lines: Sequence[dict[str, str]]) -> str:
    """Return the table for a terminal; names that are too long are cut."""
    heads = {name: _HEADS.get(name, ("", name)) for name in COLUMNS}
    widths = {c: max([*map(len, heads[c]), *(len(line.get(c, "")) for line in lines)]) for c in COLUMNS[1:]}
    room = WIDTH - sum(widths.values()) - 2 * len(widths)
    widths = {"what": max(8, min(room, max((len(line["what"]) for line in lines), default=8)))} | widths

    def row(cells: dict[str, str]) -> str:
        first, *rest = (cells.get(c, "") for c in COLUMNS)
        if len(first) > widths["what"]:
            first = first[: widths["what"] - 1] + "…"
        cut = [first.ljust(widths["what"]), *(cell.rjust(widths[c]) for c, cell in zip(COLUMNS[1:], rest, strict=True))]
        return "  ".join(cut).rstrip()[:WIDTH]

    return "\n".join([*(row({c: heads[c][i] for c in COLUMNS}) for i in range(2)), *map(row, lines)])


def markdown(lines: Sequence[dict[str, str]]) -> str:
    """Return rows as a Markdown table, with columns in the order of their first occurrence; omit empty columns."""
    keys = dict.fromkeys(key for line in lines for key in line)
    columns = [key for key in keys if any(line.get(key) for line in lines)]
    heads = {c: " ".join(filter(None, _HEADS.get(c, (c,)))) for c in columns}
    widths = {c: max(len(heads[c]), *(len(line.get(c, "")) for line in lines)) for c in columns}

    def row(cells: dict[str, str]) -> str:
        return "| " + " | ".join(cells.get(c, "").ljust(widths[c]) for c in columns) + " |"

    return "\n".join([row(heads), "|" + "|".join("-" * (widths[c] + 2) for c in columns) + "|", *map(row, lines)])
