// Gradient of a convolution's weight, channels last: out[o,ky,kx,i] = sum over pixels of dy[o] x[i], shifted by the
// tap.
//
// For each tap this is a product of two matrices whose rows are pixels. A job computes a range of outputs o and inputs
// i for all taps, and accumulates panels of a few hundred pixels. A panel of dy is packed once, in groups of as many
// outputs as a micro-kernel has rows; a panel of x is packed for every tap, one block of channels at a time, into the
// L1 cache.
#pragma once

#include "abi.h"
#include "elements.h"
#include "gemm.h"
#include "simd.h"
#include "support.h"

namespace ISA_NAME {

constexpr int64_t KC = 128;  // steps of a panel: a block of x is 32 KiB with vectors of 16

// Rows of the next micro-kernel, with `left` outputs remaining: 4 + 4 and 4 + 1 are faster than 6 + 2 and 2 + 2 + 1.
static inline int rows_next(int64_t left) {
  if (left == 8 || left == 4 || left == 5) return 4;
  return left >= MR ? MR : left >= 2 ? 2 : 1;
}

// A run of steps along one row of the output: pixels, or pairs of them in bfloat16.
struct Run {
  int64_t sample, y, x, steps;
};

// Stores n <= W channels of one step, from the pixels a and b. A null pixel is zero.
static inline void put_step(float* to, const float* a, const float*, int64_t n) {
  if (!a)
    store(to, vf{});
  else
    store(to, n == W ? load(a) : load_partial(a, n));
}

static inline void put_step(uint32_t* to, const uint16_t* a, const uint16_t* b, int64_t n) {
  vh va = {}, vb = {};
  if (n == W) {
    if (a) __builtin_memcpy(&va, a, sizeof va);
    if (b) __builtin_memcpy(&vb, b, sizeof vb);
  } else {
    for (int64_t i = 0; i < n; i++) va[i] = a ? a[i] : 0, vb[i] = b ? b[i] : 0;
  }
  const vu both = __builtin_convertvector(vb, vu) << 16 | __builtin_convertvector(va, vu);
  __builtin_memcpy(to, &both, sizeof both);
}

template <class T>
struct WeightGradient {
  typedef typename Step<T>::type S;
  static constexpr int64_t PIXELS = sizeof(S) / sizeof(T);  // of a step

  const FusedInrConvolutionWeight& c;
  int64_t o0, outputs, i0, inputs;  // of the job
  S *a = nullptr, *b = nullptr;
  float* sums = nullptr;  // [taps][blocks of NB inputs][outputs][lanes]
  Run runs[KC] = {};
  int64_t count = 0, steps = 0;

  int64_t padded() const { return round_up(inputs, W); }

  // Adds the products of one panel, the steps of all runs.
  void panel() {
    pack_outputs();
    float* to = sums;
    for (int ky = 0; ky < c.kernel_y; ky++)
      for (int kx = 0; kx < c.kernel_x; kx++)
        for (int64_t n0 = 0; n0 < padded(); n0 += NB) {
          const int64_t lanes = std_min<int64_t>(NB, padded() - n0);
          pack_inputs(ky, kx, n0, lanes);
          switch (lanes / W) {
            case 1: products<1>(to); break;
            case 2: products<2>(to); break;
            case 3: products<3>(to); break;
            default: products<4>(to);
          }
          to += outputs * lanes;
        }
    count = steps = 0;
  }

  void pack_outputs() {
    const T* dy = (const T*)c.gradient;
    int64_t step = 0;
    for (int64_t k = 0; k < count; k++) {
      const Run& run = runs[k];
      const T* at = dy + ((run.sample * c.out_height + run.y) * c.out_width + run.x) * c.outputs + o0;
      for (int64_t s = 0; s < run.steps; s++, step++, at += PIXELS * c.outputs) {
        const T* next = run.x + s * PIXELS + 1 < c.out_width ? at + c.outputs : nullptr;
        S* row = b;  // free until the inputs are packed
        for (int64_t o = 0; o < outputs; o += W)
          put_step(row + o, at + o, next ? next + o : nullptr, std_min<int64_t>(W, outputs - o));
        S* to = a;
        for (int64_t o = 0; o < outputs;) {
          const int rows = rows_next(outputs - o);
          if (rows == MR)
            __builtin_memcpy(to + step * MR, row + o, MR * sizeof(S));
          else
            for (int r = 0; r < rows; r++) to[step * rows + r] = row[o + r];
          o += rows;
          to += rows * KC;
        }
      }
    }
  }

  void pack_inputs(int ky, int kx, int64_t n0, int64_t lanes) {
    S* to = b;
    for (int64_t k = 0; k < count; k++) {
      const Run& run = runs[k];
      const int64_t y = run.y * c.stride + ky - c.padding;
      if (y < 0 || y >= c.height) {
        __builtin_memset(to, 0, size_t(run.steps * lanes) * sizeof(S));
        to += run.steps * lanes;
        continue;
      }
      const T* row = (const T*)c.x + (run.sample * c.height + y) * c.width * c.inputs + i0 + n0;
      int64_t x = run.x * c.stride + kx - c.padding;
      for (int64_t s = 0; s < run.steps; s++, x += PIXELS * c.stride, to += lanes) {
        const T* at = x >= 0 && x < c.width ? row + x * c.inputs : nullptr;
        const int64_t x1 = x + c.stride;
        const T* next = x1 >= 0 && x1 < c.width ? row + x1 * c.inputs : nullptr;
        for (int64_t i = 0; i < lanes; i += W)
          put_step(to + i, at ? at + i : nullptr, next ? next + i : nullptr, std_min<int64_t>(W, inputs - n0 - i));
      }
    }
  }

  template <int V>
  void products(float* to) {
    constexpr int64_t lanes = V * W;
    const S* from = a;
    for (int64_t o = 0; o < outputs;) {
      const int rows = rows_next(outputs - o);
      switch (rows) {
        case 1: micro_outer<1, V>(from, 1, b, lanes, steps, to, lanes); break;
        case 2: micro_outer<2, V>(from, 2, b, lanes, steps, to, lanes); break;
        case 4: micro_outer<4, V>(from, 4, b, lanes, steps, to, lanes); break;
        default: micro_outer<MR, V>(from, MR, b, lanes, steps, to, lanes);
      }
      o += rows, from += rows * KC, to += rows * lanes;
    }
  }

  void add_up() {
    const int64_t in_row = (c.out_width + PIXELS - 1) / PIXELS;
    count = steps = 0;
    for (int64_t n = 0; n < c.batch; n++)
      for (int64_t y = 0; y < c.out_height; y++)
        for (int64_t s = 0; s < in_row;) {
          const int64_t chunk = std_min(in_row - s, KC - steps);
          runs[count++] = {n, y, s * PIXELS, chunk};
          steps += chunk, s += chunk;
          if (steps == KC) panel();
        }
    if (steps) panel();
  }

  void write() {
    const int64_t taps = int64_t(c.kernel_y) * c.kernel_x;
    const float* from = sums;
    for (int64_t tap = 0; tap < taps; tap++)
      for (int64_t n0 = 0; n0 < padded(); n0 += NB) {
        const int64_t lanes = std_min<int64_t>(NB, padded() - n0);
        for (int64_t o = 0; o < outputs; o++, from += lanes) {
          T* to = (T*)c.out + ((o0 + o) * taps + tap) * c.inputs + i0 + n0;
          const int64_t width = std_min(lanes, inputs - n0);
          for (int64_t i = 0; i < width; i += W) store_n(to + i, load(from + i), int(std_min<int64_t>(W, width - i)));
        }
      }
  }
};

template <class T>
static int32_t convolution_weight_of(const FusedInrConvolutionWeight& c, FusedInrParallelFor run) {
  typedef typename Step<T>::type S;
  // Jobs divide the inputs first, because inputs are packed again for each range of outputs.
  const int64_t blocks = (c.inputs + NB - 1) / NB, groups = (c.outputs + MR - 1) / MR;
  const int64_t in_parts = std_min<int64_t>(blocks, c.threads);
  const int64_t out_parts = std_min<int64_t>(groups, (c.threads + in_parts - 1) / in_parts);
  const int64_t taps = int64_t(c.kernel_y) * c.kernel_x;
  volatile bool failed = false;
  const bool done = parallel(run, in_parts * out_parts, [&](int64_t begin, int64_t end) {
    for (int64_t job = begin; job < end; job++) {
      const int64_t p = job % in_parts, q = job / in_parts;
      const int64_t i0 = p * blocks / in_parts * NB, i1 = std_min((p + 1) * blocks / in_parts * NB, c.inputs);
      const int64_t o0 = q * groups / out_parts * MR, o1 = std_min((q + 1) * groups / out_parts * MR, c.outputs);
      WeightGradient<T> part = {c, o0, o1 - o0, i0, i1 - i0};
      const int64_t packed = KC * part.outputs, block = std_max<int64_t>(KC * NB, round_up(part.outputs, W));
      const int64_t sums = taps * part.outputs * part.padded();
      Block memory(4 * (round_up(packed, 16) + round_up(block, 16) + sums));
      if (!memory.base) {
        failed = true;
        return;
      }
      part.a = (S*)memory.base;
      part.b = part.a + round_up(packed, 16);
      part.sums = (float*)(part.b + round_up(block, 16));
      __builtin_memset(part.sums, 0, size_t(sums) * sizeof(float));
      part.add_up();
      part.write();
    }
  });
  return failed ? 1 : done ? 0 : 2;
}

}  // namespace ISA_NAME
