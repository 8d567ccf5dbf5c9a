"""`digan evaluate`: the options and the processes; `evaluation.py` and `snapshot_evaluation.py` compute."""

from __future__ import annotations

import argparse
import textwrap

from digan.cli.evaluation import Evaluation
from digan.cli.options import OptionParser, add_network, number, training_number
from digan.cli.snapshot_evaluation import SnapshotEvaluation, complete
from digan.cli.terminal import plain_warnings
from digan.config import RESIZES, SEED, Range, TrainConfig
from digan.data.index import CACHE_FOLDER
from digan.errors import ConfigError
from digan.metrics.experiments import EXPERIMENTS
from digan.run_results import WHICH
from digan.sampling.media import MAX_PIXELS
from digan.training.distributed import make_accelerator
from digan.training.processes import joined


def configure(parser: OptionParser) -> None:
    """Add the options of the command."""
    texts = [textwrap.fill(f"--experiment {name}: {e.text}.", 80) for name, e in EXPERIMENTS.items()]
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "\n\n".join(texts)

    what = parser.add_argument_group("what to evaluate")
    add_network(what, required=False, text="network file, run or snapshots folder, owner/name on the hub, or sky-64")
    what.add_argument(
        "--snapshots",
        choices=["all"],
        help="evaluate all snapshots of a run, print the curve and name the best; --data, --metrics, --detector and "
        "--seed are then by default those of the run",
    )
    what.add_argument("--fake", help="folder, zip or file of videos, instead of a network")
    what.add_argument("--fake-split", help="split of the fakes; without --fake, a split of --data instead of a network")
    what.add_argument("--data", help="folder, zip or file of real videos")
    what.add_argument(
        "--metrics", help="comma separated; a name states its protocol [rfvd256_16f for training clips of 16 frames]"
    )
    what.add_argument(
        "--detector",
        nargs="+",
        metavar="FILE",
        help="TorchScript detectors for the metrics that need one: FILE, or KIND=FILE",
    )
    what.add_argument("--experiment", choices=EXPERIMENTS, help="an experiment of the paper, see below")
    what.add_argument(
        "--trials",
        type=number(int, Range(minimum=1)),
        default=1,
        help="report mean and standard deviation over this many seeds [1]",
    )
    what.add_argument("--seed", type=number(int, SEED), help="seed of the first trial [0]")

    data = parser.add_argument_group("real clips")
    data.add_argument("--split", help="train, val, test, or several joined by + [the network's, or train]")
    data.add_argument("--split-list", nargs="+", help="official split lists of UCF-101, instead of --split")
    data.add_argument(
        "--resolution",
        type=number(int, Range(minimum=1, maximum=MAX_PIXELS)),
        help="pixels per side [the network's; that of square fakes]",
    )
    data.add_argument(
        "--resize", choices=RESIZES, help=f"how frames are resized [as for the network, or {TrainConfig.resize}]"
    )
    data.add_argument(
        "--stride", type=training_number("stride"), help="frame stride of the clips [the network's, or 1]"
    )
    data.add_argument(
        "--overlap",
        type=training_number("overlap"),
        help="raw frames shared by consecutive windows [the network's, or 0]",
    )
    data.add_argument("--one-per-video", action="store_true", help="one clip per video, drawn with --seed")
    data.add_argument(
        "--fake-stride",
        type=training_number("stride"),
        help="frame stride of --fake [1] or --fake-split [--stride]",
    )

    fakes = parser.add_argument_group("generated clips")
    fakes.add_argument(
        "--frames",
        type=training_number("frames"),
        help="frames of a training clip, which spans time 0 to 1 [the network's, or 16]",
    )
    fakes.add_argument("--psi", type=float, help="truncation [1: none]")
    fakes.add_argument(
        "--labels",
        type=number(int, Range(minimum=0)),
        nargs="+",
        help="classes to cycle through [as frequent as in --data]",
    )

    how = parser.add_argument_group("output and resources")
    how.add_argument("--outdir", help="folder of metric-<name>.jsonl [the network's run folder, or the current folder]")
    how.add_argument(
        "--cache", help=f"folder of indices and real features [{CACHE_FOLDER} in --outdir or beside the run]"
    )
    how.add_argument("--batch", type=training_number("batch"), default=16, help="clips per batch in each process [16]")
    how.add_argument(
        "--threads", type=training_number("threads"), help="threads per process [on CPUs: cores / processes]"
    )


def run(args: argparse.Namespace) -> int:
    """Compute the metrics and return the exit status. Every process takes part; the main one prints and writes."""
    _check(args)
    if args.snapshots:
        complete(args)
    args.seed = args.seed or 0
    with joined(60 * TrainConfig.start_timeout) as processes:
        accelerator = processes.together("the devices", lambda: make_accelerator("no", args.threads, processes))
        try:
            with plain_warnings():
                kind = SnapshotEvaluation if args.snapshots else Evaluation
                evaluation = processes.main_first("the videos", lambda: kind(args, accelerator))
                if processes.world > 1:
                    processes.agree(evaluation.facts(), "give all of them the same options, network and videos")
                status = evaluation.run()
        finally:
            accelerator.end_training()
    return status


def _check(args: argparse.Namespace) -> None:
    """Raise `ConfigError` for options that contradict each other."""
    videos = args.fake is not None or args.fake_split is not None
    if (args.network is None) == (not videos):
        raise ConfigError(
            "give either --network FILE, or --fake DIR (or --fake-split SPLIT of --data) to compare two sets of videos."
        )
    names = ("snapshots", "experiment", "psi", "labels", "frames")
    network_options = [name for name in names if getattr(args, name) is not None]
    network_options += ["which"] if args.which != WHICH[0] else []
    if videos and network_options:
        raise ConfigError(
            f"--{network_options[0]} applies only to a --network; leave it out to compare two sets of videos."
        )
    if args.snapshots and (args.experiment or args.which != WHICH[0]):
        other = "experiment" if args.experiment else "which"
        raise ConfigError(f"--snapshots all evaluates plain samples of every snapshot; leave --{other} out.")
    if args.network and args.fake_stride:
        raise ConfigError("--fake-stride applies only to --fake and --fake-split; leave it out with a --network.")
    if args.fake is None and args.fake_split is not None:
        if args.data is None:
            raise ConfigError("--fake-split without --fake names a split of --data: give --data DIR.")
        if args.fake_split == (args.split or TrainConfig.split):
            raise ConfigError(f"--fake-split {args.fake_split} would be compared with itself: give another --split.")
