// Matrix products of a warp in each compute type, on fragments of 16 rows (points) and 16 columns (channels).
//
// Lane 4 g + t holds rows g and g + 8, and columns 2 t and 2 t + 1 of each half of 8 columns: the layout of the
// accumulators of mma. In 16-bit types this is also the layout of a left operand. In tf32 a left operand has columns t
// and t + 4; since a sum does not depend on the order of its terms, the rows of the right operand are permuted instead.
#pragma once

#ifdef FUSED_INR_HOST
#include "host.h"
#else
#include "device.cuh"
#endif
#include "layout.h"

namespace fused_inr {

constexpr float TWO_PI = 6.28318530717958648f, TWO_PI_LOW = -1.74845553e-7f, TURNS_PER_RADIAN = 0.159154943091895336f;

// Returns a minus a multiple of 2 pi, in about -pi .. pi, for |a| up to FAR. Adding 1.5 * 2^23 rounds to an integer;
// the rounding instruction would compete with the sine for the same unit.
constexpr float FAR = 1e6f;
__device__ inline float remainder_of(float a) {
  const float turns = fma(a, TURNS_PER_RADIAN, 12582912.0f) - 12582912.0f;
  return fma(-turns, TWO_PI_LOW, fma(-turns, TWO_PI, a));
}

// Bits 32 i ... of 1 / (2 pi), after 32 zeros. A table would be read from local memory.
__device__ inline uint32_t bits_per_turn(uint32_t i) {
  return i == 0   ? 0
         : i == 1 ? 0x28be60db
         : i == 2 ? 0x9391054a
         : i == 3 ? 0x7f09d5f4
         : i == 4 ? 0x7d4d3770
         : i == 5 ? 0x36d8a566
                  : 0x4f10e410;
}

// The same for any |a| >= 2^-9, and NaN for infinities and NaN. The fraction of a in turns, of which 40 bits are exact,
// is the product of its mantissa with the 64 bits of 1 / (2 pi) that are neither whole turns nor too small to matter
// (Payne and Hanek, 1983).
__device__ inline float far_remainder_of(float a) {
  const uint32_t bits = bits_of(a), exponent = (bits >> 23 & 0xff) - 118;  // of the last bit, plus 32
  if (exponent > 136) return a - a;
  const uint32_t i = exponent / 32, shift = exponent % 32;
  const uint64_t window = (uint64_t(bits_per_turn(i)) << 32 | bits_per_turn(i + 1)) << shift |
                          uint64_t(bits_per_turn(i + 2)) << shift >> 32;
  const float r = float(int64_t(((bits & 0x7fffff) | 0x800000) * window)) * 3.40612158008654e-19f;  // 2 pi / 2^64
  return a < 0.0f ? -r : r;
}

typedef float Sums[2][4];  // accumulators of 16 x 16: [half of the columns][row g: 2, row g + 8: 2]

// The code that both 16-bit types share. Traits: pack, unpack, mma, ONES.
template <class Traits>
struct Half {
  static constexpr int ELEMENT = 2, BLOCK = 64 * ELEMENT;
  static constexpr bool SPLIT_COORDS = true;

  struct Fragment {
    uint32_t r[4];  // rows g and g + 8 of the first half of the columns, then of the second
  };

  static __device__ uint32_t word(float low, float high) { return Traits::pack(low, high); }

  static __device__ Fragment fragment(const Sums& c) {
    return {{Traits::pack(c[0][0], c[0][1]), Traits::pack(c[0][2], c[0][3]), Traits::pack(c[1][0], c[1][1]),
             Traits::pack(c[1][2], c[1][3])}};
  }
  static __device__ void values(const Fragment& x, Sums& c) {
    UNROLL for (int i = 0; i < 4; i++) {
      const float2 pair = Traits::unpack(x.r[i]);
      c[i / 2][i % 2 * 2] = pair.x, c[i / 2][i % 2 * 2 + 1] = pair.y;
    }
  }

  // Angles in -pi .. pi as 16-bit fractions of a turn, in steps of 1e-4 radians, finer than the rounding of their
  // sines. Adding 192.5 leaves the fraction in the low bits of the mantissa.
  static __device__ Fragment encode(const Sums& angle) {
    Fragment x;
    UNROLL for (int i = 0; i < 4; i++) {
      const uint32_t low = bits_of(fma(angle[i / 2][i % 2 * 2], TURNS_PER_RADIAN, 192.5f));
      const uint32_t high = bits_of(fma(angle[i / 2][i % 2 * 2 + 1], TURNS_PER_RADIAN, 192.5f));
      x.r[i] = (low & 0xffff) | (high << 16);
    }
    return x;
  }
  static __device__ void decode(const Fragment& x, Sums& angle) {
    UNROLL for (int i = 0; i < 4; i++) {
      const uint32_t low = 0x43400000 | (x.r[i] & 0xffff), high = 0x43400000 | (x.r[i] >> 16);
      angle[i / 2][i % 2 * 2] = (float_of(low) - 192.5f) * TWO_PI;
      angle[i / 2][i % 2 * 2 + 1] = (float_of(high) - 192.5f) * TWO_PI;
    }
  }

  // The 16 rows from 16 row and the 16 columns from 16 column of a matrix with `stride` blocks per row.
  static __device__ void store(char* matrix, int stride, int row, int column, int lane, const Fragment& x) {
    UNROLL for (int i = 0; i < 4; i++)
      *(uint32_t*)(matrix + ((2 * row + i % 2) * stride + 2 * column + i / 2) * BLOCK + lane * 4) = x.r[i];
  }
  static __device__ Fragment load(const char* matrix, int stride, int row, int column, int lane) {
    Fragment x;
    UNROLL for (int i = 0; i < 4; i++)
      x.r[i] = *(const uint32_t*)(matrix + ((2 * row + i % 2) * stride + 2 * column + i / 2) * BLOCK + lane * 4);
    return x;
  }

  // The address that a lane passes to ldmatrix for 2 x 2 blocks, in column-major order if `down`.
  static __device__ const char* row_of(const char* matrix, int stride, int row, int column, int lane, bool down) {
    const int first = lane / 8 % 2, second = lane / 16;
    const int block = (2 * row + (down ? first : second)) * stride + 2 * column + (down ? second : first);
    return matrix + block * BLOCK + lane % 8 * 16;
  }

  // c += a w^T for 16 rows and 16 columns of w, from row 16 n and column 16 k; all fragments of `a` use the same w.
  template <int M>
  static __device__ void multiply(Sums (&c)[M], const Fragment (&a)[M], const char* w, int stride, int n, int k,
                                  int lane) {
    uint32_t b[4];
    ldmatrix(b, row_of(w, stride, n, k, lane, false));
    UNROLL for (int m = 0; m < M; m++) {
      Traits::mma(c[m][0], a[m].r, b[0], b[1]);
      Traits::mma(c[m][1], a[m].r, b[2], b[3]);
    }
  }
  // c += a w for 16 rows and 16 columns of w, from row 16 k and column 16 n.
  static __device__ void multiply_back(Sums& c, const Fragment& a, const char* w, int stride, int k, int n, int lane) {
    uint32_t b[4];
    ldmatrix_transposed(b, row_of(w, stride, k, n, lane, true));
    Traits::mma(c[0], a.r, b[0], b[1]);
    Traits::mma(c[1], a.r, b[2], b[3]);
  }

  // Columns of a matrix as the left operand of a sum over its rows.
  typedef Fragment Columns;
  static __device__ Columns columns(const char* matrix, int stride, int row, int column, int lane) {
    Columns a;
    ldmatrix_transposed(a.r, row_of(matrix, stride, row, column, lane, false));
    return a;
  }
  // c += a x, summed over 16 rows of x.
  static __device__ void multiply_rows(Sums& c, const Columns& a, const char* x, int stride, int row, int column,
                                       int lane) {
    uint32_t b[4];
    ldmatrix_transposed(b, row_of(x, stride, row, column, lane, true));
    Traits::mma(c[0], a.r, b[0], b[1]);
    Traits::mma(c[1], a.r, b[2], b[3]);
  }
  // c += a 1: the sums of the columns over the rows.
  static __device__ void sum_rows(float (&c)[4], const Columns& a) { Traits::mma(c, a.r, Traits::ONES, Traits::ONES); }
};

struct Bfloat16Traits {
  static constexpr uint32_t ONES = 0x3f803f80;
  static __device__ uint32_t pack(float low, float high) { return pack_bf16(low, high); }
  static __device__ float2 unpack(uint32_t pair) { return {float_of(pair << 16), float_of(pair & 0xffff0000)}; }
  static __device__ void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    mma_bf16(d, a, b0, b1);
  }
};
struct Float16Traits {
  static constexpr uint32_t ONES = 0x3c003c00;
  static __device__ uint32_t pack(float low, float high) { return pack_f16(low, high); }
  static __device__ float2 unpack(uint32_t pair) { return unpack_f16(pair); }
  static __device__ void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) { mma_f16(d, a, b0, b1); }
};
typedef Half<Bfloat16Traits> Bfloat16;
typedef Half<Float16Traits> Float16;

// float32 as three products of tf32: a b = (A + a')(B + b') with 11 bits in each part, without a' b'. Measured on the
// host against float64, with networks of 2 to 5 layers: the relative errors of values and gradients are at most 2.3e-6,
// and those of PyTorch in float32 at most 8e-7. With a single product of tf32 they are 1e-3, no better than in float16.
struct Float32 {
  static constexpr int ELEMENT = 4, BLOCK = 64 * ELEMENT;
  static constexpr bool SPLIT_COORDS = false;

  struct Fragment {
    Sums c;
  };
  struct Parts {
    uint32_t high, low;
  };

  static __device__ uint32_t word(float low, float) { return bits_of(low); }
  static __device__ Fragment fragment(const Sums& c) {
    Fragment x;
    values_of(c, x.c);
    return x;
  }
  static __device__ void values(const Fragment& x, Sums& c) { values_of(x.c, c); }
  static __device__ Fragment encode(const Sums& angle) { return fragment(angle); }
  static __device__ void decode(const Fragment& x, Sums& angle) { values_of(x.c, angle); }
  static __device__ void values_of(const Sums& from, Sums& to) {
    UNROLL for (int i = 0; i < 8; i++)
      to[i / 4][i % 4] = from[i / 4][i % 4];
  }

  static __device__ const char* block(const char* matrix, int stride, int row, int column) {
    return matrix + (row * stride + column) * BLOCK;
  }
  static __device__ void store(char* matrix, int stride, int row, int column, int lane, const Fragment& x) {
    UNROLL for (int i = 0; i < 4; i++)
      *(float2*)(block(matrix, stride, 2 * row + i % 2, 2 * column + i / 2) + lane * 8) = {x.c[i / 2][i % 2 * 2],
                                                                                           x.c[i / 2][i % 2 * 2 + 1]};
  }
  static __device__ Fragment load(const char* matrix, int stride, int row, int column, int lane) {
    Fragment x;
    UNROLL for (int i = 0; i < 4; i++) {
      const float2 pair = *(const float2*)(block(matrix, stride, 2 * row + i % 2, 2 * column + i / 2) + lane * 8);
      x.c[i / 2][i % 2 * 2] = pair.x, x.c[i / 2][i % 2 * 2 + 1] = pair.y;
    }
    return x;
  }

  static __device__ Parts split(float x) {
    const uint32_t high = round_tf32(x);
    return {high, bits_of(x - float_of(high))};  // the product uses the leading bits of the remainder
  }
  // The small products come first: added to a large sum, they would be lost.
  static __device__ void mma(float (&d)[4], const Parts (&a)[4], Parts b0, Parts b1) {
    const uint32_t high[4] = {a[0].high, a[1].high, a[2].high, a[3].high};
    const uint32_t low[4] = {a[0].low, a[1].low, a[2].low, a[3].low};
    mma_tf32(d, low, b0.high, b1.high);
    mma_tf32(d, high, b0.low, b1.low);
    mma_tf32(d, high, b0.high, b1.high);
  }
  // A left operand from the accumulators of 8 columns, whose columns 2 t and 2 t + 1 become its columns t and t + 4.
  static __device__ void left(Parts (&a)[4], const float (&c)[4]) {
    a[0] = split(c[0]), a[1] = split(c[2]), a[2] = split(c[1]), a[3] = split(c[3]);
  }

  template <int M>
  static __device__ void multiply(Sums (&c)[M], const Fragment (&a)[M], const char* w, int stride, int n, int k,
                                  int lane) {
    UNROLL for (int kk = 0; kk < 2; kk++) {
      Parts b[2][2];
      UNROLL for (int nn = 0; nn < 2; nn++) {
        const float2 pair = *(const float2*)(block(w, stride, 2 * n + nn, 2 * k + kk) + lane * 8);
        b[nn][0] = split(pair.x), b[nn][1] = split(pair.y);
      }
      UNROLL for (int m = 0; m < M; m++) {
        Parts parts[4];
        left(parts, a[m].c[kk]);
        UNROLL for (int nn = 0; nn < 2; nn++)
          mma(c[m][nn], parts, b[nn][0], b[nn][1]);
      }
    }
  }
  static __device__ void multiply_back(Sums& c, const Fragment& a, const char* w, int stride, int k, int n, int lane) {
    UNROLL for (int kk = 0; kk < 2; kk++) {
      Parts parts[4];
      left(parts, a.c[kk]);
      UNROLL for (int nn = 0; nn < 2; nn++) {
        const float* from = (const float*)block(w, stride, 2 * k + kk, 2 * n + nn) + lane % 4 * 16 + lane / 4;
        mma(c[nn], parts, split(from[0]), split(from[8]));
      }
    }
  }

  struct Columns {
    Parts a[2][4];  // 8 rows each
  };
  static __device__ Columns columns(const char* matrix, int stride, int row, int column, int lane) {
    Columns x;
    UNROLL for (int k = 0; k < 2; k++) {
      UNROLL for (int i = 0; i < 4; i++) {
        const float* from = (const float*)block(matrix, stride, 2 * row + k, 2 * column + i % 2);
        x.a[k][i] = split(from[(lane % 4 + i / 2 * 4) * 8 + lane / 4]);
      }
    }
    return x;
  }
  static __device__ void multiply_rows(Sums& c, const Columns& a, const char* x, int stride, int row, int column,
                                       int lane) {
    UNROLL for (int k = 0; k < 2; k++) {
      UNROLL for (int n = 0; n < 2; n++) {
        const float* from = (const float*)block(x, stride, 2 * row + k, 2 * column + n) + lane % 4 * 8 + lane / 4;
        mma(c[n], a.a[k], split(from[0]), split(from[32]));
      }
    }
  }
  static __device__ void sum_rows(float (&c)[4], const Columns& a) {
    const Parts one = {bits_of(1.0f), 0};
    UNROLL for (int k = 0; k < 2; k++)
      mma(c, a.a[k], one, one);
  }
};

}  // namespace fused_inr
