"""Models of kernels: work, tensors that fusing keeps on chip, and gradients, against numbers by hand."""

from fused_inr.tools.traffic import Counts, LayerKernels, Program, StageKernels, total


def test_roofline_is_the_longest_part():
    work = Counts(flops=100, bytes=40, sines=30) + Counts(flops=100, bytes=10)
    assert work == Counts(200, 50, 30)
    assert work.roofline_seconds(100, 50) == 2
    assert work.roofline_seconds(1000, 10) == 5
    assert work.roofline_seconds(1000, 50, peak_sines=1) == 30
    assert Counts().roofline_seconds(1, 1) == 0


def two_layers() -> Program:
    """Return a program x -> y -> out of two products, each a stage; every tensor has its own number of bytes."""
    first = LayerKernels("first", 10, {"y": 4}, {"x": 1}, weights={"v": 100}, input_gradient=False)
    last = LayerKernels("last", 20, {"out": 16}, {"y": 4}, weights={"w": 1000}, biases={"b": 2000}, sloped=False)
    return Program([StageKernels("A", [], [first]), StageKernels("B", [], [last])], "out")


def test_a_kernel_for_each_layer_reads_and_writes_its_own_tensors():
    steps = two_layers().steps(False, False, ())
    assert [step.name for step in steps] == ["first", "last"]
    assert [step.counts for step in steps] == [Counts(10, 1 + 100 + 4), Counts(20, 4 + 3000 + 16)]
    assert total(steps) == Counts(30, 3125)


def test_gradients_are_twice_the_products_where_the_input_has_one():
    last, first = two_layers().steps(True, True, ())
    # y and the gradient of out in; gradients of y, w and b out. The bias is not read.
    assert last.counts == Counts(40, (4 + 1000 + 16) + (4 + 3000))
    # x, v, y (whose sign is the slope) and the gradient of y in; the gradient of v out.
    assert first.counts == Counts(10, (1 + 100 + 4 + 4) + 100)


def test_a_fused_kernel_keeps_what_only_it_reads():
    program = two_layers()
    both = Program([StageKernels("A", [], [layer for stage in program.stages for layer in stage.layers])], "out")
    (step,) = both.steps(False, False, (0,))
    assert (step.name, step.counts) == ("A", Counts(30, 1 + 3100 + 16))
    (stored,) = both.steps(False, True, (0,))
    assert stored.counts.bytes == step.counts.bytes + 4  # y, which the backward pass reads
    (again,) = both.steps(True, False, (0,))
    assert (again.name, again.counts.flops) == ("A backward", 30 + 50)  # the layers are computed again


def test_the_least_work_stores_everything_and_moves_nothing_twice():
    program = two_layers()
    assert program.least(False) == Counts(30, 1 + 3100 + 16)
    # Inputs and the gradient of out in; gradients of v, w and b out. Nothing is computed again.
    assert program.least(True) == Counts(50, 1 + 3100 + 16 + 3100)
