// Minibatch standard deviation, forward and backward. Statistics are in float32, sums over them in float64.
#pragma once

#include <math.h>

#include "abi.h"
#include "elements.h"
#include "simd.h"
#include "support.h"

namespace ISA_NAME {

// The standard deviation over a group at one vector of positions; also returns the mean.
template <class T>
static inline vf deviation(const FusedInrStddev& c, const T* x, int64_t stride, int n, vf& mean) {
  mean = vf{};
  for (int64_t g = 0; g < c.group; g++) mean += load_n(x + g * stride, n);
  mean *= 1.0f / float(c.group);
  vf variance = {};
  for (int64_t g = 0; g < c.group; g++) {
    const vf d = load_n(x + g * stride, n) - mean;
    variance += d * d;
  }
  vf v = variance * (1.0f / float(c.group)) + 1e-8f;
  for (int i = 0; i < W; i++) v[i] = sqrtf(v[i]);
  return v;
}

template <class T>
static int32_t minibatch_stddev_of(T*, const FusedInrStddev& c, FusedInrParallelFor run) {
  const int64_t groups = c.batch / c.group, run_length = c.channels / c.planes * c.pixels;
  const int64_t in_sample = c.channels * c.pixels, out_sample = (c.channels + c.planes) * c.pixels;
  const int64_t stride = groups * in_sample, out_stride = groups * out_sample;
  const bool ok = parallel(run, groups * c.planes, [&](int64_t begin, int64_t end) {
    for (int64_t job = begin; job < end; job++) {
      const int64_t m = job / c.planes, plane = job % c.planes, start = plane * run_length;
      const T* x = (const T*)c.x + m * in_sample + start;
      vf mean;
      if (!c.gradient) {
        T* out = (T*)c.out + m * out_sample;
        double total = 0.0;
        over_row(run_length, [&](int64_t i, int n) {
          const vf s = deviation(c, x + i, stride, n, mean);
          float sum = 0.0f;
          for (int k = 0; k < n; k++) sum += s[k];
          total += sum;
        });
        const float value = float(total / double(run_length));
        for (int64_t g = 0; g < c.group; g++) {
          __builtin_memcpy(out + g * out_stride + start, x + g * stride, size_t(run_length) * sizeof(T));
          T* to = out + g * out_stride + in_sample + plane * c.pixels;
          for (int64_t i = 0; i < c.pixels; i++) to[i] = element(value, T());
        }
        continue;
      }
      const T* gradient = (const T*)c.gradient + m * out_sample;
      T* out = (T*)c.out + m * in_sample + start;
      double total = 0.0;  // gradient of the plane's value
      for (int64_t g = 0; g < c.group; g++)
        for (int64_t i = 0; i < c.pixels; i++)
          total += number(gradient[g * out_stride + in_sample + plane * c.pixels + i]);
      const float scale = float(total / (double(run_length) * double(c.group)));
      over_row(run_length, [&](int64_t i, int n) {
        const vf s = deviation(c, x + i, stride, n, mean);
        for (int64_t g = 0; g < c.group; g++) {
          const vf d = (load_n(x + g * stride + i, n) - mean) / s * scale;
          store_n(out + g * stride + i, load_n(gradient + g * out_stride + start + i, n) + d, n);
        }
      });
    }
  });
  return ok ? 0 : 2;
}

}  // namespace ISA_NAME
