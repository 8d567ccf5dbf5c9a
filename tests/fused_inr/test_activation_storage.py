"""The setting of `store_activations`."""

import fused_inr as fi
from fused_inr import activation_storage


def test_setting_ends_with_its_block():
    from fused_inr.activation_storage import stored

    assert not stored()
    with fi.store_activations():
        with fi.store_activations():
            assert stored()
        assert stored()
    assert not stored()


def test_blocks_of_threads_that_overlap_end_with_the_last():
    first, second = fi.store_activations(), fi.store_activations()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert activation_storage.stored()
    second.__exit__(None, None, None)
    assert not activation_storage.stored()
