// Packs weights into the layout of shared memory, before the network's kernels run.
#pragma once

#include "engine.cuh"

namespace fused_inr {

constexpr int SIMPLE_THREADS = 256;

// Returns an element of a layer's weight, or zero outside it.
__device__ inline float weight_at(const FusedInrSirenLayer& layer, int64_t sample, int row, int column) {
  if (row >= layer.outputs || column >= layer.inputs) return 0.0f;
  return layer.weight[sample * layer.weight_sample + row * layer.weight_row + column * layer.weight_column];
}

// One thread writes 32 bits of a sample's packed weights.
template <class T>
__global__ void __launch_bounds__(SIMPLE_THREADS) pack_weights(const FusedInrSiren siren, const Layout layout) {
  const int64_t thread = int64_t(blockIdx.x) * SIMPLE_THREADS + threadIdx.x, words = layout.packed() / 4;
  if (thread >= siren.packed_samples * words) return;
  const int64_t sample = thread / words;
  const int byte = int(thread % words) * 4, width = layout.width;
  uint32_t word;
  if (byte < layout.first()) {
    const int element = byte / T::ELEMENT, layer = element / (width * width);  // the last one is the smallest
    const int block = element % (width * width) / 64, place = element % 64;
    const int row = block / (width / 8) * 8 + place / 8, column = block % (width / 8) * 8 + place % 8;
    const FusedInrSirenLayer& from = siren.layers[layer + 1];
    word = T::word(weight_at(from, sample, row, column), weight_at(from, sample, row, column + 1));
  } else if (byte < layout.biases()) {
    const int element = (byte - layout.first()) / 4;
    word = bits_of(weight_at(siren.layers[0], sample, element % width, element / width));
  } else {
    const int element = (byte - layout.biases()) / 4;
    const int layer = element / width, row = element % width;
    const FusedInrSirenLayer& from = siren.layers[layer];
    const float bias = row < from.outputs ? from.bias[sample * from.bias_sample + row * from.bias_row] : 0.0f;
    word = bits_of(from.sine ? from.omega * bias : bias);
  }
  *(uint32_t*)((char*)siren.packed + sample * layout.packed() + byte) = word;
}

}  // namespace fused_inr
