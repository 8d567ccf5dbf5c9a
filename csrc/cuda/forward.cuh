// The whole network in one kernel: weights stay in shared memory, and activations in registers from the first layer to
// the last. Every warp processes 16 M points at a time, independently of the others.
//
// wgmma is not used, because tensor cores are not the bottleneck at these widths. A layer of width W takes W sines per
// point, and the special function units of a multiprocessor compute 16 per clock: W / 16 clocks. The W^2 multiply-adds
// take W^2 / 1024 clocks with mma on an A100, and about as many on an H100, where wgmma would halve them. At W = 64
// that is as long as the sines, which run at the same time. wgmma would be faster at W = 128 only, and would
// synchronize four warps. TMA is not used either: each block copies the weights once.
#pragma once

#include "network.cuh"

namespace fused_inr {

// Blocks are as small as their weights allow, so that fewer registers remain unused: 12 or more warps per
// multiprocessor, except for the widest network and for float32.
template <int WIDTH>
constexpr int FORWARD_WARPS = WIDTH < 128 ? 4 : 8;
template <class T, int WIDTH>
constexpr int FORWARD_BLOCKS = WIDTH < 64        ? 4
                               : WIDTH == 128    ? 1
                               : T::ELEMENT == 4 ? 2
                                                 : 3;

template <class T, int WIDTH, int M>
__global__ void __launch_bounds__(32 * FORWARD_WARPS<WIDTH>, FORWARD_BLOCKS<T, WIDTH>)
    siren_forward(const Network net) {
  constexpr int GROUPS = WIDTH / 16, ROWS = 16 * M;
  SHARED_MEMORY(weights);
  const Share share = share_of(net);
  const int lane = share.lane;
  float* coords = (float*)(weights + round_up(net.layout.packed(), 128)) + share.warp * ROWS * net.layout.coords_row();
  load_weights(net, share.sample, weights);
  copies_wait();
  __syncthreads();

  const int64_t step = net.blocks * share.warps * ROWS;
  for (int64_t start = (share.index * share.warps + share.warp) * ROWS; start < net.points; start += step) {
    load_coords(net, share.sample, start, ROWS, lane, coords);
    typename T::Fragment x[GROUPS][M], next[GROUPS][M];
    first_layer<GROUPS, M>(net, weights, coords, lane, [&](int j, int m, Sums& angle) {
      apply_sine(angle);
      x[j][m] = T::fragment(angle);
    });
    ROLLED for (int layer = 1; layer + 1 < net.layout.layers; layer++) {
      square_layer<T>(net, layer, weights, x, lane, [&](int j, int m, Sums& angle) {
        apply_sine(angle);
        next[j][m] = T::fragment(angle);
      });
      UNROLL for (int j = 0; j < GROUPS; j++) {
        UNROLL for (int m = 0; m < M; m++)
          x[j][m] = next[j][m];
      }
    }
    Sums c[M];
    last_layer<T>(net, weights, x, lane, c);
    UNROLL for (int m = 0; m < M; m++) {
      if (net.final_sine) {
        reduce_angles(c[m]);
        apply_sine(c[m]);
      }
      UNROLL for (int i = 0; i < 8; i++) {
        const int64_t point = start + 16 * m + i % 4 / 2 * 8 + lane / 4;
        const int channel = i / 4 * 8 + lane % 4 * 2 + i % 2;
        if (point < net.points && channel < net.outputs)
          net.out[(share.sample * net.points + point) * net.outputs + channel] = c[m][i / 4][i % 4];
      }
    }
  }
}

}  // namespace fused_inr
