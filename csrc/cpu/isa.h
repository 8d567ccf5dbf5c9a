// The kernels of one instruction set, in the namespace ISA_NAME, and the table through which api.cpp calls them.
//
// Each isa_*.cpp defines ISA_NAME and ISA_TABLE, includes this file, and is compiled with the flags of its instruction
// set.
#pragma once

#include <stdint.h>

#include "abi.h"
#include "activations.h"
#include "augment.h"
#include "backward.h"
#include "convolution.h"
#include "half.h"
#include "jets.h"
#include "points.h"
#include "pointwise.h"
#include "render.h"
#include "simd.h"
#include "stddev.h"
#include "support.h"
#include "table.h"
#include "upfirdn.h"

namespace ISA_NAME {

static void sincos_array(const float* x, float* sine, float* cosine, int64_t n) {
  for (int64_t i = 0; i < n; i += W) {
    vf v = {};
    const int64_t chunk = std_min<int64_t>(W, n - i);
    for (int64_t j = 0; j < chunk; j++) v[j] = x[i + j];
    v = reducible(v);
    const vf s = sin_of(v), c = cos_of(v);
    for (int64_t j = 0; j < chunk; j++) sine[i + j] = s[j], cosine[i + j] = c[j];
  }
}

template <class T>
static void activation_of(const FusedInrLayer& l, const float* z, float* derivatives, int64_t n) {
  with_activation(l.activation, [&](auto code) {
    for (int64_t i = 0; i < n; i += W) {
      vf v = {};
      const int64_t chunk = std_min<int64_t>(W, n - i);
      for (int64_t j = 0; j < chunk; j++) v[j] = z[i + j];
      const Jet<3> y = activation_jet<decltype(code)::value, 3, T>(v, l);
      for (int order = 0; order <= 3; order++)
        for (int64_t j = 0; j < chunk; j++) derivatives[order * n + i + j] = y.d[order][j];
    }
  });
}

static void activation(const FusedInrLayer& l, const float* z, float* derivatives, int64_t n, int32_t bfloat16) {
  return bfloat16 ? activation_of<uint16_t>(l, z, derivatives, n) : activation_of<float>(l, z, derivatives, n);
}

static int32_t render(const FusedInrProgram& p, FusedInrParallelFor run) {
  return p.bfloat16 ? render_program<uint16_t>(p, run) : render_program<float>(p, run);
}

static int64_t render_workspace(const FusedInrProgram& p, int64_t threads) {
  return p.bfloat16 ? workspace<uint16_t>(p, threads) : workspace<float>(p, threads);
}

static int32_t backward(const FusedInrProgram& p, const FusedInrGradients& g, FusedInrParallelFor run) {
  return p.bfloat16 ? backward_program<uint16_t>(p, g, run) : backward_program<float>(p, g, run);
}

static int64_t kept(const FusedInrProgram& p) { return p.bfloat16 ? kept_bytes<uint16_t>(p) : kept_bytes<float>(p); }

static int32_t points(const FusedInrPoints& p, FusedInrParallelFor run) {
  if (p.order) return p.bfloat16 ? points_program<Jets<uint16_t>>(p, run) : points_program<Jets<float>>(p, run);
  return p.bfloat16 ? points_program<Chain<uint16_t>>(p, run) : points_program<Chain<float>>(p, run);
}

static int32_t points_backward(const FusedInrPoints& p, const FusedInrPointsGradients& g, FusedInrParallelFor run) {
  if (p.order)
    return p.bfloat16 ? points_backward_program<Jets<uint16_t>>(p, g, run)
                      : points_backward_program<Jets<float>>(p, g, run);
  return p.bfloat16 ? points_backward_program<Chain<uint16_t>>(p, g, run)
                    : points_backward_program<Chain<float>>(p, g, run);
}

// Calls body with a null pointer of the element type.
template <class Body>
static int32_t with_type(int32_t type, const Body& body) {
  switch (type) {
    case TYPE_FLOAT32: return body((float*)nullptr);
    case TYPE_BFLOAT16: return body((uint16_t*)nullptr);
    case TYPE_FLOAT16: return body((Half*)nullptr);
    default: return 3;
  }
}

static int32_t bias_act(const FusedInrBiasAct& c, FusedInrParallelFor run) {
  return with_type(c.type, [&](auto* t) { return bias_act_of(t, c, run); });
}

static int32_t bias_act_slope(const FusedInrBiasAct& c, FusedInrParallelFor run) {
  return with_type(c.type, [&](auto* t) { return bias_act_slope_of(t, c, run); });
}

static int32_t upfirdn2d(const FusedInrUpfirdn& c, FusedInrParallelFor run) {
  return with_type(c.type, [&](auto* t) { return upfirdn2d_of(t, c, run); });
}

static int32_t minibatch_stddev(const FusedInrStddev& c, FusedInrParallelFor run) {
  return with_type(c.type, [&](auto* t) { return minibatch_stddev_of(t, c, run); });
}

static int32_t convolution_weight(const FusedInrConvolutionWeight& c, FusedInrParallelFor run) {
  if (c.type == TYPE_FLOAT32) return convolution_weight_of<float>(c, run);
  return c.type == TYPE_BFLOAT16 ? convolution_weight_of<uint16_t>(c, run) : 3;
}

static int32_t augment(const FusedInrAugment& c, FusedInrParallelFor run) {
  return with_type(c.type, [&](auto* t) { return augment_of(t, c, run); });
}

}  // namespace ISA_NAME

extern const IsaTable ISA_TABLE;
const IsaTable ISA_TABLE = {ISA_NAME::render,
                            ISA_NAME::render_workspace,
                            ISA_NAME::kept,
                            ISA_NAME::backward,
                            ISA_NAME::points,
                            ISA_NAME::points_backward,
                            ISA_NAME::bias_act,
                            ISA_NAME::bias_act_slope,
                            ISA_NAME::upfirdn2d,
                            ISA_NAME::minibatch_stddev,
                            ISA_NAME::convolution_weight,
                            ISA_NAME::augment,
                            ISA_NAME::sincos_array,
                            ISA_NAME::activation};
