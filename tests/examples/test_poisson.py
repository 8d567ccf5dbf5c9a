"""The Poisson example: its derivatives, and that images come out of them."""

import pytest
import torch


def test_derivatives_of_a_polynomial(example):
    size = 32
    x, y = example("common").pixel_centers(size).T.view(2, size, size)
    gradient, laplacian = example("poisson").derivatives(x**2 + 2 * x * y)
    inside = slice(2, -2)
    expected = torch.stack([2 * x + 2 * y, 2 * x], dim=-1)
    torch.testing.assert_close(gradient[inside, inside], expected[inside, inside], atol=1e-4, rtol=0)
    torch.testing.assert_close(laplacian[inside, inside], torch.full((28, 28), 2.0), atol=1e-3, rtol=0)


def test_edge(example):
    assert example("poisson").edge(3).tolist() == [0, 1, 2, 3, 5, 6, 7, 8]


@pytest.mark.parametrize("fit", ["laplacian", "gradient"])
def test_quick_run(example, picture_size, fit, tmp_path, capsys):
    example("poisson").main(["--quick", "--fit", fit, "--outdir", str(tmp_path)])
    assert float(capsys.readouterr().out.split("psnr of the image ")[1].split()[0]) > 20
    width = 2 if fit == "laplacian" else 3
    assert picture_size(tmp_path / "poisson.png") == (width * 194, 2 * 194)
