"""`python -m fused_inr`: print versions, devices, backends, and the backend that serves each op on this machine."""

import importlib.util
import platform
from importlib.metadata import PackageNotFoundError, version

import torch

import fused_inr
from fused_inr.ops.dispatch import backends, service


def versions() -> list[tuple[str, str]]:
    """Return (name, version) of the software that affects speed."""
    try:
        triton = version("triton")
    except PackageNotFoundError:
        # A build of Triton may lack package metadata or be packaged under another name.
        triton = "installed" if importlib.util.find_spec("triton") else "not installed"
    return [
        ("fused_inr", fused_inr.__version__),
        ("python", platform.python_version()),
        ("torch", torch.__version__),
        ("triton", triton),
    ]


def devices() -> list[tuple[str, str]]:
    """Return (device, description) of the CPU and every CUDA device."""
    rows = [("cpu", f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")]
    for index in range(torch.cuda.device_count()):
        props = torch.cuda.get_device_properties(index)
        size = f"{props.total_memory / 2**30:.0f} GiB"
        rows.append((f"cuda:{index}", f"{props.name}, compute capability {props.major}.{props.minor}, {size}"))
    return rows


def services() -> list[tuple[str, str]]:
    """Return (op, line) for each op and device type: the backend that serves it, and why no faster one does."""
    types = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    lines: dict[str, list[str]] = {}
    for device in types:
        for op, (name, reasons) in service(device).items():
            because = "; ".join(f"not {other}: {reason}" for other, reason in reasons.items())
            lines.setdefault(op, []).append(f"{device} tensors: {name}" + (f" ({because})" if because else ""))
    return [(op, line) for op, op_lines in lines.items() for line in op_lines]


def main() -> None:
    """Print the report."""
    sections = {"versions": versions(), "devices": devices(), "backends": list(backends().items()), "ops": services()}
    width = max(len(name) for rows in sections.values() for name, _ in rows)
    for title, rows in sections.items():
        print(title)
        for name, text in rows:
            print(f"  {name:{width}}  {text}")


if __name__ == "__main__":
    main()
