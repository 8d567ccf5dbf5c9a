// A chain of layers evaluated at points, with weights per clip, and its gradients.
#pragma once

#include "abi.h"
#include "activations.h"
#include "gemm.h"
#include "layers.h"
#include "simd.h"
#include "slices.h"
#include "support.h"

namespace ISA_NAME {

// Two rows of a block of results as the input of the next layer: rows for its product, steps for its weight gradient,
// with the slopes of the activation. `second` tells whether there is a second row; if not, zeros take its place.
template <int ACTIVATION, class T, bool ANY_ANGLE, class S>
static inline void finish_two(const float* c, int64_t lanes, bool second, const FusedInrLayer& l, const float* bias,
                              T* rows, int64_t ldr, S* steps, int64_t lds, float* slopes, vi& largest) {
  for (int64_t j = 0; j < lanes; j += W) {
    const vf b = load(bias + j);
    const auto a = activation_jet<ACTIVATION, 1, T, ANY_ANGLE>(load(c + j) + b, l, largest);
    store(slopes + j, a.d[1]);
    vf other = {};
    if (second) {
      const auto y = activation_jet<ACTIVATION, 1, T, ANY_ANGLE>(load(c + lanes + j) + b, l, largest);
      store(slopes + lanes + j, y.d[1]);
      other = y.d[0];
    }
    store_two(a.d[0], other, rows + j, ldr, steps + j, lds);
  }
}

// Applies bias and activation to a block of products, as finish_rows does, for the backward pass.
template <int ACTIVATION, class T, bool ANY_ANGLE = false, class S>
static void finish_kept(const float* c, int64_t lanes, int64_t m, const FusedInrLayer l, const float* bias, T* rows,
                        int64_t ldr, S* steps, int64_t lds, float* slopes) {
  constexpr int64_t G = sizeof(S) / sizeof(T);
  vi largest = {};
  for (int64_t r = 0; r < m; r += 2)
    finish_two<ACTIVATION, T, ANY_ANGLE>(c + r * lanes, lanes, r + 1 < m, l, bias, rows + r * ldr, ldr,
                                         steps + r / G * lds, lds, slopes + r * lanes, largest);
  if (has_angle<ACTIVATION> && !ANY_ANGLE && any_above(largest, angle_limit<T>))
    finish_kept<ACTIVATION, T, true>(c, lanes, m, l, bias, rows, ldr, steps, lds, slopes);
}

// The packed layers of a group of clips, and the evaluation of a tile of points.
template <class T>
struct Chain {
  typedef T Element;
  typedef typename Step<T>::type S;

  const FusedInrPoints& p;
  int64_t widest, tile_points, tiles;
  T* weights;     // [clips of the group][packed_all]
  T* transposed;  // [clips of the group][transposed_all], for gradients of inputs; null in the forward pass

  explicit Chain(const FusedInrPoints& points, int64_t tile = TILE)
      : p(points),
        widest(W),
        tile_points(tile),
        tiles((points.points + tile - 1) / tile),
        weights(nullptr),
        transposed(nullptr) {
    for (int i = 0; i < p.num_layers; i++)
      widest = std_max(widest, std_max(round_up(p.layers[i].in, W), round_up(p.layers[i].out, W)));
    widest += W;  // a stride that is a power of two maps all rows to the same few cache sets
  }

  int64_t inputs() const { return p.layers[0].in; }
  int64_t outputs() const { return p.layers[p.num_layers - 1].out; }
  bool is_last(int layer) const { return layer + 1 == p.num_layers; }
  // The first input of a layer that is a coordinate, or the number of inputs if none is.
  int64_t first_coordinate(int layer) const {
    const bool sees = layer == 0 || p.skips[layer];
    return p.layers[layer].in - (sees ? inputs() : 0);
  }
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
    T *a, *b;      // [TILE][widest]
    float *c, *d;  // [TILE][NB]
    float* bias;
  };
  Scratch scratch(Arena& arena) const {
    return {arena.take<T>(TILE * widest), arena.take<T>(TILE * widest), arena.take<float>(TILE * NB),
            arena.take<float>(TILE * NB), arena.take<float>(widest)};
  }

  // A tile of points of one clip.
  struct Tile {
    int64_t n;  // index of the clip in its group
    int64_t clip, first, points;
  };
  Tile tile_at(int64_t n, int64_t clip, int64_t index) const {
    const int64_t first = index * tile_points;
    return {n, clip, first, std_min(tile_points, p.points - first)};
  }

  // Writes the coordinates to the inputs of a layer that sees them, behind the output of the layer before.
  void load_coordinates(int layer, const Tile& t, T* to) const {
    const int64_t first = first_coordinate(layer), in = p.layers[layer].in, padded = round_up(in, W);
    const float* coords = p.coords + t.clip * p.coords_clip + t.first * inputs();
    for (int64_t r = 0; r < t.points; r++, coords += inputs())
      for (int64_t j = first; j < padded; j++) to[r * widest + j] = element(j < in ? coords[j - first] : 0.0f, T());
  }

  const float* load_bias(const FusedInrLayer& l, int64_t clip, float* to) const {
    for (int64_t j = 0; j < round_up(l.out, W); j++) to[j] = j < l.out ? l.bias[clip * l.bias_clip + j] : 0.0f;
    return to;
  }

  void tile(const Tile& t, const Scratch& x) const {
    T *in = x.a, *to = x.b;
    for (int i = 0; i < p.num_layers; i++) {
      const FusedInrLayer& l = p.layers[i];
      const float* bias = load_bias(l, t.clip, x.bias);
      const T* w = weights + t.n * packed_all() + offset(i, false);
      if (first_coordinate(i) < l.in) load_coordinates(i, t, in);
      product(in, widest, t.points, w, l.out, l.in, x.c, [&](const float* c, int64_t n0, int64_t lanes) {
        if (is_last(i)) return finish_values(c, n0, lanes, t, l, bias, x.d);
        finish_block(c, n0, lanes, t.points, l, bias, nullptr, nullptr, 0, to, widest);
      });
      swap_pointers(in, to);
    }
  }

  // The results of the last layer stay in float32, since no product follows.
  void finish_values(const float* c, int64_t n0, int64_t lanes, const Tile& t, const FusedInrLayer& l,
                     const float* bias, float* values) const {
    finish_block(c, 0, lanes, t.points, l, bias + n0, nullptr, nullptr, 0, values, lanes);
    const int64_t count = std_min(lanes, outputs() - n0);
    float* out = p.out + (t.clip * p.points + t.first) * outputs() + n0;
    for (int64_t r = 0; r < t.points; r++)
      for (int64_t j = 0; j < count; j++) out[r * outputs() + j] = values[r * lanes + j];
  }

  // The buffers of one thread for the backward pass.
  struct Work {
    S** inputs;      // of each layer, as Blocks of steps
    float** slopes;  // of each layer's activation, as Blocks of rows
    S* delta_steps;  // [widest / W][steps][W]
    float* coords;   // [TILE][K]: gradients
  };
  Work work(Arena& arena) const {
    Work x;
    x.inputs = arena.take<S*>(p.num_layers);
    x.slopes = arena.take<float*>(p.num_layers);
    for (int i = 0; i < p.num_layers; i++) {
      S* inputs = arena.take<S>(steps(TILE, T()) * round_up(p.layers[i].in, W));
      float* slopes = arena.take<float>(TILE * round_up(p.layers[i].out, W));
      if (arena.base) x.inputs[i] = inputs, x.slopes[i] = slopes;
    }
    x.delta_steps = arena.take<S>(steps(TILE, T()) * widest);
    x.coords = arena.take<float>(TILE * inputs());
    return x;
  }
  Blocks<S> inputs_of(int layer, const Work& x) const {
    return {x.inputs[layer], steps(TILE, T()), round_up(p.layers[layer].in, W)};
  }
  Blocks<float> slopes_of(int layer, const Work& x) const {
    return {x.slopes[layer], TILE, round_up(p.layers[layer].out, W)};
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

  // Copies the columns of rows from `first` on to blocks of steps.
  void keep_columns(const T* rows, int64_t first, int64_t m, const Blocks<S>& to) const {
    for (int64_t j = first; j < to.columns; j++) {
      const int64_t n0 = j / NB * NB, lanes = to.lanes(n0);
      S* column = to.at(n0) + j - n0;
      for (int64_t k = 0; k < steps(m, T()); k++) column[k * lanes] = step_of(rows + j, widest, k, m);
    }
  }

  // Evaluates a tile forward and keeps the inputs and the slopes of all layers. A linear last layer needs no product:
  // its slopes are one.
  void keep_forward(const Tile& t, const Scratch& s, const Work& x) const {
    T *in = s.a, *to = s.b;
    for (int i = 0; i < p.num_layers; i++) {
      const FusedInrLayer& l = p.layers[i];
      const Blocks<S> kept = inputs_of(i, x);
      if (first_coordinate(i) < l.in) {
        load_coordinates(i, t, in);
        keep_columns(in, first_coordinate(i), t.points, kept);
      }
      if (is_last(i) && l.activation == ACT_LINEAR) return;
      const float* bias = load_bias(l, t.clip, s.bias);
      const Blocks<float> slopes = slopes_of(i, x);
      const T* w = weights + t.n * packed_all() + offset(i, false);
      product(in, widest, t.points, w, l.out, l.in, s.c, [&](const float* c, int64_t n0, int64_t lanes) {
        S* next = x.delta_steps;  // what the last layer returns is not kept
        int64_t stride = lanes;
        if (!is_last(i)) {
          const Blocks<S> following = inputs_of(i + 1, x);
          next = following.at(n0), stride = following.lanes(n0);
        }
        with_activation(l.activation, [&](auto code) {
          finish_kept<decltype(code)::value>(c, lanes, t.points, l, bias + n0, to + n0, widest, next, stride,
                                             slopes.at(n0));
        });
      });
      swap_pointers(in, to);
    }
  }

  // Multiplies gradients of a block of a layer's outputs by the slopes, which are one if there are none: adds to the
  // bias gradient and stores the result as rows and as steps.
  template <bool SLOPES>
  void to_delta(const float* c, int64_t n0, int64_t lanes, int64_t width, int64_t m, const Blocks<float>& slopes,
                float* bias, T* delta, S* delta_steps) const {
    constexpr int64_t G = sizeof(S) / sizeof(T);
    const float* slope = slopes.at(n0);
    const int64_t lds = slopes.lanes(n0);
    vf sums[NV] = {};
    for (int64_t r = 0; r < m; r += 2) {
      const bool second = r + 1 < m;
      for (int64_t j = 0; j < width; j += W) {
        vf a = load(c + r * lanes + j), b = {};
        if (SLOPES) a *= load(slope + r * lds + j);
        if (second) {
          b = load(c + (r + 1) * lanes + j);
          if (SLOPES) b *= load(slope + (r + 1) * lds + j);
        }
        sums[j / W] += a + b;
        store_two(a, b, delta + r * widest + n0 + j, widest, delta_steps + (n0 + j) * steps(TILE, T()) + r / G * W, W);
      }
    }
    for (int64_t j = 0; j < width; j += W) store(bias + n0 + j, load(bias + n0 + j) + sums[j / W]);
  }

  // Starts with the gradient of the last layer's output.
  void start_delta(const Tile& t, const float* out, const Scratch& s, const Work& x, float* bias, T* delta) const {
    const Blocks<float> slopes = slopes_of(p.num_layers - 1, x);
    out += (t.clip * p.points + t.first) * outputs();
    for (int64_t n0 = 0; n0 < slopes.columns; n0 += NB) {
      const int64_t lanes = slopes.lanes(n0);
      for (int64_t r = 0; r < t.points; r++)
        for (int64_t j = 0; j < lanes; j++)
          s.c[r * lanes + j] = n0 + j < outputs() ? out[r * outputs() + n0 + j] : 0.0f;
      if (p.layers[p.num_layers - 1].activation == ACT_LINEAR)
        to_delta<false>(s.c, n0, lanes, lanes, t.points, slopes, bias, delta, x.delta_steps);
      else
        to_delta<true>(s.c, n0, lanes, lanes, t.points, slopes, bias, delta, x.delta_steps);
    }
  }

  // Adds those columns of a block of input gradients that belong to coordinates.
  void add_coordinates(const float* c, int64_t n0, int64_t lanes, int layer, int64_t m, float* to) const {
    const int64_t first = first_coordinate(layer), end = std_min<int64_t>(n0 + lanes, p.layers[layer].in);
    for (int64_t r = 0; r < m; r++)
      for (int64_t j = std_max(first, n0); j < end; j++) to[r * inputs() + j - first] += c[r * lanes + j - n0];
  }

  // Evaluates a tile forward, keeping inputs and slopes, and then backwards. The gradients of the weights and biases
  // are added to `sums`; those of the coordinates are written unless g.coords is null.
  void tile_backward(const Tile& t, const FusedInrPointsGradients& g, const Scratch& s, const Work& x,
                     float* sums) const {
    keep_forward(t, s, x);
    for (int64_t i = 0; i < t.points * inputs(); i++) x.coords[i] = 0.0f;
    T *delta = s.a, *below = s.b;
    start_delta(t, g.out, s, x, sums + sum_offset(p.num_layers - 1, true), delta);
    for (int i = p.num_layers - 1; i >= 0; i--) {
      const FusedInrLayer& l = p.layers[i];
      outer_product(x.delta_steps, steps(TILE, T()), l.out, inputs_of(i, x), steps(t.points, T()),
                    sums + sum_offset(i, false));
      if (i == 0 && !g.coords) return;
      product(delta, widest, t.points, transposed + t.n * transposed_all() + offset(i, true), l.in, l.out, s.c,
              [&](const float* c, int64_t n0, int64_t lanes) {
        if (i > 0) {
          const Blocks<float> slopes = slopes_of(i - 1, x);
          const int64_t width = std_min(lanes, slopes.columns - n0);
          to_delta<true>(c, n0, lanes, width, t.points, slopes, sums + sum_offset(i - 1, true), below, x.delta_steps);
        }
        if (g.coords) add_coordinates(c, n0, lanes, i, t.points, x.coords);
      });
      swap_pointers(delta, below);
    }
    float* const coords = g.coords + (t.clip * p.points + t.first) * inputs();
    for (int64_t i = 0; i < t.points * inputs(); i++) coords[i] = x.coords[i];
  }
};

// `Network` is a Chain, or derives from one.
template <class Network>
static int32_t points_program(const FusedInrPoints& p, FusedInrParallelFor run) {
  typedef typename Network::Element T;
  Network chain(p);
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
        chain.tile(chain.tile_at(i / chain.tiles, first + i / chain.tiles, i % chain.tiles), scratch);
    });
    if (!done) return 2;
  }
  return failed ? 1 : 0;
}

// As in backward.h, a clip's tiles are divided into a fixed number of slices, whose sums are added in order.
template <class Network>
static int32_t points_backward_program(const FusedInrPoints& p, const FusedInrPointsGradients& g,
                                       FusedInrParallelFor run) {
  typedef typename Network::Element T;
  Network chain(p);
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
          chain.tile_backward(chain.tile_at(n, first + n, t), g, scratch, work, sums + i * sum_floats);
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
