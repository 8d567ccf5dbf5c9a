"""The example of signed distances: its shapes, and that their distances are learned."""

import pytest
import torch


@pytest.mark.parametrize("shape", ["flower", "torus"])
def test_samples_are_on_the_shape(example, shape):
    sample, distance = example("sdf").SHAPES[shape]
    points, normals = sample(500)
    torch.testing.assert_close(normals.norm(dim=1), torch.ones(500))
    # The flower's distance comes from 4000 points, which are 1e-3 apart.
    assert distance(points).abs().max() < 1e-3
    for step in (0.02, -0.02):
        torch.testing.assert_close(distance(points + step * normals), torch.full((500,), step), atol=1e-3, rtol=0)


@pytest.mark.parametrize("shape", ["flower", "torus"])
def test_quick_run(example, picture_size, shape, tmp_path, capsys):
    example("sdf").main(["--quick", "--shape", shape, "--outdir", str(tmp_path)])
    # Measured: 0.15 and 0.16; it is 0.4 for a network that is 0.
    assert float(capsys.readouterr().out.split("error of the distance ")[1].split()[0]) < 0.25
    assert picture_size(tmp_path / "sdf.png") == (3 * 66, 66)
