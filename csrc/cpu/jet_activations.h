// The end of a layer whose rows are jets: bias and activation, forward and backward.
//
// The jet of a point has a row for the value, a row for the derivative along each of K axes, and S rows for second
// derivatives: one for their sum over equal axes (the Laplacian), or one per pair of axes (the Hessian). In a tile of m
// points row t of point r is row t * m + r, so that the values come first.
#pragma once

#include "abi.h"
#include "activations.h"
#include "simd.h"
#include "support.h"

namespace ISA_NAME {

struct JetShape {
  int64_t axes;  // K
  int32_t order;
  int32_t hessian;

  int64_t second() const { return order < 2 ? 0 : hessian ? axes * (axes + 1) / 2 : 1; }
  int64_t rows() const { return 1 + axes + second(); }
};

// Applies an activation to jets, in place, in the first n columns of rows with stride ld. T is the type in which the
// results are stored.
template <int ACTIVATION, class T>
static void activate_jets(float* jets, int64_t ld, int64_t n, int64_t m, const JetShape& shape,
                          const FusedInrLayer& l) {
  const int64_t next = m * ld, axes = shape.axes;  // `next` leads to the next row of a jet
  for (int64_t r = 0; r < m; r++)
    for (int64_t j = 0; j < n; j += W) {
      float *value = jets + r * ld + j, *first = value + next, *second = first + axes * next;
      const Jet<2> f = activation_jet<ACTIVATION, 2, T>(load(value), l);
      store(value, f.d[0]);
      if (shape.hessian) {
        for (int64_t a = 0; a < axes; a++) {
          const vf bent = f.d[2] * load(first + a * next);
          for (int64_t b = a; b < axes; b++, second += next)
            store(second, bent * load(first + b * next) + f.d[1] * load(second));
        }
      } else if (shape.order == 2) {
        vf squares = {};
        for (int64_t a = 0; a < axes; a++) squares += load(first + a * next) * load(first + a * next);
        store(second, f.d[2] * squares + f.d[1] * load(second));
      }
      for (int64_t a = 0; a < axes; a++) store(first + a * next, f.d[1] * load(first + a * next));
    }
}

// Multiplies gradients of activated jets, in place, by the derivative of that at `jets`, the activation's input.
template <int ACTIVATION, class T>
static void through_jets(const float* jets, float* gradients, int64_t ld, int64_t n, int64_t m, const JetShape& shape,
                         const FusedInrLayer& l) {
  const int64_t next = m * ld, axes = shape.axes;
  for (int64_t r = 0; r < m; r++)
    for (int64_t j = 0; j < n; j += W) {
      const float *value = jets + r * ld + j, *first = value + next, *second = first + axes * next;
      float *of_value = gradients + r * ld + j, *of_first = of_value + next, *of_second = of_first + axes * next;
      const Jet<3> f = activation_jet<ACTIVATION, 3, T>(load(value), l);
      vf sum = f.d[1] * load(of_value);
      for (int64_t a = 0; a < axes; a++) {
        const vf d = load(of_first + a * next);
        sum += f.d[2] * load(first + a * next) * d;
        store(of_first + a * next, f.d[1] * d);
      }
      if (shape.hessian) {
        for (int64_t a = 0; a < axes; a++)
          for (int64_t b = a; b < axes; b++, second += next, of_second += next) {
            const vf d = load(of_second), x = load(first + a * next), y = load(first + b * next);
            sum += (f.d[3] * x * y + f.d[2] * load(second)) * d;
            store(of_first + a * next, load(of_first + a * next) + f.d[2] * y * d);
            store(of_first + b * next, load(of_first + b * next) + f.d[2] * x * d);
            store(of_second, f.d[1] * d);
          }
      } else if (shape.order == 2) {
        const vf d = load(of_second), bent = 2.0f * f.d[2] * d;
        vf squares = {};
        for (int64_t a = 0; a < axes; a++) {
          const vf x = load(first + a * next);
          squares += x * x;
          store(of_first + a * next, load(of_first + a * next) + bent * x);
        }
        sum += (f.d[3] * squares + f.d[2] * load(second)) * d;
        store(of_second, f.d[1] * d);
      }
      store(of_value, sum);
    }
}

}  // namespace ISA_NAME
