"""Check the tag and the contents of the wheel whose path is the only argument. Run in a checkout."""

import re
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

wheel = Path(sys.argv[1])
tag = "py3-none-" + re.sub(r"[-.]", "_", sysconfig.get_platform())
assert wheel.stem.endswith(f"-{tag}"), f"{wheel.name} is not tagged {tag}"
with zipfile.ZipFile(wheel) as archive:
    names = {name for name in archive.namelist() if ".dist-info/" not in name}
    (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/WHEEL"))
    assert f"Tag: {tag}" in archive.read(metadata).decode().splitlines()

libraries = {name for name in names if name.endswith(".so")}
tracked = subprocess.run(["git", "ls-files", "digan", "kernels"], capture_output=True, text=True, check=True).stdout
expected = {name.removeprefix("kernels/") for name in tracked.splitlines()}
assert names - libraries == expected, f"{wheel.name} differs from the checkout in {(names - libraries) ^ expected}"
assert any(name.endswith("/cpu/_native.so") for name in libraries), f"{wheel.name} holds only {sorted(libraries)}"
assert all(name.endswith("/_native.so") for name in libraries), f"{wheel.name} holds {sorted(libraries)}"
print(f"{wheel.name} holds {len(expected)} files of the checkout and {', '.join(sorted(libraries))}")
