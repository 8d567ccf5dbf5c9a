// A chain of layers evaluated at points together with its derivatives by the coordinates, and gradients of all of
// these.
//
// Derivatives propagate forward through the layers as additional rows of a tile (see jet_activations.h): each layer is
// one product with all rows, and then the activation, whose own derivatives are computed once per point and channel.
#pragma once

#include "abi.h"
#include "gemm.h"
#include "jet_activations.h"
#include "points.h"
#include "simd.h"
#include "support.h"

namespace ISA_NAME {

constexpr int64_t JET_ROWS = 128;  // rows of a tile, unless the jet of a single point has more

template <class T>
struct Jets : Chain<T> {
  typedef Chain<T> Base;
  typedef typename Base::S S;
  typedef typename Base::Tile Tile;
  using Base::p;
  using Base::widest;

  JetShape shape;

  explicit Jets(const FusedInrPoints& points)
      : Jets(points, {points.layers[0].in, points.order, points.with_hessian}) {}
  Jets(const FusedInrPoints& points, const JetShape& s)
      : Base(points, std_max<int64_t>(1, JET_ROWS / s.rows())), shape(s) {}

  int64_t tile_rows() const { return this->tile_points * shape.rows(); }

  struct Scratch {
    T *a, *b;  // [rows][widest]
    float *c, *bias;
  };
  Scratch scratch(Arena& arena) const {
    return {arena.take<T>(tile_rows() * widest), arena.take<T>(tile_rows() * widest),
            arena.take<float>(tile_rows() * NB), arena.take<float>(widest)};
  }

  // Writes the jets of the coordinates, whose derivatives along the axes are unit vectors, to the inputs of a layer
  // that sees them, behind the output of the layer before.
  void load_coordinates(int layer, const Tile& t, T* to) const {
    const int64_t first = this->first_coordinate(layer), end = round_up(p.layers[layer].in, W), axes = shape.axes;
    const float* coords = p.coords + t.clip * p.coords_clip + t.first * axes;
    for (int64_t row = 0; row < shape.rows(); row++)
      for (int64_t r = 0; r < t.points; r++, to += widest) {
        for (int64_t j = first; j < end; j++) to[j] = element(0.0f, T());
        if (row == 0)
          for (int64_t k = 0; k < axes; k++) to[first + k] = element(coords[r * axes + k], T());
        else if (row <= axes)
          to[first + row - 1] = element(1.0f, T());
      }
  }

  // Multiplies the inputs of a layer, after adding the coordinates if it sees them, and calls finish(c, n0, lanes) with
  // blocks of results that include the bias.
  template <class Finish>
  void multiply(int i, const Tile& t, T* in, const Scratch& x, Finish finish) const {
    const FusedInrLayer& l = p.layers[i];
    if (this->first_coordinate(i) < l.in) load_coordinates(i, t, in);
    const float* bias = this->load_bias(l, t.clip, x.bias);
    const T* w = this->weights + t.n * this->packed_all() + this->offset(i, false);
    product(in, widest, t.points * shape.rows(), w, l.out, l.in, x.c, [&](float* c, int64_t n0, int64_t lanes) {
      for (int64_t r = 0; r < t.points; r++)
        for (int64_t j = 0; j < lanes; j += W) {
          float* to = c + r * lanes + j;
          store(to, load(to) + load(bias + n0 + j));
        }
      finish(c, n0, lanes);
    });
  }

  // Applies a layer's activation to a block; Stored is the type in which the results are stored.
  template <class Stored>
  void activate(float* c, int64_t lanes, int64_t m, const FusedInrLayer& l) const {
    with_activation(l.activation,
                    [&](auto code) { activate_jets<decltype(code)::value, Stored>(c, lanes, lanes, m, shape, l); });
  }

  template <class To>
  void copy_block(const float* c, int64_t n0, int64_t lanes, int64_t m, To* to) const {
    for (int64_t r = 0; r < m * shape.rows(); r++)
      for (int64_t j = 0; j < lanes; j += W) store(to + r * widest + n0 + j, load(c + r * lanes + j));
  }

  void tile(const Tile& t, const Scratch& x) const {
    T *in = x.a, *to = x.b;
    for (int i = 0; i < p.num_layers; i++) {
      multiply(i, t, in, x, [&](float* c, int64_t n0, int64_t lanes) {
        if (this->is_last(i)) {
          activate<float>(c, lanes, t.points, p.layers[i]);
          write(c, n0, lanes, t);
        } else {
          activate<T>(c, lanes, t.points, p.layers[i]);
          copy_block(c, n0, lanes, t.points, to);
        }
      });
      swap_pointers(in, to);
    }
  }

  // Writes a block of the last layer to the results.
  void write(const float* c, int64_t n0, int64_t lanes, const Tile& t) const {
    const int64_t at = t.clip * p.points + t.first, axes = shape.axes, next = t.points * lanes;
    const int64_t end = std_min(lanes, Base::outputs() - n0);
    for (int64_t r = 0; r < t.points; r++)
      for (int64_t j = 0; j < end; j++) {
        const int64_t to = (at + r) * Base::outputs() + n0 + j;
        const float *value = c + r * lanes + j, *first = value + next, *second = first + axes * next;
        p.out[to] = *value;
        for (int64_t a = 0; a < axes; a++) p.jacobian[to * axes + a] = first[a * next];
        if (shape.hessian) {
          float *matrix = p.hessian + to * axes * axes, trace = 0.0f;
          for (int64_t a = 0; a < axes; a++)
            for (int64_t b = a; b < axes; b++, second += next) {
              matrix[a * axes + b] = matrix[b * axes + a] = *second;
              if (a == b) trace += *second;
            }
          p.laplacian[to] = trace;
        } else if (shape.order == 2) {
          p.laplacian[to] = *second;
        }
      }
  }

  // The buffers of one thread for the backward pass, [rows][widest] each.
  struct Work {
    T** inputs;      // of each layer
    float** before;  // of each layer's activation
    float* gradient;
    T* delta;
    S *delta_steps, *input_steps, *block;
  };
  Work work(Arena& arena) const {
    const int64_t size = tile_rows() * widest;
    Work x;
    x.inputs = arena.take<T*>(p.num_layers);
    x.before = arena.take<float*>(p.num_layers);
    for (int i = 0; i < p.num_layers; i++) {
      T* inputs = arena.take<T>(size);
      float* before = arena.take<float>(size);
      if (arena.base) x.inputs[i] = inputs, x.before[i] = before;
    }
    x.gradient = arena.take<float>(size);
    x.delta = arena.take<T>(size);
    x.delta_steps = arena.take<S>(size);
    x.input_steps = arena.take<S>(size);
    x.block = arena.take<S>(tile_rows() * NB);
    return x;
  }

  // Reads the gradients of the results as gradients of the jets of the last layer.
  void read(const FusedInrPointsGradients& g, const Tile& t, float* to) const {
    const int64_t at = t.clip * p.points + t.first, axes = shape.axes, next = t.points * widest;
    const int64_t padded = round_up(Base::outputs(), W);
    for (int64_t r = 0; r < t.points * shape.rows(); r++)
      for (int64_t j = Base::outputs(); j < padded; j++) to[r * widest + j] = 0.0f;
    for (int64_t r = 0; r < t.points; r++)
      for (int64_t j = 0; j < Base::outputs(); j++) {
        const int64_t from = (at + r) * Base::outputs() + j;
        float *value = to + r * widest + j, *first = value + next, *second = first + axes * next;
        *value = g.out[from];
        for (int64_t a = 0; a < axes; a++) first[a * next] = g.jacobian[from * axes + a];
        if (shape.hessian) {
          const float* matrix = g.hessian + from * axes * axes;
          for (int64_t a = 0; a < axes; a++)
            for (int64_t b = a; b < axes; b++, second += next)
              *second = matrix[a * axes + b] + (a == b ? g.laplacian[from] : matrix[b * axes + a]);
        } else if (shape.order == 2) {
          *second = g.laplacian[from];
        }
      }
  }

  // Evaluates a tile forward, and keeps what each layer multiplies and activates.
  void keep_forward(const Tile& t, const Scratch& s, const Work& x) const {
    for (int i = 0; i < p.num_layers; i++)
      multiply(i, t, x.inputs[i], s, [&](float* c, int64_t n0, int64_t lanes) {
        copy_block(c, n0, lanes, t.points, x.before[i]);
        if (this->is_last(i)) return;
        activate<T>(c, lanes, t.points, p.layers[i]);
        copy_block(c, n0, lanes, t.points, x.inputs[i + 1]);
      });
  }

  // Multiplies the gradients of a layer's outputs by the derivative of its activation: the result is what the gradients
  // of its weight and of its inputs are made of. Adds to the bias gradient.
  void to_delta(int i, const Tile& t, const Work& x, float* bias) const {
    const FusedInrLayer& l = p.layers[i];
    const int64_t m = t.points, columns = round_up(l.out, W);
    with_activation(l.activation, [&](auto code) {
      through_jets<decltype(code)::value, T>(x.before[i], x.gradient, widest, columns, m, shape, l);
    });
    for (int64_t r = 0; r < m * shape.rows(); r++)
      for (int64_t j = 0; j < columns; j += W) {
        const vf d = load(x.gradient + r * widest + j);
        if (r < m) store(bias + j, load(bias + j) + d);
        store(x.delta + r * widest + j, d);
      }
  }

  // Evaluates a tile forward and then backwards. The gradients of the weights and biases are added to `sums`; those of
  // the coordinates are written unless g.coords is null.
  void tile_backward(const Tile& t, const FusedInrPointsGradients& g, const Scratch& s, const Work& x,
                     float* sums) const {
    const int64_t rows = t.points * shape.rows(), axes = shape.axes;
    keep_forward(t, s, x);
    read(g, t, x.gradient);
    float* const coords = g.coords ? g.coords + (t.clip * p.points + t.first) * axes : nullptr;
    for (int64_t i = 0; coords && i < t.points * axes; i++) coords[i] = 0.0f;
    for (int i = p.num_layers - 1; i >= 0; i--) {
      const FusedInrLayer& l = p.layers[i];
      to_delta(i, t, x, sums + this->sum_offset(i, true));
      const S* a = in_steps(x.delta, widest, rows, round_up(l.out, W), (S*)x.delta_steps);
      const S* b = in_steps(x.inputs[i], widest, rows, round_up(l.in, W), (S*)x.input_steps);
      outer_product(a, widest, l.out, b, widest, l.in, steps(rows, T()), sums + this->sum_offset(i, false), x.block);
      if (i == 0 && !coords) return;
      // The derivatives of the coordinates are constant: the first layer needs the gradients of values alone.
      const int64_t needed = i ? rows : t.points;
      const T* w = this->transposed + t.n * this->transposed_all() + this->offset(i, true);
      product(x.delta, widest, needed, w, l.in, l.out, s.c, [&](const float* c, int64_t n0, int64_t lanes) {
        for (int64_t r = 0; r < needed; r++)
          for (int64_t j = 0; j < lanes; j += W) store(x.gradient + r * widest + n0 + j, load(c + r * lanes + j));
        if (coords) this->add_coordinates(c, n0, lanes, i, t.points, coords);
      });
    }
  }
};

}  // namespace ISA_NAME
