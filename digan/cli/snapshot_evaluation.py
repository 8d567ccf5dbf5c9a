"""`digan evaluate --snapshots all`: the metrics of every snapshot of a run, as curves, and the best snapshot."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from digan import metrics
from digan.cli.evaluation import Evaluation, OnePerVideo
from digan.cli.terminal import value_bars
from digan.config import flag
from digan.data.clips import Clips
from digan.data.training_data import DEMO_FOLDER
from digan.errors import ConfigError, NetworkError
from digan.files import checksum
from digan.metrics import ClipSource, MetricProtocol, RandomFeatures
from digan.metrics.experiments import Maker, Model
from digan.models.generator import Generator
from digan.run_dir import list_snapshots, number_of, read_config, run_of
from digan.run_results import BEST, best_result, own_context, own_results, refresh_best
from digan.training.curves import CURVES, CurveWriter
from digan.wording import counted


def complete(args: argparse.Namespace) -> None:
    """Set the options that are not given to those by which the run evaluates itself: videos, metrics and seed."""
    run = run_of(Path(args.network))
    if run is None:
        return
    config = read_config(run)
    if args.data is None:
        args.data = config.data or str(run.absolute().parent / DEMO_FOLDER)
        args.split_list = args.split_list or config.split_list
    args.metrics = args.metrics or ",".join(config.metric_names()) or None
    args.detector = args.detector or (config.detector and [config.detector])
    args.seed = config.seed if args.seed is None else args.seed


class SnapshotEvaluation(Evaluation):
    """Evaluates every snapshot of a run on the same real clips.

    If the settings are those of the run, the results are the run's own: the ones that it already has are not computed
    again, the others are added to them, and best.json is written anew. With other settings, or in another --outdir,
    every result is computed and recorded as `digan evaluate` records that of a single network.

    A snapshot that cannot be read is named and left out; the exit status is then 2.
    """

    def __init__(self, args: argparse.Namespace, accelerator: Accelerator) -> None:
        self.snapshots = {number_of(file): file for file in list_snapshots(Path(args.network))}
        if not self.snapshots:
            raise ConfigError(f"--snapshots all: {args.network} holds no snapshots; give the folder of a run.")
        self._damaged: dict[str, NetworkError] = {}  # by number
        super().__init__(args, accelerator)
        self._differences = self._compare_with_run()
        self._known = {} if self._differences else {p.name: self._known_results(p) for p in self.protocols}
        self._curves: dict[str, dict[str, dict[str, Any]]] = {p.name: {} for p in self.protocols}  # by snapshot number

    def run(self) -> int:
        """Compute all results, and return the exit status."""
        return super().run() or (2 if self._damaged else 0)

    def _open_network(self) -> tuple[Path, Generator]:
        """Return the newest snapshot that can be read.

        Raises:
            NetworkError: there is none; the error is that of the newest.
        """
        for file in reversed(self.snapshots.values()):
            if (g := self._read(file)) is not None:
                return file, g
        raise next(iter(self._damaged.values()))

    def _read(self, file: Path) -> Generator | None:
        """Return the generator of a snapshot on the device; None, after naming the snapshot, if it cannot be read."""
        number = number_of(file)
        if number in self._damaged:
            return None
        try:
            return Generator.from_pretrained(file).to(self.accelerator.device)
        except NetworkError as error:
            self._damaged[number] = error
            if self.main:
                print(f"left out: {error}", file=sys.stderr, flush=True)
            return None

    def facts(self) -> dict[str, Any]:
        """Return also the digests of all snapshots, and which results need not be computed."""
        digests = {number: checksum(file) for number, file in self.snapshots.items()}
        known = {name: sorted(results) for name, results in self._known.items()}
        return {**super().facts(), "the digests of the snapshots": digests, "the results in the run folder": known}

    def _compare_with_run(self) -> list[str]:
        """Return the flags of the settings that are not those by which the run evaluates itself."""
        if self.run_folder is None or self.args.outdir:
            return ["--outdir"]
        config = read_config(self.run_folder)
        settings = {name: getattr(self, name) for name in ("resolution", "stride", "overlap", "resize", "split")}
        settings |= {"frames": self.span, "seed": self.args.seed}
        differences = [flag(name) for name, value in settings.items() if value != getattr(config, name)]
        plain = {"psi": self.psi == 1, "labels": self.args.labels is None, "trials": self.args.trials == 1}
        plain |= {"one_per_video": not self.args.one_per_video}
        plain |= {"data": self.reals is None or self.reals.fingerprint == self.recorded.get("fingerprint")}
        return differences + [flag(name) for name, same in plain.items() if not same]

    def _known_results(self, protocol: MetricProtocol) -> dict[str, dict[str, Any]]:
        """Return the results of a metric that the run has, by snapshot number."""
        features = RandomFeatures.name if protocol.detector is None else self.detectors[protocol.detector].name
        results = {str(result.get("snapshot")): result for result in own_results(self.run_folder, protocol.name)}
        numbers = {number: results.get(file.name, {}) for number, file in self.snapshots.items()}
        return {
            number: {"metric": protocol.name, "better": protocol.better, **result}
            for number, result in numbers.items()
            if (result.get("features"), result.get("seed")) == (features, self.args.seed)
            and {"n_real", "n_fake", "seconds"} <= result.keys()
        }

    def _rows(self, protocol: MetricProtocol, reals: Clips | OnePerVideo | None) -> Mapping[str, Maker | ClipSource]:
        """Return the clips of every snapshot, by its number, made from the one that is open then."""
        make = functools.partial(self._clips, protocol, self._labels_of(protocol, reals))
        return dict.fromkeys(self.snapshots, make)

    def _clips(self, protocol: MetricProtocol, labels: torch.Tensor | None, seed: int) -> ClipSource:
        """Return the clips of the snapshot that is open."""
        model = replace(self.model, labels=labels)
        (maker,) = self.experiment.rows(model, protocol, self.resolution).values()
        return maker(seed)

    def _compute(
        self, protocol: MetricProtocol, reals: ClipSource | None, key: str | None, name: str, fakes: Maker | ClipSource
    ) -> dict[str, Any] | None:
        known = self._known.get(protocol.name, {}).get(name)
        if known is None and self._open(self.snapshots[name]):
            return super()._compute(protocol, reals, key, name, fakes)
        return known

    def _open(self, file: Path) -> bool:
        """Make a snapshot the one whose clips are made; return whether it can be read."""
        if file != self.network:
            g = self._read(file)
            if g is None:
                return False
            self.network, self.clips_seen = file, g.metadata.get("clips_seen")
            self.model = Model(g, self.span, self.model.labels, self.psi)
        return True

    def _record(self, protocol: MetricProtocol, name: str, result: dict[str, Any]) -> None:
        if name not in self._known.get(protocol.name, {}):
            if self._differences:
                super()._record(protocol, name, result)
            else:
                context = own_context(self.clips_seen, self.snapshots[name].name)
                metrics.append_result(self.outdir, result, **context)
                result |= context
        self._curves[protocol.name][name] = {"clips": self.clips_seen, **result}

    def _opening(self, tasks: Sequence[tuple[MetricProtocol, ClipSource | None]]) -> list[str]:
        count = sum(map(len, self._known.values()))
        known = [f"already in the run folder, not computed again: {counted(count, 'result')}"] if count else []
        return [*super()._opening(tasks), *known]

    def _fakes_summary(self) -> str:
        return f"{counted(len(self.snapshots), 'snapshot')} of {self.args.network}"

    def _closing(self) -> list[str]:
        bests = {protocol.name: self._best(protocol.name) for protocol in self.protocols}
        lines = [line for protocol in self.protocols for line in self._curve(protocol, bests[protocol.name])]
        if not self._differences:
            best = self._refresh_best()
            lines += ["", f"results are in {self.outdir / 'metric-<name>.jsonl'}"]
            if best is not None:
                lines.append(self._best_line(best, bests))
            return [*lines, *self._drawn()]
        if self.run_folder is not None and not self.args.outdir:
            lines += ["", f"not as the run evaluates itself ({', '.join(self._differences)}): {BEST} is unchanged"]
        return [*lines, *super()._closing()]

    def _drawn(self) -> list[str]:
        """Draw the curves of the run again, and return a line that says where they are, or why they are not drawn."""
        problems: list[str] = []
        CurveWriter(self.run_folder, problems.append).write()
        file = self.run_folder / CURVES
        return problems or ([f"curves are in {file}"] if file.is_file() else [])

    def _curve(self, protocol: MetricProtocol, best: str | None) -> list[str]:
        """Return the curve of a metric, one line for each snapshot that can be read, and the best one."""
        results = {n: result for n, result in self._curves[protocol.name].items() if n not in self._damaged}
        bars = value_bars([result["value"] for result in results.values()])
        lines = ["", f"{'snapshot':>12}  {protocol.name:>12}  ({protocol.better} is better)"]
        for (number, result), bar in zip(results.items(), bars, strict=True):
            lines.append(f"{number:>12}  {result['value']:>12.5g}  {bar}{'  best' if number == best else ''}")
        if best is not None:
            lines.append(f"the best by {protocol.name}: {self.snapshots[best]}")
        return lines

    def _best(self, metric: str) -> str | None:
        """Return the number of the best snapshot by a metric that can be read; None if no value is finite."""
        results = {n: result for n, result in self._curves[metric].items() if n not in self._damaged}
        while (best := best_result(list(results.values()))) is not None:
            number = next(number for number, result in results.items() if result is best)
            if self._can_be_read(self.snapshots[number]):
                return number
            del results[number]
        return None

    def _refresh_best(self) -> dict[str, Any] | None:
        """Write best.json anew, so that it names a snapshot that can be read, and return its content."""
        while True:
            best = refresh_best(self.run_folder, [self.snapshots[number].name for number in self._damaged])
            if best is None or self._can_be_read(self.snapshots[number_of(Path(best["snapshot"]))]):
                return best

    def _can_be_read(self, file: Path) -> bool:
        """Return whether a snapshot can be read: one whose results were known has not been opened."""
        return file == self.network or self._read(file) is not None

    def _best_line(self, best: dict[str, Any], bests: Mapping[str, str | None]) -> str:
        """Return what best.json says and, if that is about another metric, the best by the metrics asked for."""
        line = f"{BEST} names {best['snapshot']}, by {best['metric']}"
        if best["metric"] in self._curves:
            return line
        numbers = [(metric, number) for metric, number in bests.items() if number is not None]
        others = [f"by {metric}, the best is {self.snapshots[number].name}" for metric, number in numbers]
        return "; ".join([f"{line}, the first metric of the run", *others])
