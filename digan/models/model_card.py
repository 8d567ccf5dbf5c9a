"""The model card: the README.md that `save_pretrained` and `push_to_hub` write beside a generator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from digan.config import RESUME_MAY_CHANGE, TrainConfig, flag
from digan.errors import ConfigError
from digan.run_dir import is_run, list_metrics, read_config
from digan.run_results import own_results

_PATHS = ("init", "split_list")  # shown without their folders, which say nothing to readers and may be private

MODEL_CARD = """---
{{ card_data }}
---

# {{ title or "A video generator" }}

DIGAN (Dynamics-aware Implicit GAN, ICLR 2022) generates a video as a function of (x, y, t). This generator was trained
at {{ config.resolution }}x{{ config.resolution }} pixels
{%- if clips_seen %} on {{ "{:,}".format(clips_seen) }} clips ({{ "{:,g}".format(clips_seen / 1000) }} kimg){% endif %}
{%- if config.num_classes %} of {{ config.num_classes }} classes{% endif %}. It renders any time, resolution and window.

## Use

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

Or on the command line: `digan sample --network {{ repo_id }} --outdir out`.

## Training data

{{ dataset or "*[to be filled in: which videos, where they come from, and under which licence]*" }}
{% if data.frames %}
Clips of {{ data.frames }} frames at a frame stride of {{ data.stride or 1 }}
{%- if data.overlap %}, from windows that share {{ data.overlap }} frames{% endif %}
{%- if data.split %}, of the split `{{ data.split }}`{% endif %}.
{%- if config.num_classes and data.class_names %}
Classes: {{ data.class_names | join(", ") }}.{% endif %}
{% endif %}
## Training
{% if options is none %}
*[to be filled in: options, hardware and time]*
{% elif options %}
Options that differ from the published ones:

| option | value |
|---|---|
{%- for name, value in options.items() %}
| `{{ name }}` | `{{ value }}` |
{%- endfor %}
{% else %}
With the published options.
{% endif %}
## Evaluation
{% if metrics %}
| metric | value | better |
|---|---|---|
{%- for name, metric in metrics.items() %}
| `{{ name }}` | {{ "%.4g" | format(metric.value) }} | {{ metric.better or "smaller" }} |
{%- endfor %}

The name of a metric is its protocol: kind, number of clips, frames, stride. `rfvd` compares networks of one project.
{% else %}
*[to be filled in: metrics, with their protocols]*
{% endif %}
## Limits

{{ limits or "*[to be filled in: failures that you have seen, and what the network must not be used for]*" }}

- Videos resemble the training videos, with their biases; people and places in them may be recognisable.
- Times beyond 0 to 1 and windows beyond -1 to 1 are extrapolated: quality falls with the distance.

## Licence

{{ license or "*[to be filled in: it depends on that of the training videos]*" }}
"""


def card_values(source: Path | None, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is known about a generator, by the names in the template.

    Args:
        source: the file from which it was loaded. Options and metrics are known if it is a snapshot of a run.
        metadata: the metadata of the file.
    """
    values: dict[str, Any] = {"clips_seen": metadata.get("clips_seen"), "data": metadata.get("data") or {}}
    run = source.absolute().parent.parent if source else None
    known = run is not None and is_run(run)
    options = _options(run) if known else None
    return values | {"options": options, "metrics": _metrics(run, source.name) if known else {}}


def _options(run: Path) -> dict[str, Any] | None:
    """Return the options that affect a run's numbers and differ from the published ones; None if they are damaged."""
    try:
        config = read_config(run)
    except ConfigError:
        return None
    names = [field.name for field in fields(config) if field.name not in RESUME_MAY_CHANGE]
    values = {name: getattr(config, name) for name in names}
    changed = {name: value for name, value in values.items() if value != getattr(TrainConfig, name)}
    return {flag(name): Path(value).name if name in _PATHS else value for name, value in changed.items()}


def _metrics(run: Path, snapshot: str) -> dict[str, dict[str, Any]]:
    """Return the results of a run for one of its snapshots, by metric."""
    results = {name: own_results(run, name) for name in list_metrics(run)}
    return {name: r for name, found in results.items() for r in found if r.get("snapshot") == snapshot}
