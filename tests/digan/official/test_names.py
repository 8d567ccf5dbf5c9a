"""Official names and attributes in ours: the tensors of a genuine snapshot, constants, and refused variants."""

import pytest

from digan import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig
from digan.official import names
from digan.official.snapshot import OfficialSnapshot


def test_every_tensor_of_the_generator(genuine):
    stored = OfficialSnapshot(genuine).stored("G_ema")
    state = names.generator_state(stored.read())
    config = names.generator_config(state)
    assert {name: x.shape for name, x in Generator(config).state_dict().items()} == {
        name: x.shape for name, x in state.items()
    }


def test_every_tensor_of_the_discriminators(genuine):
    states = names.discriminator_states(OfficialSnapshot(genuine).stored("D").read())
    for channels, state in zip((3, 7), states, strict=True):
        network = Discriminator(names.discriminator_config(state), channels)
        assert network.state_dict().keys() == state.keys()


@pytest.mark.parametrize("name", ["", "synthesis.b4.const", "mapping.w_avg.x", "xmapping.w_avg", "imageD.b4.fc.weight"])
def test_unknown_names(name):
    with pytest.raises(ValueError, match="is not a parameter of the official DIGAN"):
        names.generator_name(name)
    with pytest.raises(ValueError, match="is not a parameter of the official DIGAN"):
        names.discriminator_name(name)


def test_generator_constants():
    attributes = {
        "mapping.fc0.bias_gain": 0.01,
        "mapping.fc1.bias_gain": 0.01,
        "mapping.w_avg_beta": None,
        "synthesis.b8.coord_fuser.fourier_scale": 10,
        "synthesis.b4.input.input.coord_fuser.motion_sigma": 0.25,
        "synthesis.b8.architecture": "skip",
        "synthesis.b8.other": "anything",
    }
    fields = names.generator_constants(attributes)
    assert fields == {"mapping_lr_mult": 0.01, "space_frequency": 10, "time_frequency": 0.25}
    GeneratorConfig(**fields)


def test_discriminator_constants():
    fields = names.discriminator_constants({"imageD.b4.mbstd.group_size": 4, "videoD.b4.mbstd.group_size": 4})
    assert fields == {"mbstd_group": 4}
    DiscriminatorConfig(**fields)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"mapping.fc0.bias_gain": 0.01, "mapping.fc1.bias_gain": 0.1}, "where other layers have 0.01"),
        ({"mapping.w_avg_beta": "0.995"}, "where a number is expected"),
        ({"mapping.w_avg_beta": True}, "where a number is expected"),
        ({"ours": False}, "a variant of the model that is not implemented here"),
        ({"synthesis.b16.conv0.instance_norm": True}, "a variant of the model that is not implemented here"),
    ],
)
def test_contradictions_and_variants(attributes, message):
    with pytest.raises(ValueError, match=message):
        names.generator_constants(attributes)


def test_variants_of_the_discriminator():
    with pytest.raises(ValueError, match="a variant of the model"):
        names.discriminator_constants({"videoD.b64.architecture": "orig"})
