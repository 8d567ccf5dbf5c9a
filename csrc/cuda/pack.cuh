// Before and after: weights into the layout of shared memory, and sums of gradients out of that of the accumulators.
#pragma once

#include "engine.cuh"

namespace fused_inr {

constexpr int SIMPLE_THREADS = 256;

// An element of a layer's weight, zero beyond its size.
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

// One thread adds up one gradient: of a weight, or of a bias, which is the column after the last one.
static __global__ void __launch_bounds__(SIMPLE_THREADS)
    reduce_gradients(const FusedInrSiren siren, const Layout layout, int64_t blocks_per_layer) {
  const int layer = int(blockIdx.x / blocks_per_layer);
  const FusedInrSirenLayer& to = siren.layers[layer];
  const int64_t thread = blockIdx.x % blocks_per_layer * SIMPLE_THREADS + threadIdx.x;
  const int64_t of_sample = int64_t(to.outputs) * (to.inputs + 1);
  if (thread >= siren.samples * of_sample) return;
  const int64_t sample = thread / of_sample;
  const int row = int(thread % of_sample / (to.inputs + 1)), column = int(thread % (to.inputs + 1));
  const bool is_bias = column == to.inputs;
  const int64_t weight_place = layout.sum_weight(layer) + sum_place(row, is_bias ? 0 : column, layout.columns(layer));
  const int64_t place = is_bias ? layout.sum_bias(layer) + row : weight_place;
  // Where the coordinates are in two parts, so are their products.
  const bool in_parts = layer == 0 && !is_bias && layout.element < 4;
  const int64_t rest = in_parts ? sum_place(row, column + layout.coords_half(), layout.columns(0)) : 0;
  const float* from = siren.partials + sample * siren.blocks * layout.sums();
  float sum = 0;
  for (int64_t block = 0; block < siren.blocks; block++, from += layout.sums()) {
    sum += from[place];
    if (in_parts) sum += from[rest];
  }
  if (is_bias)
    to.bias_gradient[sample * to.outputs + row] = sum;
  else
    to.weight_gradient[(sample * to.outputs + row) * to.inputs + column] = sum;
}

}  // namespace fused_inr
