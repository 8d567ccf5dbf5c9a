// Offsets of the parts of a sample's packed weights, of a block's shared memory and of its sums of gradients.
//
// A matrix whose numbers of rows and columns are multiples of 8 is stored in blocks of 8 x 8; the blocks, and the
// elements of each, are in row-major order. One block is one register of an mma fragment in the order of the 32 lanes
// of a warp, so it is stored and loaded without bank conflicts, also transposed.
#pragma once

#include "abi.h"

#ifdef FUSED_INR_HOST
#define HOST_DEVICE inline
#else
#define HOST_DEVICE __host__ __device__ inline
#endif

namespace fused_inr {

HOST_DEVICE int round_up(int x, int unit) { return (x + unit - 1) / unit * unit; }

struct Layout {
  int width, layers, inputs;
  int element;  // bytes per element of the compute type

  HOST_DEVICE int squares() const { return layers - 2; }
  HOST_DEVICE int outputs() const { return FUSED_INR_MAX_OUTPUTS; }

  // Byte offsets in the packed weights: the square layers [width][width] and the last layer [16][width], in blocks; the
  // first layer [K][width] in float32; omega * bias of every layer in float32. Shared memory starts with a copy.
  HOST_DEVICE int square(int layer) const { return (layer - 1) * width * width * element; }
  HOST_DEVICE int last() const { return square(layers - 1); }
  HOST_DEVICE int first() const { return last() + outputs() * width * element; }
  HOST_DEVICE int biases() const { return first() + inputs * width * 4; }
  HOST_DEVICE int bias(int layer) const { return biases() + layer * width * 4; }
  HOST_DEVICE int packed() const { return bias(layers - 1) + outputs() * 4; }

  // An odd number of floats, so that the rows of a fragment are in different banks.
  HOST_DEVICE int coords_row() const { return inputs | 1; }
  HOST_DEVICE int coords(int rows) const { return round_up(rows * coords_row() * 4, 128); }
  HOST_DEVICE int forward_shared(int rows) const { return round_up(packed(), 128) + coords(rows); }

  // Columns of the coordinates as the right operand of the first layer's weight gradients. In half precision each
  // coordinate takes two columns, the rounded coordinate and the rounding error.
  HOST_DEVICE int coords_half() const { return inputs <= 8 ? 8 : 16; }
  HOST_DEVICE int coords_columns() const { return element == 4 ? 16 : 2 * coords_half(); }

  // Shared memory of the backward pass over `rows` points, after the packed weights and the float32 coordinates: the
  // angles of every hidden layer, later overwritten by gradients of W x + b; the sines of one layer; the gradient of
  // the last layer; the coordinates in the compute type.
  HOST_DEVICE int slab(int rows) const { return rows * width * element; }
  HOST_DEVICE int angles(int layer, int rows) const { return forward_shared(rows) + layer * slab(rows); }
  HOST_DEVICE int sines(int rows) const { return angles(layers - 1, rows); }
  HOST_DEVICE int last_delta(int rows) const { return sines(rows) + slab(rows); }
  HOST_DEVICE int coords_blocks(int rows) const { return last_delta(rows) + rows * outputs() * element; }
  HOST_DEVICE int backward_shared(int rows) const { return coords_blocks(rows) + rows * coords_columns() * element; }

  // Offsets in a block's sums of gradients, in floats: the weights of the first, the square and the last layers as
  // accumulator fragments of 16 x 8, then the biases.
  HOST_DEVICE int64_t sum_square(int layer) const {
    return width * coords_columns() + int64_t(layer - 1) * width * width;
  }
  HOST_DEVICE int64_t sum_weight(int layer) const { return layer == 0 ? 0 : sum_square(layer); }
  HOST_DEVICE int64_t sum_biases() const { return sum_square(layers - 1) + outputs() * width; }
  HOST_DEVICE int64_t sum_bias(int layer) const { return sum_biases() + int64_t(layer) * width; }
  HOST_DEVICE int64_t sums() const { return sum_bias(layers - 1) + outputs(); }
  HOST_DEVICE int columns(int layer) const { return layer == 0 ? coords_columns() : width; }
};

// Offset of element (row, column) in a matrix of accumulator fragments of 16 x 8; the four floats of a lane are
// adjacent.
HOST_DEVICE int64_t sum_place(int row, int column, int columns) {
  const int64_t fragment = int64_t(row / 16) * (columns / 8) + column / 8;
  const int lane = row % 8 * 4 + column % 8 / 2;
  return fragment * 128 + lane * 4 + row % 16 / 8 * 2 + column % 2;
}

}  // namespace fused_inr
