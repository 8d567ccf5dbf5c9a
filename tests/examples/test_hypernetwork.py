"""The hypernetwork example: what it writes, and that it learns."""

import pytest
import torch


@pytest.mark.parametrize("write", ["weights", "shifts"])
def test_quick_run(example, picture_size, write, tmp_path, capsys):
    example("hypernetwork").main(["--quick", "--write", write, "--outdir", str(tmp_path)])
    assert float(capsys.readouterr().out.split("images shown ")[1].split()[0]) > 12
    assert picture_size(tmp_path / "hypernetwork.png") == (6 * 66, 4 * 66)


@pytest.mark.parametrize("write", ["weights", "shifts"])
def test_each_image_has_its_own_network(example, write):
    network = example("hypernetwork").HyperNetwork(16, latent=8, width=12, write=write)
    coords, latents = torch.rand(9, 2), torch.randn(3, 8)
    values = network(latents, coords)
    assert values.shape == (3, 9, 3)
    torch.testing.assert_close(values[1:2], network(latents[1:2], coords))
    values.square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.siren.parameters())
    assert network.writer[-1].weight.grad.abs().sum() > 0
