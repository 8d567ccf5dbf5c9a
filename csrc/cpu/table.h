// The functions that each instruction set implements.
#pragma once

#include "abi.h"

struct IsaTable {
  int32_t (*render)(const FusedInrProgram&, FusedInrParallelFor);
  int64_t (*workspace)(const FusedInrProgram&, int64_t threads);
  int64_t (*kept)(const FusedInrProgram&);
  int32_t (*backward)(const FusedInrProgram&, const FusedInrGradients&, FusedInrParallelFor);
  int32_t (*points)(const FusedInrPoints&, FusedInrParallelFor);
  int32_t (*points_backward)(const FusedInrPoints&, const FusedInrPointsGradients&, FusedInrParallelFor);
  int32_t (*bias_act)(const FusedInrBiasAct&, FusedInrParallelFor);
  int32_t (*bias_act_slope)(const FusedInrBiasAct&, FusedInrParallelFor);
  int32_t (*upfirdn2d)(const FusedInrUpfirdn&, FusedInrParallelFor);
  int32_t (*minibatch_stddev)(const FusedInrStddev&, FusedInrParallelFor);
  int32_t (*convolution_weight)(const FusedInrConvolutionWeight&, FusedInrParallelFor);
  int32_t (*augment)(const FusedInrAugment&, FusedInrParallelFor);
  void (*sincos)(const float* x, float* sine, float* cosine, int64_t n);
  void (*activation)(const FusedInrLayer&, const float* z, float* derivatives, int64_t n, int32_t bfloat16);
};
