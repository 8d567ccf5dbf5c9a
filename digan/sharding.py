"""How a batch is divided among processes and micro-batches: the one rule that loader, trainer and random numbers share.

With `S = processes * micro_batches` shards, shard `s` takes the samples `s, s + S, s + 2 S, ...` of a batch, and
micro-batch `m` of process `r` is shard `r * micro_batches + m`. Two processes with one micro-batch each and one process
with two therefore see the same shards, so that a run does not depend on how its batch is divided.
"""

from __future__ import annotations

from dataclasses import dataclass

from digan.errors import ConfigError


@dataclass(frozen=True)
class BatchSharding:
    """The share of one process in every batch.

    Args:
        batch: clips of a batch, over all processes.
        processes: number of processes.
        micro_batches: micro-batches of each process.
        process_index: which process this is, 0 to `processes - 1`.

    Raises:
        ConfigError: the batch is not a multiple of the number of shards, or there is no such process.
    """

    batch: int
    processes: int = 1
    micro_batches: int = 1
    process_index: int = 0

    def __post_init__(self) -> None:
        if self.batch < 1 or self.batch % self.shards:
            raise ConfigError(
                f"--batch {self.batch} cannot be divided among {self.processes} processes x {self.micro_batches} "
                "micro-batches: change --batch or --batch-gpu."
            )
        if not 0 <= self.process_index < self.processes:
            raise ConfigError(f"process {self.process_index} is not one of {self.processes}.")

    @property
    def shards(self) -> int:
        """Number of shards of a batch, over all processes."""
        return self.processes * self.micro_batches

    @property
    def clips(self) -> int:
        """Number of clips of a micro-batch."""
        return self.batch // self.shards

    def indices(self, micro_batch: int) -> slice:
        """Return which samples of a batch the micro-batch of this process takes, as a slice of the batch."""
        return slice(self.process_index * self.micro_batches + micro_batch, self.batch, self.shards)
