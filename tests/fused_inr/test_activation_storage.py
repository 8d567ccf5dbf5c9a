"""The setting of `store_activations`."""

import fused_inr as fi


def test_setting_ends_with_its_block():
    from fused_inr.activation_storage import stored

    assert not stored()
    with fi.store_activations():
        with fi.store_activations():
            assert stored()
        assert stored()
    assert not stored()
