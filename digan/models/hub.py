"""Finding and reading saved generators: files, run folders, folders in the hub's layout, or the Hugging Face hub."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from digan.config import GeneratorConfig, option_range
from digan.errors import NetworkError, NetworkNotFound
from digan.files import parse_json
from digan.run_dir import known_fields, list_snapshots
from digan.run_results import WHICH, best_snapshot
from digan.tensor_files import LATENTS, read_tensors

_Network = TypeVar("_Network", bound=nn.Module)

WEIGHTS_FILE, CONFIG_FILE = "model.safetensors", "config.json"  # the hub's names
_PACKAGED = Path(__file__).parents[1] / "networks"  # with the model card of each beside it
_WEIGHT_TYPES = (torch.float32, torch.float16, torch.bfloat16)  # float32 holds every value of each
_REACH_TIMEOUT = 3.0  # seconds to wait for a connection to the hub
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class Network(NamedTuple):
    """Contents of a generator file."""

    config: GeneratorConfig
    tensors: dict[str, Tensor]
    metadata: dict[str, Any]  # the file's metadata except the configuration


def find_network(path: str | os.PathLike[str], which: str = "latest", **hub: Any) -> Path:
    """Return the generator file that `path` refers to, downloading it if it is on the hub.

    Args:
        path: a file; a run folder or its snapshots folder, for one of its snapshots; a folder with a
            model.safetensors; or, if no such path exists, the name of a network that comes with this package, such as
            `sky-64`, or `owner/name` of a repository on the Hugging Face hub.
        which: "latest" for the newest snapshot of a run, "best" for that with the best value of the run's first metric;
            without effect on other paths.
        hub: passed to `huggingface_hub.hf_hub_download`: revision, token, cache_dir, ...

    Raises:
        NetworkError: `which` is neither of the two.
        NetworkNotFound: there is no such file.
    """
    if which not in WHICH:
        raise NetworkError(f"which={which!r} names no snapshot; give {' or '.join(map(repr, WHICH))}.")
    local = Path(path)
    if local.is_file():
        return local
    if not local.is_dir():
        return packaged_networks().get(os.fspath(path)) or _download(os.fspath(path), hub)
    snapshots = list_snapshots(local)
    if snapshots and which == "best":
        return best_snapshot(local)
    candidates = [*snapshots, *local.glob(WEIGHTS_FILE)]
    if not candidates:
        raise NetworkNotFound(
            f"{path} holds no network-snapshot-*.safetensors, nor does its folder snapshots/, and no {WEIGHTS_FILE}."
        )
    return candidates[-1]


def packaged_networks() -> dict[str, Path]:
    """Return the generator files that come with this package, keyed by name."""
    return {file.stem: file for file in sorted(_PACKAGED.glob("*.safetensors"))}


def read_network(file: Path) -> Network:
    """Read a generator file, whose configuration is in its header or else in config.json in the same folder.

    Raises:
        NetworkError: the configuration is missing or malformed, or the file is damaged or holds latents.
    """
    try:
        tensors, header = read_tensors(file)
        if header.get("format") == json.dumps(LATENTS):
            raise NetworkError(
                f"{file} is not a network, but holds latents of `digan invert`: give it with --latents to `digan "
                "sample` or `digan explore`, and give here the network that it was made with."
            )
        metadata = {name: _value(text) for name, text in header.items() if name != "format"}
        values = metadata.pop("config", None)
        if values is None:
            values = known_fields(GeneratorConfig, parse_json((file.parent / CONFIG_FILE).read_bytes()))
        config = GeneratorConfig(**values)
        _check_metadata(metadata, config.num_classes)
        return Network(config, tensors, metadata)
    except NetworkError:
        raise
    except (OSError, TypeError, AttributeError, ValueError) as error:
        raise not_a_generator(file, str(error)) from error


def not_a_generator(file: Path, reason: str) -> NetworkError:
    """Return the error for a file that is not a usable generator; only the first line of `reason` is used."""
    reason = reason.strip().partition("\n")[0].rstrip(".:")
    return NetworkError(
        f"{file} is not a generator saved by this project, or is damaged ({reason}); give a network-snapshot file."
    )


class _WithoutValues(TorchFunctionMode):
    """Creates new parameters on "meta" like `torch.device("meta")`, which would import 900 modules."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in (torch.randn, torch.zeros):
            return torch.empty(*args, device="meta")
        if func is torch.full:
            return torch.empty(args[0], device="meta")
        return func(*args, **(kwargs or {}))


def filled(make: Callable[[], _Network], state: Mapping[str, Tensor], finite: bool = True) -> _Network:
    """Build a network with `make` and load a state dict into it, in evaluation mode.

    They are first compared without allocating memory, since the sizes in a file need not be consistent.

    Args:
        make: builds the network.
        state: its state, in float32 or a type whose values float32 holds exactly.
        finite: False accepts values that are not finite.

    Raises:
        RuntimeError: they do not fit.
        ValueError: a tensor has another type, or a value is not finite.
    """
    with _WithoutValues():
        make().load_state_dict(state, assign=True)
    for name, tensor in state.items():
        if tensor.dtype not in _WEIGHT_TYPES:
            raise ValueError(f"{name} is of type {str(tensor.dtype).removeprefix('torch.')}, not float32")
        if finite and not tensor.isfinite().all():
            raise ValueError(f"{name} holds values that are not finite: training diverged")
    network = make()
    network.load_state_dict(state)
    return network.eval()


def _check_metadata(metadata: dict[str, Any], num_classes: int) -> None:
    """Check the entries that the commands use; other entries may hold anything."""
    clips = metadata.get("clips_seen", 0)
    if not isinstance(clips, int) or clips < 0:
        raise TypeError(f"its number of clips seen is {clips!r}")
    data = metadata.get("data") or {}
    if not isinstance(data, dict) or not isinstance(data.get("split", ""), str):
        raise TypeError("the description of its training data is malformed")
    for name in ("frames", "stride", "overlap"):
        value = data.get(name)
        if value is not None and (not isinstance(value, int) or option_range(name).problem(value)):
            raise TypeError(f"the {name} of its training data is {value!r}")
    names = data.get("class_names") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TypeError("the class names of its training data are malformed")
    if num_classes and names and len(names) != num_classes:
        raise ValueError(f"it has {num_classes} classes, but {len(names)} class names")


def _value(text: str) -> Any:
    """Parse a metadata value; files of other projects may hold text that is not JSON."""
    try:
        return parse_json(text)
    except ValueError:
        return text


def _download(name: str, hub: dict[str, Any]) -> Path:
    if not _HUB_ID.fullmatch(name):
        packaged = "".join(f"{known}, " for known in packaged_networks())
        raise NetworkNotFound(
            f"{name} does not exist: give a network-snapshot file, the folder of a run, {packaged}or owner/name of a "
            "repository on the Hugging Face hub."
        )
    if problem := _connection_problem():
        hub = {**hub, "local_files_only": True}  # the hub's cache; the client would try to connect for half a minute
    try:
        file = Path(hf_hub_download(name, WEIGHTS_FILE, **hub))
        with contextlib.suppress(EntryNotFoundError):  # this project's weights files hold their configuration
            hf_hub_download(name, CONFIG_FILE, **hub)  # stored in the same folder
        return file
    except Exception as error:  # the type depends on the HTTP client of the installed huggingface_hub
        reason = problem or str(error).strip().partition("\n")[0] or type(error).__name__
        raise NetworkNotFound(
            f"{name} does not exist here, and {WEIGHTS_FILE} of a repository of that name on the Hugging Face hub "
            f"could not be downloaded ({reason.rstrip('.')}): give the path of a network-snapshot or a run, or check "
            "the repository's name and the network."
        ) from error


def _connection_problem() -> str:
    """Return why the hub cannot be reached; "" if it can, or if a proxy or the offline mode make that unknown."""
    url = urllib.parse.urlsplit(constants.ENDPOINT)
    host = url.hostname or ""
    proxies = urllib.request.getproxies()
    if constants.HF_HUB_OFFLINE or (
        (url.scheme in proxies or "all" in proxies) and not urllib.request.proxy_bypass(host)
    ):
        return ""
    try:
        socket.create_connection((host, url.port or (80 if url.scheme == "http" else 443)), _REACH_TIMEOUT).close()
    except OSError as error:
        return f"{host} cannot be reached: {error.strerror or error}"
    return ""
