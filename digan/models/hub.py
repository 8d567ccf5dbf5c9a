"""Finding and reading saved generators: files, run folders, folders in the hub's layout, or the Hugging Face hub."""

from __future__ import annotations

import contextlib
import json
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from torch import Tensor

from digan.config import GeneratorConfig
from digan.errors import NetworkError, NetworkNotFound
from digan.run_dir import known_fields, list_snapshots
from digan.tensor_files import read_tensors

WEIGHTS_FILE, CONFIG_FILE = "model.safetensors", "config.json"  # the hub's names
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

MODEL_CARD = """---
{{ card_data }}
---

# A video generator

DIGAN (Dynamics-aware Implicit GAN, ICLR 2022) generates a video as a function of (x, y, t). This generator was trained
at {{ config.resolution }}x{{ config.resolution }} pixels
{%- if clips_seen %} on {{ "{:,}".format(clips_seen) }} clips{% endif %}
{%- if config.num_classes %} of {{ config.num_classes }} classes{% endif %}. It renders any time, resolution and window.

```python
import torch
from digan import Generator

g = Generator.from_pretrained("{{ repo_id }}")
z_content, z_motion = torch.randn(2, 4, g.config.z_dim)
{%- if config.num_classes %}
labels = torch.arange(4) % g.config.num_classes
frames = g(z_content, z_motion, torch.linspace(0, 1, 16), labels)  # [4, 16, 3, R, R] in about [-1, 1]
{%- else %}
frames = g(z_content, z_motion, torch.linspace(0, 1, 16))  # [4, 16, 3, R, R] in about [-1, 1]
{%- endif %}
```
"""


class Network(NamedTuple):
    """Contents of a generator file."""

    config: GeneratorConfig
    tensors: dict[str, Tensor]
    metadata: dict[str, Any]  # the file's metadata except the configuration


def find_network(path: str | os.PathLike[str], **hub: Any) -> Path:
    """Return the generator file that `path` refers to, downloading it if it is on the hub.

    Args:
        path: a file; a run folder or its snapshots folder, for the newest snapshot; a folder with a
            model.safetensors; or, if no such path exists, `owner/name` of a repository on the Hugging Face hub.
        hub: passed to `huggingface_hub.hf_hub_download`: revision, token, cache_dir, ...

    Raises:
        NetworkNotFound: there is no such file.
    """
    local = Path(path)
    if local.is_file():
        return local
    if not local.is_dir():
        return _download(os.fspath(path), hub)
    candidates = [*list_snapshots(local), *local.glob(WEIGHTS_FILE)]
    if not candidates:
        raise NetworkNotFound(
            f"{path} holds no network-snapshot-*.safetensors, nor does its folder snapshots/, and no {WEIGHTS_FILE}."
        )
    return candidates[-1]


def read_network(file: Path) -> Network:
    """Read a generator file, whose configuration is in its header or else in config.json in the same folder.

    Raises:
        NetworkError: the configuration is missing, or the file is damaged.
    """
    try:
        tensors, header = read_tensors(file)
        metadata = {name: _value(text) for name, text in header.items() if name != "format"}
        config = metadata.pop("config", None)
        if config is None:
            config = known_fields(GeneratorConfig, json.loads((file.parent / CONFIG_FILE).read_text()))
        return Network(GeneratorConfig(**config), tensors, metadata)
    except (OSError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise not_a_generator(file, str(error)) from error


def not_a_generator(file: Path, reason: str) -> NetworkError:
    """Return the error for a file that is not a generator, or a damaged one."""
    return NetworkError(
        f"{file} is not a generator saved by this project, or is damaged ({reason.partition(chr(10))[0].rstrip('.')}); "
        "give a network-snapshot file."
    )


def _value(text: str) -> Any:
    """Parse a metadata value; files of other projects may hold text that is not JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _download(name: str, hub: dict[str, Any]) -> Path:
    if not _HUB_ID.fullmatch(name):
        raise NetworkNotFound(
            f"{name} does not exist: give a network-snapshot file, the folder of a run, or owner/name of a repository "
            "on the Hugging Face hub."
        )
    try:
        file = Path(hf_hub_download(name, WEIGHTS_FILE, **hub))
        with contextlib.suppress(EntryNotFoundError):  # this project's weights files hold their configuration
            hf_hub_download(name, CONFIG_FILE, **hub)  # stored in the same folder
        return file
    except Exception as error:  # the type depends on the HTTP client of the installed huggingface_hub
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise NetworkNotFound(
            f"{name} does not exist here, and {WEIGHTS_FILE} of a repository of that name on the Hugging Face hub "
            f"cannot be had ({reason.rstrip('.')}): give the path of a network-snapshot or a run, or check the "
            "repository's name and the network."
        ) from error
