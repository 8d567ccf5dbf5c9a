"""The cases of the gradients of `render`: which kernels each one compiles."""

import torch

from fused_inr.tools.triton.cases_render_backward import CASES, CLIPS, COLOURS, FREQUENCIES, TIMES, WIDTHS, inr_of


def test_inr_of_the_default_widths():
    inr = inr_of(WIDTHS, "sine")
    assert (inr.batch, inr.times, inr.channels) == (CLIPS, TIMES, COLOURS)
    assert [(stage.scale, stage.layers[-1].outputs, len(stage.layers)) for stage in inr.stages] == list(WIDTHS)
    assert [stage.layers[0].weight.shape[2] for stage in inr.stages] == [2 * FREQUENCIES] + [512 + 2 * FREQUENCIES] * 2
    read_outs = [[layer.to_rgb is not None for layer in stage.layers] for stage in inr.stages]
    assert read_outs == [[True, False] * 3 + [True], [False, True], [True, False, True]]
    assert all(tensor.device.type == "meta" for tensor in inr.tensors())


def test_products_and_sums_are_separate_cases():
    for case in CASES:
        kernels = {launch.kernel.__name__ for launch in case.launches_on("sm_90")}
        if case.name.endswith("-sums"):
            stages = {"children_sum_kernel"} if "-lrelu-" in case.name else set()  # the case of a sine has one stage
            assert kernels == {"output_gradient_kernel"} | stages, case.name
        else:
            products = {"output_gradient_kernel", "weight_gradient_kernel"}
            features = {"phase_gradient_kernel", "feature_weight_kernel"}
            assert kernels == products | features, case.name


def test_gradients_are_stored_in_the_type_of_the_name():
    for case in CASES:
        kind = case.name.removesuffix("-sums").split("-")[-1]
        dtype = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(kind, torch.float32)
        stored = [launch.arguments["dz"] for launch in case.launches_on("sm_90") if "dz" in launch.arguments]
        assert all(dz.dtype == dtype for dz in stored), case.name
