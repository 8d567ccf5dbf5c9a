// A chain of layers evaluated at points, with weights per clip (SIREN), and its gradients.
#pragma once

#include "abi.h"
#include "gemm.h"
#include "layers.h"
#include "simd.h"
#include "slices.h"
#include "support.h"

namespace ISA_NAME {

// The packed layers of a group of clips, and the evaluation of a tile of points.
template <class T>
struct Chain {
  typedef typename Step<T>::type S;

  const FusedInrPoints& p;
  int64_t widest, tiles;
  T* weights;     // [clips of the group][packed_all]
  T* transposed;  // [clips of the group][transposed_all], for gradients of inputs; null in the forward pass

  explicit Chain(const FusedInrPoints& points) : p(points), widest(W), weights(nullptr), transposed(nullptr) {
    for (int i = 0; i < p.num_layers; i++)
      widest = std_max(widest, std_max(round_up(p.layers[i].in, W), round_up(p.layers[i].out, W)));
    widest += W;  // a stride that is a power of two maps all rows to the same few cache sets
    tiles = (p.points + TILE - 1) / TILE;
  }

  int64_t inputs() const { return p.layers[0].in; }
  int64_t outputs() const { return p.layers[p.num_layers - 1].out; }
  // Offset of a layer's packed weight, or of its transpose. The offset of num_layers is the total size.
  int64_t offset(int layer, bool back) const {
    int64_t at = 0;
    for (int i = 0; i < layer; i++) {
      const FusedInrLayer& l = p.layers[i];
      at += round_up(back ? packed_size(l.in, l.out) : packed_size(l.out, l.in), 64);
    }
    return at;
  }
  int64_t packed_all() const { return offset(p.num_layers, false); }
  int64_t transposed_all() const { return offset(p.num_layers, true); }

  void pack_layer(int64_t n, int64_t clip, int layer) {
    const FusedInrLayer& l = p.layers[layer];
    const float* w = l.weight + clip * l.weight_clip;
    pack(weights + n * packed_all() + offset(layer, false), w, l.weight_row, l.out, l.in);
    if (transposed)
      pack_transposed(transposed + n * transposed_all() + offset(layer, true), w, l.weight_row, l.out, l.in);
  }

  struct Scratch {
    T *a, *b;  // [TILE][widest]
    float *c, *bias;
  };
  Scratch scratch(Arena& arena) const {
    return {arena.take<T>(TILE * widest), arena.take<T>(TILE * widest), arena.take<float>(TILE * NB),
            arena.take<float>(widest)};
  }

  void load_points(int64_t clip, int64_t at, int64_t m, T* to) const {
    const float* coords = p.coords + clip * p.coords_clip + at * inputs();
    for (int64_t r = 0; r < m; r++)
      for (int64_t k = 0; k < round_up(inputs(), W); k++)
        to[r * widest + k] = element(k < inputs() ? coords[r * inputs() + k] : 0.0f, T());
  }

  const float* load_bias(const FusedInrLayer& l, int64_t clip, float* to) const {
    for (int64_t j = 0; j < round_up(l.out, W); j++) to[j] = j < l.out ? l.bias[clip * l.bias_clip + j] : 0.0f;
    return to;
  }

  void tile(int64_t n, int64_t clip, int64_t at, const Scratch& x) const {
    const int64_t m = std_min<int64_t>(TILE, p.points - at);
    load_points(clip, at, m, x.a);
    T *in = x.a, *to = x.b;
    for (int i = 0; i < p.num_layers; i++) {
      const FusedInrLayer& l = p.layers[i];
      const float* bias = load_bias(l, clip, x.bias);
      const T* w = weights + n * packed_all() + offset(i, false);
      float* out = p.out + (clip * p.points + at) * outputs();
      product(in, widest, m, w, l.out, l.in, x.c, [&](const float* c, int64_t n0, int64_t lanes) {
        if (i + 1 < p.num_layers) return finish_block(c, n0, lanes, m, l, bias, nullptr, nullptr, 0, to, widest);
        // Results stay in float32, since no product follows.
        for (int64_t r = 0; r < m; r++)
          for (int64_t j = 0; j < lanes; j += W) {
            const vf y = load(c + r * lanes + j) + load(bias + n0 + j);
            const vf v = (l.activation == ACT_SINE ? sin_of(reducible(y * l.omega)) : y) * l.gain;
            for (int64_t e = 0; e < W && n0 + j + e < outputs(); e++) out[r * outputs() + n0 + j + e] = v[e];
          }
      });
      T* swap = in;
      in = to, to = swap;
    }
  }

  // The buffers of one thread for the backward pass.
  struct Work {
    T** inputs;      // [TILE][widest] of each layer
    float** slopes;  // [TILE][widest]: derivative of each layer's activation
    float* gradient;
    T* delta;
    S *delta_steps, *input_steps, *block;
  };
  Work work(Arena& arena) const {
    Work x;
    x.inputs = arena.take<T*>(p.num_layers);
    x.slopes = arena.take<float*>(p.num_layers);
    for (int i = 0; i < p.num_layers; i++) {
      T* inputs = arena.take<T>(TILE * widest);
      float* slopes = arena.take<float>(TILE * widest);
      if (arena.base) x.inputs[i] = inputs, x.slopes[i] = slopes;
    }
    x.gradient = arena.take<float>(TILE * widest);
    x.delta = arena.take<T>(TILE * widest);
    x.delta_steps = arena.take<S>(TILE * widest);
    x.input_steps = arena.take<S>(TILE * widest);
    x.block = arena.take<S>(TILE * NB);
    return x;
  }

  // Offset of a layer in the sums of one slice: weight gradients [O][padded I], then bias gradients [padded O], by
  // layer.
  int64_t sum_offset(int layer, bool bias) const {
    int64_t at = 0;
    for (int i = 0; i < p.num_layers; i++) {
      if (i == layer && !bias) return at;
      at += round_up(p.layers[i].out * round_up(p.layers[i].in, W), 16);
      if (i == layer) return at;
      at += round_up(p.layers[i].out, W);
    }
    return at;
  }

  // Evaluates a tile forward, keeping inputs and derivatives, and then backwards.
  void tile_backward(int64_t n, int64_t clip, int64_t at, const float* out, float* coords, const Scratch& s,
                     const Work& x, float* sums) const {
    const int64_t m = std_min<int64_t>(TILE, p.points - at);
    load_points(clip, at, m, x.inputs[0]);
    for (int i = 0; i < p.num_layers; i++) {
      const FusedInrLayer& l = p.layers[i];
      const float* bias = load_bias(l, clip, s.bias);
      const bool sine = l.activation == ACT_SINE, last = i + 1 == p.num_layers;
      product(x.inputs[i], widest, m, weights + n * packed_all() + offset(i, false), l.out, l.in, s.c,
              [&](const float* c, int64_t n0, int64_t lanes) {
        for (int64_t r = 0; r < m; r++)
          for (int64_t j = 0; j < lanes; j += W) {
            vf v = load(c + r * lanes + j) + load(bias + n0 + j);
            if (sine) v = reducible(v * l.omega);
            const int64_t to = r * widest + n0 + j;
            store(x.slopes[i] + to, sine ? cos_of(v) * l.omega : splat(1.0f));
            if (!last) store(x.inputs[i + 1] + to, sine ? sin_of(v) : v);
          }
      });
    }
    const int64_t padded = round_up(outputs(), W);
    for (int64_t r = 0; r < m; r++)
      for (int64_t j = 0; j < padded; j++)
        x.gradient[r * widest + j] = j < outputs() ? out[((clip * p.points) + at + r) * outputs() + j] : 0.0f;
    for (int i = p.num_layers - 1; i >= 0; i--) {
      const FusedInrLayer& l = p.layers[i];
      const int64_t np = round_up(l.out, W);
      float* bias = sums + sum_offset(i, true);
      for (int64_t j = 0; j < np; j += W) {
        vf sum = {};
        for (int64_t r = 0; r < m; r++) {
          const vf d = load(x.gradient + r * widest + j) * load(x.slopes[i] + r * widest + j);
          sum += d;
          store(x.delta + r * widest + j, d);
        }
        store(bias + j, load(bias + j) + sum);
      }
      const S* a = in_steps(x.delta, widest, m, np, (S*)x.delta_steps);
      const S* b = in_steps(x.inputs[i], widest, m, round_up(l.in, W), (S*)x.input_steps);
      outer_product(a, widest, l.out, b, widest, l.in, steps(m, T()), sums + sum_offset(i, false), x.block);
      if (i == 0 && !coords) break;
      product(x.delta, widest, m, transposed + n * transposed_all() + offset(i, true), l.in, l.out, s.c,
              [&](const float* c, int64_t n0, int64_t lanes) {
        for (int64_t r = 0; r < m; r++)
          for (int64_t j = 0; j < lanes; j += W) store(x.gradient + r * widest + n0 + j, load(c + r * lanes + j));
      });
    }
    if (coords)
      for (int64_t r = 0; r < m; r++)
        for (int64_t k = 0; k < inputs(); k++)
          coords[((clip * p.points) + at + r) * inputs() + k] = x.gradient[r * widest + k];
  }
};

template <class T>
static int32_t points_program(const FusedInrPoints& p, FusedInrParallelFor run) {
  Chain<T> chain(p);
  const int64_t bytes = std_max<int64_t>(1, chain.packed_all() * sizeof(T));
  const int64_t group = std_max<int64_t>(1, std_min(p.clips, GROUP_BYTES / bytes));
  Block shared(group * bytes);
  if (!shared.base) return 1;
  chain.weights = (T*)shared.base;
  Arena size = {nullptr, 0};
  chain.scratch(size);
  volatile bool failed = false;
  for (int64_t first = 0; first < p.clips; first += group) {
    const int64_t clips = std_min(group, p.clips - first);
    const bool packed = parallel(run, clips * p.num_layers, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++)
        chain.pack_layer(i / p.num_layers, first + i / p.num_layers, int(i % p.num_layers));
    });
    const bool done = packed && parallel(run, clips * chain.tiles, [&](int64_t begin, int64_t end) {
      Block own(size.used);
      if (!own.base) {
        failed = true;
        return;
      }
      Arena arena = {own.base, 0};
      const auto scratch = chain.scratch(arena);
      for (int64_t i = begin; i < end; i++)
        chain.tile(i / chain.tiles, first + i / chain.tiles, i % chain.tiles * TILE, scratch);
    });
    if (!done) return 2;
  }
  return failed ? 1 : 0;
}

// As in backward.h, a clip's tiles are divided into a fixed number of slices, whose sums are added in order.
template <class T>
static int32_t points_backward_program(const FusedInrPoints& p, const FusedInrPointsGradients& g,
                                       FusedInrParallelFor run) {
  Chain<T> chain(p);
  const int64_t at_once = std_min<int64_t>(SLICES, p.clips);
  const int64_t slices = std_min<int64_t>(SLICES / at_once, chain.tiles), layers = p.num_layers;
  const int64_t sum_floats = round_up(chain.sum_offset(p.num_layers, false), 16);
  Block shared(at_once * (chain.packed_all() + chain.transposed_all()) * sizeof(T));
  Block sum_memory(at_once * slices * sum_floats * sizeof(float));
  if (!shared.base || !sum_memory.base) return 1;
  chain.weights = (T*)shared.base;
  chain.transposed = chain.weights + at_once * chain.packed_all();
  float* sums = (float*)sum_memory.base;
  Arena size = {nullptr, 0};
  chain.scratch(size);
  chain.work(size);
  volatile bool failed = false;
  for (int64_t first = 0; first < p.clips; first += at_once) {
    const int64_t clips = std_min(at_once, p.clips - first);
    bool ok = parallel(run, clips * layers, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) chain.pack_layer(i / layers, first + i / layers, int(i % layers));
    });
    ok = ok && parallel(run, clips * slices, [&](int64_t begin, int64_t end) {
      Block own(size.used);
      if (!own.base) {
        failed = true;
        return;
      }
      Arena arena = {own.base, 0};
      const auto scratch = chain.scratch(arena);
      const auto work = chain.work(arena);
      for (int64_t i = begin; i < end; i++) {
        const int64_t n = i / slices, slice = i % slices;
        __builtin_memset(sums + i * sum_floats, 0, sum_floats * sizeof(float));
        for (int64_t t = chain.tiles * slice / slices; t < chain.tiles * (slice + 1) / slices; t++)
          chain.tile_backward(n, first + n, t * TILE, g.out, g.coords, scratch, work, sums + i * sum_floats);
      }
    });
    if (failed) return 1;
    ok = ok && parallel(run, clips * layers, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) {
        const int64_t n = i / layers, layer = i % layers;
        const FusedInrLayer& l = p.layers[layer];
        const float* parts[SLICES];
        for (int64_t k = 0; k < slices; k++)
          parts[k] = sums + (n * slices + k) * sum_floats + chain.sum_offset(int(layer), false);
        const int64_t clip = first + n;
        sum_slices(parts, slices, l.out, l.in, round_up(l.in, W), g.weights[layer] + clip * l.out * l.in, l.in);
        for (int64_t k = 0; k < slices; k++)
          parts[k] = sums + (n * slices + k) * sum_floats + chain.sum_offset(int(layer), true);
        sum_slices(parts, slices, 1, l.out, 0, g.biases[layer] + clip * l.out, 0);
      }
    });
    if (!ok) return 2;
  }
  return 0;
}

}  // namespace ISA_NAME
