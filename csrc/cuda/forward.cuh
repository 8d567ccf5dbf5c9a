// The whole network in one kernel: weights stay in shared memory, activations in registers from the first layer to the
// last. Every warp takes 16 M points at a time on its own.
//
// There is no wgmma: at these widths the tensor cores are not what is waited for. Per layer of width W and point
// there are W sines, of which a multiprocessor's special function units make 16 a clock: W / 16 clocks. The W^2
// multiply-adds take W^2 / 1024 clocks by mma on an A100, and about as many on an H100, where wgmma would halve them:
// at W = 64 as long as the sines, which go on beside them. wgmma would save something at W = 128 alone, and would tie
// four warps to one pace. Nor is there TMA: weights are copied once a block.
#pragma once

#include "network.cuh"

namespace fused_inr {

// Blocks are as small as their weights allow, since registers then go around with less left over: 12 warps of a
// multiprocessor and more, but for the widest network and float32.
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
  for (int64_t at = (share.index * share.warps + share.warp) * ROWS; at < net.points; at += step) {
    load_coords(net, share.sample, at, ROWS, lane, coords);
    typename T::Fragment x[GROUPS][M], next[GROUPS][M];
    first_layer<GROUPS, M>(net, weights, coords, lane, [&](int j, int m, Sums& angle) {
      take_sines(angle);
      x[j][m] = T::fragment(angle);
    });
    ROLLED for (int layer = 1; layer + 1 < net.layout.layers; layer++) {
      square_layer<T>(net, layer, weights, x, lane, [&](int j, int m, Sums& angle) {
        take_sines(angle);
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
        take_sines(c[m]);
      }
      UNROLL for (int i = 0; i < 8; i++) {
        const int64_t point = at + 16 * m + i % 4 / 2 * 8 + lane / 4;
        const int channel = i / 4 * 8 + lane % 4 * 2 + i % 2;
        if (point < net.points && channel < net.outputs)
          net.out[(share.sample * net.points + point) * net.outputs + channel] = c[m][i / 4][i % 4];
      }
    }
  }
}

}  // namespace fused_inr
