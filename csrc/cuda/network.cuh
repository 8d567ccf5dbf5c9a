// Code that the forward and the backward kernel share: loading of weights and coordinates, and the layers of a warp.
#pragma once

#include "engine.cuh"

namespace fused_inr {

// The part of a FusedInrSiren that the two kernels need.
struct Network {
  Layout layout;
  int outputs;
  float first_omega, omega;
  bool final_sine;
  int64_t points, blocks;
  const float* coords;
  int64_t coords_sample;
  float* out;
  const float* gradient;
  float* coords_gradient;
  const char* packed;
  int64_t packed_sample;  // stride in bytes, 0 if all samples share the weights
  float* partials;

  HOST_DEVICE float omega_of(int layer) const { return layer == 0 ? first_omega : omega; }
};

// A block's share of the work: its sample, and its index among the blocks of that sample.
struct Share {
  int64_t sample, index;
  int warp, lane, warps;
};
__device__ inline Share share_of(const Network& net) {
  return {int64_t(blockIdx.x) / net.blocks, int64_t(blockIdx.x) % net.blocks, int(threadIdx.x) / 32,
          int(threadIdx.x) % 32, int(blockDim.x) / 32};
}

// Starts the copy of a sample's packed weights; copies_wait and a barrier complete it.
__device__ inline void load_weights(const Network& net, int64_t sample, char* shared) {
  const char* from = net.packed + sample * net.packed_sample;
  for (int i = threadIdx.x * 16; i < net.layout.packed(); i += blockDim.x * 16) copy_16(shared + i, from + i);
}

// Loads the coordinates of `rows` points from point `start` on, by one warp; zeros beyond the last point.
__device__ inline void load_coords(const Network& net, int64_t sample, int64_t start, int rows, int lane, float* to) {
  const int inputs = net.layout.inputs, row_floats = net.layout.coords_row();
  const float* from = net.coords + sample * net.coords_sample + start * inputs;
  const int64_t remaining = (net.points - start) * inputs;
  __syncwarp();  // other lanes may still be reading the previous points
  for (int i = lane; i < rows * inputs; i += 32)
    to[i / inputs * row_floats + i % inputs] = i < remaining ? from[i] : 0.0f;
  __syncwarp();
}

// Turns c = W x into the angles of the layer's sine or, without a sine, into its outputs, for 16 columns from 16 j.
__device__ inline void finish(Sums& c, const float* bias, float omega, int j, int lane) {
  UNROLL for (int half = 0; half < 2; half++) {
    const float2 b = *(const float2*)(bias + 16 * j + 8 * half + lane % 4 * 2);
    UNROLL for (int i = 0; i < 4; i++)
      c[half][i] = fma(omega, c[half][i], i % 2 ? b.y : b.x);
  }
}

// Replaces angles beyond FAR. One at a time, because all at once would need too many registers and instructions.
__device__ inline void reduce_far_angles(Sums& c) {
  ROLLED for (int k = 0; k < 8; k++) {
    float a = 0.0f;
    UNROLL for (int i = 0; i < 8; i++)
      a = i == k ? c[i / 4][i % 4] : a;
    if (fabsf(a) > FAR) a = far_remainder_of(a);
    UNROLL for (int i = 0; i < 8; i++)
      c[i / 4][i % 4] = i == k ? a : c[i / 4][i % 4];
  }
}

__device__ inline void reduce_angles(Sums& c) {
  float largest = 0.0f;
  UNROLL for (int i = 0; i < 8; i++)
    largest = fmaxf(largest, fabsf(c[i / 4][i % 4]));
  if (largest > FAR) reduce_far_angles(c);
  UNROLL for (int i = 0; i < 8; i++)
    c[i / 4][i % 4] = remainder_of(c[i / 4][i % 4]);
}

__device__ inline void apply_sine(Sums& c) {
  UNROLL for (int i = 0; i < 8; i++)
    c[i / 4][i % 4] = sine_near_zero(c[i / 4][i % 4]);
}

// The first layer, in float32: calls consume(j, m, c) with the reduced angles of rows 16 m .. and columns 16 j ..
template <int GROUPS, int M, class Consume>
__device__ inline void first_layer(const Network& net, const char* weights, const float* coords, int lane,
                                   Consume consume) {
  constexpr int WIDTH = 16 * GROUPS;
  const int inputs = net.layout.inputs, row_floats = net.layout.coords_row();
  const float* row_coords = coords + lane / 4 * row_floats;
  const float* bias = (const float*)(weights + net.layout.bias(0));
  UNROLL for (int j = 0; j < GROUPS; j++) {
    const float* w = (const float*)(weights + net.layout.first()) + 16 * j + lane % 4 * 2;
    Sums c[M] = {};
    ROLLED for (int k = 0; k < inputs; k++) {
      const float2 a = *(const float2*)(w + k * WIDTH), b = *(const float2*)(w + k * WIDTH + 8);
      UNROLL for (int m = 0; m < M; m++) {
        UNROLL for (int row = 0; row < 2; row++) {
          const float x = row_coords[(16 * m + 8 * row) * row_floats + k];
          c[m][0][2 * row] = fma(a.x, x, c[m][0][2 * row]);
          c[m][0][2 * row + 1] = fma(a.y, x, c[m][0][2 * row + 1]);
          c[m][1][2 * row] = fma(b.x, x, c[m][1][2 * row]);
          c[m][1][2 * row + 1] = fma(b.y, x, c[m][1][2 * row + 1]);
        }
      }
    }
    UNROLL for (int m = 0; m < M; m++) {
      finish(c[m], bias, net.first_omega, j, lane);
      reduce_angles(c[m]);
      consume(j, m, c[m]);
    }
  }
}

// W x of 16 M rows, for 16 columns of the output from 16 j.
template <class T, int GROUPS, int M>
__device__ inline void product(Sums (&c)[M], const typename T::Fragment (&x)[GROUPS][M], const char* w, int j,
                               int lane) {
  UNROLL for (int k = 0; k < GROUPS; k++)
    T::multiply(c, x[k], w, 2 * GROUPS, j, k, lane);
}

// A square layer: as first_layer, with the fragments x as its input.
template <class T, int GROUPS, int M, class Consume>
__device__ inline void square_layer(const Network& net, int layer, const char* weights,
                                    const typename T::Fragment (&x)[GROUPS][M], int lane, Consume consume) {
  const char* w = weights + net.layout.square(layer);
  const float* bias = (const float*)(weights + net.layout.bias(layer));
  UNROLL for (int j = 0; j < GROUPS; j++) {
    Sums c[M] = {};
    product<T>(c, x, w, j, lane);
    UNROLL for (int m = 0; m < M; m++) {
      finish(c[m], bias, net.omega, j, lane);
      reduce_angles(c[m]);
      consume(j, m, c[m]);
    }
  }
}

// The last layer: its outputs, or its angles if the network ends with a sine.
template <class T, int GROUPS, int M>
__device__ inline void last_layer(const Network& net, const char* weights, const typename T::Fragment (&x)[GROUPS][M],
                                  int lane, Sums (&c)[M]) {
  const int layer = net.layout.layers - 1;
  UNROLL for (int m = 0; m < M; m++) {
    UNROLL for (int i = 0; i < 8; i++)
      c[m][i / 4][i % 4] = 0;
  }
  product<T>(c, x, weights + net.layout.last(), 0, lane);
  UNROLL for (int m = 0; m < M; m++)
    finish(c[m], (const float*)(weights + net.layout.bias(layer)), net.final_sine ? net.omega : 1.0f, 0, lane);
}

}  // namespace fused_inr
