// Bias, activation, gain, clamp and residual in one pass, and a gradient multiplied by the derivative of that.
//
// A tensor [outer, channels, inner] is processed as rows of consecutive elements. With inner = 1 a row is one pixel
// with all channels, and the bias varies along it; otherwise it is one plane, with one bias.
#pragma once

#include <math.h>

#include "abi.h"
#include "elements.h"
#include "simd.h"
#include "support.h"

namespace ISA_NAME {

// act(v), or act'(v) if `slope`, of an activation that is not piecewise linear.
static inline float curved(int32_t act, float v, bool slope) {
  const float scale = act == POINTWISE_SELU ? 1.0507009873554805f : 1.0f;
  const float elu_alpha = act == POINTWISE_SELU ? 1.6732632423543772f : 1.0f;
  switch (act) {
    case POINTWISE_TANH: {
      const float t = tanhf(v);
      return slope ? 1.0f - t * t : t;
    }
    case POINTWISE_ELU:
    case POINTWISE_SELU:
      if (v > 0.0f || (slope && v != v)) return slope ? scale : scale * v;  // the slope of NaN is that of PyTorch
      return scale * elu_alpha * (slope ? expf(v) : expm1f(v));
    default: break;
  }
  const float e = expf(-fabsf(v)), s = (v >= 0.0f ? 1.0f : e) / (1.0f + e);
  const float rest = (v >= 0.0f ? e : 1.0f) / (1.0f + e);  // 1 - sigmoid(v), which a subtraction would round to zero
  switch (act) {
    case POINTWISE_SIGMOID: return slope ? s * rest : s;
    case POINTWISE_SOFTPLUS: return slope ? s : std_max(v, 0.0f) + log1pf(e);
    default: return slope ? s * (1.0f + v * rest) : v * s;  // swish
  }
}

// act(v) * gain, before the clamp.
template <bool PIECEWISE>
static inline vf activated(const FusedInrBiasAct& c, vf v) {
  if (PIECEWISE) {
    if (c.act == POINTWISE_RELU) v = v < 0.0f ? vf{} : v;
    if (c.act == POINTWISE_LRELU) v = v > 0.0f ? v : v * c.alpha;
    return v * c.gain;
  }
  vf y;
  for (int i = 0; i < W; i++) y[i] = curved(c.act, v[i], false) * c.gain;
  return y;
}

static inline vf clamped(vf v, float limit) {
  v = v > limit ? splat(limit) : v;
  return v < -limit ? splat(-limit) : v;
}

// The gradient d times the derivative, where v is x + bias or, with from_output, the output. `limit` is the clamp as it
// is stored in the output. As in PyTorch, the gradient of what is clamped, NaN included, is zero, even if d is not
// finite, and relu lets the gradient of NaN pass.
template <bool PIECEWISE>
static inline vf through(const FusedInrBiasAct& c, vf v, vf d, float limit) {
  const vf zero = {};
  if (c.clamp < INFINITY) {
    if (PIECEWISE && c.from_output)
      d = (vf)magnitude(v) < limit ? d : zero;
    else
      d = (vf)magnitude(activated<PIECEWISE>(c, v)) <= limit ? d : zero;
  }
  if (PIECEWISE) {
    if (c.from_output) v = (vf)((vi)v ^ ((vi)splat(c.gain) & INT32_MIN));  // has the sign of x + bias
    d *= c.gain;
    if (c.act == POINTWISE_RELU) return v <= 0.0f ? zero : d;
    return c.act == POINTWISE_LRELU ? (v > 0.0f ? d : d * c.alpha) : d;
  }
  for (int i = 0; i < W; i++) d[i] *= curved(c.act, v[i], true) * c.gain;
  return d;
}

struct Rows {
  int64_t count, length;
  bool along;  // the bias varies along a row
  explicit Rows(const FusedInrBiasAct& c)
      : count(c.inner == 1 ? c.outer : c.outer * c.channels),
        length(c.inner == 1 ? c.channels : c.inner),
        along(c.inner == 1) {}
};

template <bool PIECEWISE, class T>
static int32_t bias_act_rows(const FusedInrBiasAct& c, FusedInrParallelFor run) {
  const Rows rows(c);
  const bool ok = parallel(run, rows.count, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
      const T *x = (const T*)c.x + r * rows.length, *residual = (const T*)c.residual;
      T* out = (T*)c.out + r * rows.length;
      if (residual) residual += r * rows.length;
      const vf constant = splat(c.bias && !rows.along ? c.bias[r % c.channels] : -0.0f);  // adding -0 changes no zero
      const float* bias = rows.along ? c.bias : nullptr;
      over_row(rows.length, [&](int64_t i, int n) {
        vf v = load_n(x + i, n) + (bias ? load_n(bias + i, n) : constant);
        v = clamped(activated<PIECEWISE>(c, v), c.clamp);
        if (residual) v += load_n(residual + i, n);
        store_n(out + i, v, n);
      });
    }
  });
  return ok ? 0 : 2;
}

// Rows are divided into at most this many parts for any number of threads, so that sums have the same bits.
constexpr int64_t SUM_PARTS = 64;

template <bool PIECEWISE, class T>
static int32_t slope_rows(const FusedInrBiasAct& c, FusedInrParallelFor run) {
  const Rows rows(c);
  const int64_t parts = rows.along ? std_min(rows.count, SUM_PARTS) : rows.count;
  const int64_t width = rows.along ? (rows.length + W - 1) / W * W : 1;  // floats of a part's sums
  Block partial(parts * width * 4);
  if (!partial.base) return 1;
  float* const sums = (float*)partial.base;
  const float limit = c.from_output ? number(element(c.clamp, T())) : c.clamp;
  const bool ok = parallel(run, parts, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; part++) {
      float* const part_sums = sums + part * width;
      for (int64_t i = 0; i < width; i++) part_sums[i] = 0.0f;
      const int64_t last = (part + 1) * rows.count / parts;
      for (int64_t r = part * rows.count / parts; r < last; r++) {
        const T *x = (const T*)c.x + r * rows.length, *g = (const T*)c.gradient + r * rows.length;
        T* out = (T*)c.out + r * rows.length;
        const int64_t channel = rows.along ? 0 : r % c.channels;
        const vf constant = splat(c.bias && !rows.along ? c.bias[channel] : -0.0f);
        const vf level = splat(c.shift && !rows.along ? c.shift[channel] : -0.0f);
        const float *bias = rows.along ? c.bias : nullptr, *shift = rows.along ? c.shift : nullptr;
        vf total = {};
        over_row(rows.length, [&](int64_t i, int n) {
          vf v = load_n(x + i, n);
          if (!c.from_output) v += bias ? load_n(bias + i, n) : constant;
          vf d = load_n(g + i, n) + (shift ? load_n(shift + i, n) : level);
          d = through<PIECEWISE>(c, v, d, limit);
          store_n(out + i, d, n);
          if (rows.along) {
            if (c.sums) store(part_sums + i, load(part_sums + i) + d);
          } else if (n == W) {
            total += d;
          } else {
            for (int j = 0; j < n; j++) total[j] += d[j];
          }
        });
        if (!rows.along)
          for (int j = 0; j < W; j++) part_sums[0] += total[j];
      }
    }
  });
  if (!ok) return 2;
  if (!c.sums) return 0;
  for (int64_t channel = 0; channel < c.channels; channel++) {
    double sum = 0.0;
    if (rows.along)
      for (int64_t part = 0; part < parts; part++) sum += sums[part * width + channel];
    else
      for (int64_t n = 0; n < c.outer; n++) sum += sums[n * c.channels + channel];
    c.sums[channel] = float(sum);
  }
  return 0;
}

template <class T>
static int32_t bias_act_of(T*, const FusedInrBiasAct& c, FusedInrParallelFor run) {
  return c.act <= POINTWISE_LRELU ? bias_act_rows<true, T>(c, run) : bias_act_rows<false, T>(c, run);
}

template <class T>
static int32_t bias_act_slope_of(T*, const FusedInrBiasAct& c, FusedInrParallelFor run) {
  return c.act <= POINTWISE_LRELU ? slope_rows<true, T>(c, run) : slope_rows<false, T>(c, run);
}

}  // namespace ISA_NAME
