"""Division of a batch among processes and micro-batches, shared by the loader, the trainer and the random numbers.

With `S = processes * micro_batches` shards, shard `s` takes the samples `s, s + S, s + 2 S, ...` of a batch, and
micro-batch `m` of process `r` is shard `r * micro_batches + m`. Two processes with one micro-batch each and one process
with two micro-batches therefore see the same shards, so a run does not depend on how its batch is divided.

The minibatch standard deviation groups samples `n / G` apart in a micro-batch of `n`, which are `batch / G` apart in
the batch. Its groups of `G` do not depend on the division either, as long as every shard holds whole groups;
`digan.config` refuses other divisions.
"""

from __future__ import annotations

from dataclasses import dataclass

from digan.errors import ConfigError


@dataclass(frozen=True)
class BatchSharding:
    """The share of one process in every batch.

    Args:
        batch: number of clips in a batch, over all processes.
        processes: number of processes.
        micro_batches: number of micro-batches per process.
        process_index: index of this process, from 0 to `processes - 1`.

    Raises:
        ConfigError: the batch is not a multiple of the number of shards, or `process_index` is out of range.
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
        """Number of shards in a batch, over all processes."""
        return self.processes * self.micro_batches

    @property
    def clips(self) -> int:
        """Number of clips in a micro-batch."""
        return self.batch // self.shards

    def indices(self, micro_batch: int) -> slice:
        """Return the samples of a batch that belong to a micro-batch of this process, as a slice of the batch."""
        return slice(self.process_index * self.micro_batches + micro_batch, self.batch, self.shards)
