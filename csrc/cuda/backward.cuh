// Gradients of the whole network in one kernel. A warp recomputes the forward pass of its tile of 16 points and keeps
// one number per activation in shared memory: the angle of its sine, from which the backward pass computes both the
// sine and the cosine, and which the gradient then overwrites. The forward kernel stores nothing for it.
//
// Each block adds its sums over points to its own part of `partials`; reduce.cuh adds those of all blocks in order.
#pragma once

#include "network.cuh"

namespace fused_inr {

// Shared memory after the weights and the float32 coordinates.
struct Slabs {
  char* memory;
  Layout layout;
  int rows;

  __device__ char* angles(int layer) const { return memory + layout.angles(layer, rows); }
  __device__ char* sines() const { return memory + layout.sines(rows); }
  __device__ char* last_delta() const { return memory + layout.last_delta(rows); }
  __device__ char* coords() const { return memory + layout.coords_blocks(rows); }
};

// Stores the warp's coordinates in the compute type, the right operand of the first layer's weight gradients.
template <class T>
__device__ void store_coords(const Network& net, const float* coords, char* to, int warp, int lane) {
  const int inputs = net.layout.inputs, half = net.layout.coords_half(), columns = net.layout.coords_columns();
  for (int j = 0; j < columns / 16; j++) {
    Sums c;
    UNROLL for (int i = 0; i < 8; i++) {
      const int row = i % 4 / 2 * 8 + lane / 4, column = 16 * j + i / 4 * 8 + lane % 4 * 2 + i % 2;
      const int k = T::SPLIT_COORDS && column >= half ? column - half : column;
      const float x = k < inputs ? coords[row * net.layout.coords_row() + k] : 0.0f;
      c[i / 4][i % 4] = x;
      if (T::SPLIT_COORDS && column >= half) {
        Sums rounded = {{x}};
        T::values(T::fragment(rounded), rounded);
        c[i / 4][i % 4] = x - rounded[0][0];
      }
    }
    T::store(to, columns / 8, warp, j, lane, T::fragment(c));
  }
}

// The gradient of the last layer's W x + b, for the warp's points.
template <class T, int GROUPS>
__device__ typename T::Fragment last_delta(const Network& net, const Share& share, int64_t start, const char* weights,
                                           const typename T::Fragment (&x)[GROUPS][1]) {
  Sums d;
  UNROLL for (int i = 0; i < 8; i++) {
    const int64_t point = start + i % 4 / 2 * 8 + share.lane / 4;
    const int channel = i / 4 * 8 + share.lane % 4 * 2 + i % 2;
    const bool valid = point < net.points && channel < net.outputs;
    d[i / 4][i % 4] = valid ? net.gradient[(share.sample * net.points + point) * net.outputs + channel] : 0.0f;
  }
  if (net.final_sine) {
    Sums angle[1];
    last_layer<T>(net, weights, x, share.lane, angle);
    reduce_angles(angle[0]);
    UNROLL for (int i = 0; i < 8; i++)
      d[i / 4][i % 4] *= net.omega * cosine_near_zero(angle[0][i / 4][i % 4]);
  }
  return T::fragment(d);
}

// Propagates `delta` back through a layer's product and through the sine before it, to `next`. Stores the sines for the
// layer's weight gradients, and overwrites the angles with `next`.
template <class T, int GROUPS, int FROM>
__device__ void layer_back(const typename T::Fragment (&delta)[FROM], const char* w, float omega, char* angles,
                           char* sines, int warp, int lane, typename T::Fragment (&next)[GROUPS]) {
  UNROLL for (int j = 0; j < GROUPS; j++) {
    Sums d = {}, angle, sine;
    UNROLL for (int k = 0; k < FROM; k++)
      T::multiply_back(d, delta[k], w, 2 * GROUPS, k, j, lane);
    T::decode(T::load(angles, 2 * GROUPS, warp, j, lane), angle);
    UNROLL for (int i = 0; i < 8; i++) {
      sine[i / 4][i % 4] = sine_near_zero(angle[i / 4][i % 4]);
      d[i / 4][i % 4] *= omega * cosine_near_zero(angle[i / 4][i % 4]);
    }
    T::store(sines, 2 * GROUPS, warp, j, lane, T::fragment(sine));
    next[j] = T::fragment(d);
    T::store(angles, 2 * GROUPS, warp, j, lane, next[j]);
  }
}

// Adds delta^T x, summed over the block's rows, to the sums of a layer's weight gradients [columns of delta][columns of
// x], and the sums of delta to those of its bias. One warp computes 16 x (16 UNITS) of them at a time.
template <class T, int UNITS>
__device__ void sum_weights(const char* delta, int delta_groups, const char* x, int x_groups, float* sums,
                            float* bias_sums, bool first_tile, const Share& share) {
  const int lane = share.lane, across = x_groups / UNITS;
  for (int unit = share.warp; unit < delta_groups * across; unit += share.warps) {
    const int o = unit / across, i = unit % across * UNITS;
    float4* places = (float4*)(sums + (int64_t(o) * x_groups + i) * 256) + lane;
    float* bias = bias_sums + 16 * o + lane / 4;
    Sums c[UNITS] = {};
    float b[4] = {};
    if (!first_tile) {
      UNROLL for (int u = 0; u < 2 * UNITS; u++) {
        const float4 before = places[u * 32];
        c[u / 2][u % 2][0] = before.x, c[u / 2][u % 2][1] = before.y;
        c[u / 2][u % 2][2] = before.z, c[u / 2][u % 2][3] = before.w;
      }
      if (i == 0) b[0] = bias[0], b[2] = bias[8];
    }
    for (int row = 0; row < share.warps; row++) {
      const typename T::Columns a = T::columns(delta, 2 * delta_groups, row, o, lane);
      UNROLL for (int u = 0; u < UNITS; u++)
        T::multiply_rows(c[u], a, x, 2 * x_groups, row, i + u, lane);
      if (i == 0) T::sum_rows(b, a);
    }
    UNROLL for (int u = 0; u < 2 * UNITS; u++)
      places[u * 32] = {c[u / 2][u % 2][0], c[u / 2][u % 2][1], c[u / 2][u % 2][2], c[u / 2][u % 2][3]};
    __syncwarp();  // all lanes of a row have read the bias before one of them writes it
    if (i == 0 && lane % 4 == 0) bias[0] = b[0], bias[8] = b[2];
  }
}

// Computes the gradients of the warp's coordinates, W^T delta of the first layer, in float32.
template <class T, int GROUPS>
__device__ void coords_back(const Network& net, const Share& share, int64_t start, const char* weights,
                            const typename T::Fragment (&delta)[GROUPS]) {
  const int inputs = net.layout.inputs;
  const float* w = (const float*)(weights + net.layout.first()) + share.lane % 4 * 2;
  float* to = net.coords_gradient + (share.sample * net.points + start) * inputs;
  const int row = share.lane / 4;
  ROLLED for (int k = 0; k < inputs; k++) {
    float sum[2] = {0, 0};
    UNROLL for (int j = 0; j < GROUPS; j++) {
      Sums d;
      T::values(delta[j], d);
      UNROLL for (int half = 0; half < 2; half++) {
        const float2 pair = *(const float2*)(w + k * 16 * GROUPS + 16 * j + 8 * half);
        UNROLL for (int i = 0; i < 2; i++)
          sum[i] = fma(d[half][2 * i + 1], pair.y, fma(d[half][2 * i], pair.x, sum[i]));
      }
    }
    UNROLL for (int i = 0; i < 2; i++) {
      sum[i] = add_lanes_of_row(sum[i]);
      if (share.lane % 4 == 0 && start + row + 8 * i < net.points) to[int64_t(row + 8 * i) * inputs + k] = sum[i];
    }
  }
}

template <class T, int WIDTH>
__global__ void __launch_bounds__(32 * FUSED_INR_MAX_WARPS, 1) siren_backward(const Network net) {
  constexpr int GROUPS = WIDTH / 16, UNITS = GROUPS > 1 ? 2 : 1;
  SHARED_MEMORY(weights);
  const Layout& layout = net.layout;
  const Share share = share_of(net);
  const int lane = share.lane, warp = share.warp, rows = 16 * share.warps, end = layout.layers - 1;
  const Slabs slabs = {weights, layout, rows};
  float* coords = (float*)(weights + round_up(layout.packed(), 128)) + warp * 16 * layout.coords_row();
  float* sums = net.partials + int64_t(blockIdx.x) * layout.sums();
  load_weights(net, share.sample, weights);
  copies_wait();
  __syncthreads();

  const int64_t tiles = (net.points + rows - 1) / rows;
  const int64_t first = tiles * share.index / net.blocks, stop = tiles * (share.index + 1) / net.blocks;
  for (int64_t tile = first; tile < stop; tile++) {
    const int64_t start = tile * rows + 16 * warp;
    typename T::Fragment x[GROUPS][1], next[GROUPS][1];
    auto store_angle = [&](int layer, int j, Sums& angle, typename T::Fragment& to) {
      T::store(slabs.angles(layer), 2 * GROUPS, warp, j, lane, T::encode(angle));
      apply_sine(angle);
      to = T::fragment(angle);
    };
    load_coords(net, share.sample, start, 16, lane, coords);
    store_coords<T>(net, coords, slabs.coords(), warp, lane);
    first_layer<GROUPS, 1>(net, weights, coords, lane,
                           [&](int j, int, Sums& angle) { store_angle(0, j, angle, x[j][0]); });
    ROLLED for (int layer = 1; layer < end; layer++) {
      square_layer<T>(net, layer, weights, x, lane,
                      [&](int j, int, Sums& angle) { store_angle(layer, j, angle, next[j][0]); });
      UNROLL for (int j = 0; j < GROUPS; j++)
        x[j][0] = next[j][0];
    }

    typename T::Fragment last[1] = {last_delta<T>(net, share, start, weights, x)}, delta[GROUPS], before[GROUPS];
    T::store(slabs.last_delta(), 2, warp, 0, lane, last[0]);
    layer_back<T>(last, weights + layout.last(), net.omega_of(end - 1), slabs.angles(end - 1), slabs.sines(), warp,
                  lane, delta);
    __syncthreads();
    sum_weights<T, UNITS>(slabs.last_delta(), 1, slabs.sines(), GROUPS, sums + layout.sum_weight(end),
                          sums + layout.sum_bias(end), tile == first, share);
    ROLLED for (int layer = end - 1; layer > 0; layer--) {
      __syncthreads();  // before the sines are overwritten
      layer_back<T>(delta, weights + layout.square(layer), net.omega_of(layer - 1), slabs.angles(layer - 1),
                    slabs.sines(), warp, lane, before);
      UNROLL for (int j = 0; j < GROUPS; j++)
        delta[j] = before[j];
      __syncthreads();
      sum_weights<T, UNITS>(slabs.angles(layer), GROUPS, slabs.sines(), GROUPS, sums + layout.sum_weight(layer),
                            sums + layout.sum_bias(layer), tile == first, share);
    }
    if (net.coords_gradient) coords_back<T>(net, share, start, weights, delta);
    sum_weights<T, 1>(slabs.angles(0), GROUPS, slabs.coords(), layout.coords_columns() / 16, sums,
                      sums + layout.sum_bias(0), tile == first, share);
    __syncthreads();  // before the next tile overwrites everything
  }
}

}  // namespace fused_inr
