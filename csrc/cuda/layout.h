// Where the parts of a sample's packed weights, of a block's shared memory and of its sums of gradients are.
//
// A matrix whose rows and columns are multiples of 8 is stored as blocks of 8 x 8, row of blocks after row of blocks,
// each block row by row. A block is then what the 32 lanes of a warp hold in one register of a fragment of mma, lane
// after lane: it is stored and loaded without bank conflicts, as it is or transposed.
#pragma once

#include "abi.h"

#ifdef FUSED_INR_HOST
#define BOTH inline
#else
#define BOTH __host__ __device__ inline
#endif

namespace fused_inr {

BOTH int round_up(int x, int unit) { return (x + unit - 1) / unit * unit; }

struct Layout {
  int width, layers, inputs;
  int element;  // bytes of a number of the compute type

  BOTH int squares() const { return layers - 2; }
  BOTH int outputs() const { return FUSED_INR_MOST_OUTPUTS; }

  // Packed weights, byte offsets: the layers from width to width, then the last one's 16 x width, in blocks; the first
  // one's [K][width] in float32; omega * bias of every layer in float32. Shared memory begins with a copy of it.
  BOTH int square(int layer) const { return (layer - 1) * width * width * element; }
  BOTH int last() const { return square(layers - 1); }
  BOTH int first() const { return last() + outputs() * width * element; }
  BOTH int biases() const { return first() + inputs * width * 4; }
  BOTH int bias(int layer) const { return biases() + layer * width * 4; }
  BOTH int packed() const { return bias(layers - 1) + outputs() * 4; }

  // An odd number of floats, so that the rows of a fragment are in different banks.
  BOTH int coords_row() const { return inputs | 1; }
  BOTH int coords(int rows) const { return round_up(rows * coords_row() * 4, 128); }
  BOTH int forward_shared(int rows) const { return round_up(packed(), 128) + coords(rows); }

  // Columns that hold the coordinates as right-hand side of the first layer's weight gradients. Half-precision numbers
  // would round them, so they are two each: the rounded coordinate, and what rounding took away.
  BOTH int coords_half() const { return inputs <= 8 ? 8 : 16; }
  BOTH int coords_columns() const { return element == 4 ? 16 : 2 * coords_half(); }

  // Shared memory of the backward pass over `rows` points, beyond the packed weights and the coordinates: an activation
  // of every hidden layer (its angle, later the gradient of what the sine was given), the sines of one layer, the
  // gradient of the last layer, and the coordinates in the compute type.
  BOTH int slab(int rows) const { return rows * width * element; }
  BOTH int angles(int layer, int rows) const { return forward_shared(rows) + layer * slab(rows); }
  BOTH int sines(int rows) const { return angles(layers - 1, rows); }
  BOTH int last_delta(int rows) const { return sines(rows) + slab(rows); }
  BOTH int coords_blocks(int rows) const { return last_delta(rows) + rows * outputs() * element; }
  BOTH int backward_shared(int rows) const { return coords_blocks(rows) + rows * coords_columns() * element; }

  // Sums of gradients of a block, in floats: weights of the first, the square and the last layers as fragments of
  // accumulators of 16 x 8, then the biases.
  BOTH int64_t sum_square(int layer) const { return width * coords_columns() + int64_t(layer - 1) * width * width; }
  BOTH int64_t sum_weight(int layer) const { return layer == 0 ? 0 : sum_square(layer); }
  BOTH int64_t sum_biases() const { return sum_square(layers - 1) + outputs() * width; }
  BOTH int64_t sum_bias(int layer) const { return sum_biases() + int64_t(layer) * width; }
  BOTH int64_t sums() const { return sum_bias(layers - 1) + outputs(); }
  BOTH int columns(int layer) const { return layer == 0 ? coords_columns() : width; }
};

// Place of element (row, column) of a matrix of accumulators: fragments of 16 x 8, each lane's four floats together.
BOTH int64_t sum_place(int row, int column, int columns) {
  const int64_t fragment = int64_t(row / 16) * (columns / 8) + column / 8;
  const int lane = row % 8 * 4 + column % 8 / 2;
  return fragment * 128 + lane * 4 + row % 16 / 8 * 2 + column % 2;
}

}  // namespace fused_inr
