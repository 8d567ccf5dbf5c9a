"""The rule by which a batch is divided: every sample once, divided evenly, the same shards however they are spread."""

import pytest

from digan.errors import ConfigError
from digan.sharding import BatchSharding


@pytest.mark.parametrize(("processes", "micro_batches"), [(1, 1), (1, 4), (2, 2), (4, 1)])
def test_every_sample_belongs_to_one_micro_batch(processes, micro_batches):
    batch = list(range(8))
    shares = [
        batch[BatchSharding(8, processes, micro_batches, rank).indices(m)]
        for rank in range(processes)
        for m in range(micro_batches)
    ]
    assert sorted(sample for share in shares for sample in share) == batch
    assert {len(share) for share in shares} == {BatchSharding(8, processes, micro_batches).clips}
    assert shares == [batch[s :: processes * micro_batches] for s in range(processes * micro_batches)]


@pytest.mark.parametrize(("batch", "processes", "micro_batches"), [(0, 1, 1), (6, 4, 1), (8, 2, 3)])
def test_a_batch_that_cannot_be_divided_names_the_flags(batch, processes, micro_batches):
    words = rf"--batch {batch} cannot be divided among {processes} processes x {micro_batches} .*--batch-gpu"
    with pytest.raises(ConfigError, match=words):
        BatchSharding(batch, processes, micro_batches)


def test_a_process_out_of_range_is_refused():
    with pytest.raises(ConfigError, match="process 2 is not one of 2"):
        BatchSharding(8, processes=2, process_index=2)
