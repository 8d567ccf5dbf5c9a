// Products of a tile of pixels with a packed weight: C[m, n] += sum_k A[m, k] W[n, k].
//
// Pixels are rows and output channels are vector lanes, so that the result of a layer needs no rearrangement to be the
// next layer's input. A block of NV vectors of channels is packed as [K][NV*W] (bfloat16: [K/2][NV*W][2]). 6 x 4
// accumulators leave registers for one row of the weight, and K is cut into blocks whose weights fit the L1 cache.
#pragma once

#include "simd.h"
#include "support.h"

namespace ISA_NAME {

constexpr int NV = 4;       // vectors of channels in a block
constexpr int NB = NV * W;  // channels in a block
constexpr int MR = 6;       // rows of A in a micro-kernel

// The number of elements of a packed n x k weight: channels are padded to whole vectors and k to pairs.
static inline int64_t packed_size(int64_t n, int64_t k) { return round_up(n, W) * round_up(k, 2); }

// Packs w [n, k] with row stride `row`, 16 columns at a time: one cache line of each row goes to few lines of the
// result.
template <class T>
static void pack(T* to, const float* w, int64_t row, int64_t n, int64_t k) {
  constexpr int64_t G = 4 / sizeof(T);  // consecutive k stored together: pairs in bfloat16
  const int64_t kp = round_up(k, 2);
  for (int64_t n0 = 0; n0 < n; n0 += NB) {
    const int64_t lanes = std_min<int64_t>(NB, round_up(n - n0, W));
    for (int64_t i0 = 0; i0 < kp; i0 += 16) {
      const int64_t end = std_min<int64_t>(i0 + 16, kp);
      for (int64_t j = 0; j < lanes; j++) {
        const float* from = w + (n0 + j) * row;
        for (int64_t i = i0; i < end; i++)
          to[(i / G * lanes + j) * G + i % G] = element(i < k && n0 + j < n ? from[i] : 0.0f, T());
      }
    }
    to += kp * lanes;
  }
}

template <int R, int V>
static inline void micro(const float* a, int64_t lda, const float* w, int64_t k, float* c, int64_t ldc, bool add) {
  vf acc[R][V];
  for (int r = 0; r < R; r++)
    for (int v = 0; v < V; v++) acc[r][v] = add ? load(c + r * ldc + v * W) : vf{};
  for (int64_t i = 0; i < k; i++, w += V * W) {
    vf row[V];
    for (int v = 0; v < V; v++) row[v] = load(w + v * W);
    for (int r = 0; r < R; r++) {
      const vf x = splat(a[r * lda + i]);
      for (int v = 0; v < V; v++) acc[r][v] += x * row[v];
    }
  }
  for (int r = 0; r < R; r++)
    for (int v = 0; v < V; v++) store(c + r * ldc + v * W, acc[r][v]);
}

template <int R, int V>
static inline void micro(const uint16_t* a, int64_t lda, const uint16_t* w, int64_t k, float* c, int64_t ldc,
                         bool add) {
  vf acc[R][V];
  for (int r = 0; r < R; r++)
    for (int v = 0; v < V; v++) acc[r][v] = add ? load(c + r * ldc + v * W) : vf{};
  for (int64_t i = 0; i < k; i += 2, w += 2 * V * W) {
#if defined(__AVX512BF16__)
    __m512bh row[V];
    for (int v = 0; v < V; v++) __builtin_memcpy(&row[v], w + v * 2 * W, sizeof row[v]);
    for (int r = 0; r < R; r++) {
      int32_t pair;
      __builtin_memcpy(&pair, a + r * lda + i, 4);
      const __m512bh x = (__m512bh)_mm512_set1_epi32(pair);
      for (int v = 0; v < V; v++) acc[r][v] = (vf)_mm512_dpbf16_ps((__m512)acc[r][v], x, row[v]);
    }
#else
    vf even[V], odd[V];  // the two elements of a pair are the halves of a 32-bit lane
    for (int v = 0; v < V; v++) {
      vu both;
      __builtin_memcpy(&both, w + v * 2 * W, sizeof both);
      even[v] = (vf)(both << 16);
      odd[v] = (vf)(both & 0xffff0000u);
    }
    for (int r = 0; r < R; r++) {
      const vf x = splat(from_bf16(a[r * lda + i])), y = splat(from_bf16(a[r * lda + i + 1]));
      for (int v = 0; v < V; v++) acc[r][v] += x * even[v] + y * odd[v];
    }
#endif
  }
  for (int r = 0; r < R; r++)
    for (int v = 0; v < V; v++) store(c + r * ldc + v * W, acc[r][v]);
}

template <int V, class T>
static void block_rows(const T* a, int64_t lda, int64_t m, const T* w, int64_t k, float* c, bool add) {
  constexpr int64_t ldc = V * W;
  int64_t r = 0;
  while (r < m) {
    const T* at = a + r * lda;
    float* ct = c + r * ldc;
    const int64_t left = m - r;
    if (left == 8 || left == 4 || left == 5) {  // 4 + 4 and 4 + 1 are faster than 6 + 2 and 2 + 2 + 1
      micro<4, V>(at, lda, w, k, ct, ldc, add), r += 4;
    } else if (left >= MR) {
      micro<MR, V>(at, lda, w, k, ct, ldc, add), r += MR;
    } else if (left >= 2) {
      micro<2, V>(at, lda, w, k, ct, ldc, add), r += 2;
    } else {
      micro<1, V>(at, lda, w, k, ct, ldc, add), r += 1;
    }
  }
}

// Multiplies A [m, k] by a packed weight of n channels, a block of channels at a time. Calls finish(c, n0, lanes) with
// each block of results, c [m][lanes] in float32, while it is in the L1 cache. An odd k is padded: column k of A, which
// the rows have room for, is set to zero.
template <class T, class Finish>
static void product(T* a, int64_t lda, int64_t m, const T* w, int64_t n, int64_t k, float* c, Finish finish) {
  constexpr int64_t KC = 256 / sizeof(T) * 2;  // 32 KiB of weights
  const int64_t kp = round_up(k, 2);
  if (k % 2)  // infinity or NaN times the zero that pads the weight would be NaN
    for (int64_t r = 0; r < m; r++) a[r * lda + k] = element(0.0f, T());
  for (int64_t n0 = 0; n0 < n; n0 += NB) {
    const int64_t lanes = std_min<int64_t>(NB, round_up(n - n0, W));
    if (kp == 0)
      for (int64_t i = 0; i < m * lanes; i++) c[i] = 0.0f;
    for (int64_t k0 = 0; k0 < kp; k0 += KC) {
      const int64_t kb = std_min<int64_t>(KC, kp - k0);
      const T* wk = w + k0 * lanes;
      switch (lanes / W) {
        case 1: block_rows<1>(a + k0, lda, m, wk, kb, c, k0 > 0); break;
        case 2: block_rows<2>(a + k0, lda, m, wk, kb, c, k0 > 0); break;
        case 3: block_rows<3>(a + k0, lda, m, wk, kb, c, k0 > 0); break;
        default: block_rows<4>(a + k0, lda, m, wk, kb, c, k0 > 0);
      }
    }
    w += kp * lanes;
    finish(c, n0, lanes);
  }
}

// Packs the transpose of w [n, k] with row stride `row`, by which the gradient of a layer's output is multiplied.
template <class T>
static void pack_transposed(T* to, const float* w, int64_t row, int64_t n, int64_t k) {
  constexpr int64_t G = 4 / sizeof(T);
  const int64_t np = round_up(n, 2);
  for (int64_t k0 = 0; k0 < k; k0 += NB) {
    const int64_t lanes = std_min<int64_t>(NB, round_up(k - k0, W));
    for (int64_t i = 0; i < np; i++)
      for (int64_t j = 0; j < lanes; j++)
        to[(i / G * lanes + j) * G + i % G] = element(i < n && k0 + j < k ? w[i * row + k0 + j] : 0.0f, T());
    to += np * lanes;
  }
}

// The type of one step of a sum over pixels: a float, or the bfloat16 values of two pixels.
template <class T>
struct Step;
template <>
struct Step<float> {
  typedef float type;
};
template <>
struct Step<uint16_t> {
  typedef uint32_t type;
};

static inline int64_t steps(int64_t m, float) { return m; }
static inline int64_t steps(int64_t m, uint16_t) { return (m + 1) / 2; }

// Converts rows of pixels to steps, [steps][ld]. In float32 each row is a step.
static inline const float* in_steps(const float* x, int64_t, int64_t, int64_t, float*) { return x; }
static inline const uint32_t* in_steps(const uint16_t* x, int64_t ld, int64_t m, int64_t n, uint32_t* to) {
  for (int64_t r = 0; r < m; r += 2) {
    const uint16_t *a = x + r * ld, *b = r + 1 < m ? a + ld : nullptr;
    uint32_t* t = to + r / 2 * ld;
    for (int64_t j = 0; j < n; j++) t[j] = a[j] | (b ? uint32_t(b[j]) << 16 : 0);
  }
  return to;
}

// Step k of a column of m rows.
static inline float step_of(const float* x, int64_t ld, int64_t k, int64_t) { return x[k * ld]; }
static inline uint32_t step_of(const uint16_t* x, int64_t ld, int64_t k, int64_t m) {
  return x[2 * k * ld] | (2 * k + 1 < m ? uint32_t(x[(2 * k + 1) * ld]) << 16 : 0);
}

// Stores the results of two consecutive pixels as rows, with stride ld, and as steps of `lanes` columns.
static inline void store_two(vf a, vf b, float* rows, int64_t ld, float* steps, int64_t lanes) {
  store(rows, a);
  store(rows + ld, b);
  store(steps, a);
  store(steps + lanes, b);
}
static inline void store_two(vf a, vf b, uint16_t* rows, int64_t ld, uint32_t* steps, int64_t) {
#if defined(__AVX512BF16__)
  const __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)b, (__m512)a);
  // The masked forms, because GCC 12 warns about the unmasked ones.
  const __m256i low = _mm512_maskz_extracti64x4_epi64(0xff, both, 0);
  const __m256i high = _mm512_maskz_extracti64x4_epi64(0xff, both, 1);
  __builtin_memcpy(rows, &low, sizeof low);
  __builtin_memcpy(rows + ld, &high, sizeof high);
  const __m512i pairs = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21,
                                         5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  const __m512i step = _mm512_maskz_permutexvar_epi16(0xffffffff, pairs, both);
#else
  store(rows, a);
  store(rows + ld, b);
  const vu step = rounded(a) >> 16 | (rounded(b) & 0xffff0000u);
#endif
  __builtin_memcpy(steps, &step, sizeof step);
}

static inline vf multiply_add(vf acc, float a, const float* b) { return acc + splat(a) * load(b); }
static inline vf multiply_add(vf acc, uint32_t a, const uint32_t* b) {
  vu both;
  __builtin_memcpy(&both, b, sizeof both);
#if defined(__AVX512BF16__)
  return (vf)_mm512_dpbf16_ps((__m512)acc, (__m512bh)_mm512_set1_epi32(int(a)), (__m512bh)both);
#else
  return acc + splat(from_bf16(uint16_t(a))) * (vf)(both << 16) +
         splat(from_bf16(uint16_t(a >> 16))) * (vf)(both & 0xffff0000u);
#endif
}

// Sums start at zero and are then added to C: a single running sum over all pixels of an image would lose precision.
template <int R, int V, class S>
static inline void micro_outer(const S* a, int64_t lda, const S* b, int64_t ldb, int64_t k, float* c, int64_t ldc) {
  vf acc[R][V] = {};
  for (int r = 0; r < R; r++)
    for (int v = 0; v < V; v++) __builtin_prefetch(c + r * ldc + v * W, 1);
  for (int64_t i = 0; i < k; i++, a += lda, b += ldb)
    for (int r = 0; r < R; r++)
      for (int v = 0; v < V; v++) acc[r][v] = multiply_add(acc[r][v], a[r], b + v * W);
  for (int r = 0; r < R; r++)
    for (int v = 0; v < V; v++) store(c + r * ldc + v * W, load(c + r * ldc + v * W) + acc[r][v]);
}

template <int V, class S>
static void outer_rows(const S* a, int64_t lda, int64_t n, const S* b, int64_t ldb, int64_t k, float* c, int64_t ldc) {
  int64_t r = 0;
  while (r < n) {
    const int64_t left = n - r;
    if (left == 8 || left == 4 || left == 5) {  // as in block_rows
      micro_outer<4, V>(a + r, lda, b, ldb, k, c + r * ldc, ldc), r += 4;
    } else if (left >= MR) {
      micro_outer<MR, V>(a + r, lda, b, ldb, k, c + r * ldc, ldc), r += MR;
    } else if (left >= 2) {
      micro_outer<2, V>(a + r, lda, b, ldb, k, c + r * ldc, ldc), r += 2;
    } else {
      micro_outer<1, V>(a + r, lda, b, ldb, k, c + r * ldc, ldc), r += 1;
    }
  }
}

// C [n, lanes] += sum over k steps of A[k, n] B[k, lanes], with B dense and one block of columns wide.
template <class S>
static void outer_block(const S* a, int64_t lda, int64_t n, const S* b, int64_t lanes, int64_t k, float* c,
                        int64_t ldc) {
  switch (lanes / W) {
    case 1: return outer_rows<1>(a, lda, n, b, lanes, k, c, ldc);
    case 2: return outer_rows<2>(a, lda, n, b, lanes, k, c, ldc);
    case 3: return outer_rows<3>(a, lda, n, b, lanes, k, c, ldc);
    default: return outer_rows<4>(a, lda, n, b, lanes, k, c, ldc);
  }
}

// The weight gradient: C [n, i] += sum over k steps of A[k, n] B[k, i]. Rows of C and B are padded to whole vectors,
// and B's padding must be finite. A block of B is copied, because rows whose stride is a power of two would share few
// sets of the L1 cache.
template <class S>
static void outer_product(const S* a, int64_t lda, int64_t n, const S* b, int64_t ldb, int64_t i, int64_t k, float* c,
                          S* block) {
  const int64_t ldc = round_up(i, W);
  for (int64_t i0 = 0; i0 < ldc; i0 += NB) {
    const int64_t lanes = std_min<int64_t>(NB, ldc - i0);
    for (int64_t r = 0; r < k; r++) __builtin_memcpy(block + r * lanes, b + r * ldb + i0, lanes * sizeof(S));
    outer_block(a, lda, n, block, lanes, k, c + i0, ldc);
  }
}

// A matrix in blocks of NB columns, each dense: [columns / NB][rows][NB], the last one as narrow as its columns are.
// Products write and sums read one block after another.
template <class S>
struct Blocks {
  S* base;
  int64_t rows, columns;  // columns in whole vectors

  int64_t lanes(int64_t n0) const { return std_min<int64_t>(NB, columns - n0); }
  S* at(int64_t n0) const { return base + n0 * rows; }  // the block that begins with column n0
};

// The same of A in panels of W columns, [n / W][rows][W], and B in blocks, each of which is read from one end to the
// other.
template <class S>
static void outer_product(const S* a, int64_t rows, int64_t n, const Blocks<S>& b, int64_t k, float* c) {
  for (int64_t i0 = 0; i0 < b.columns; i0 += NB)
    for (int64_t n0 = 0; n0 < n; n0 += W)
      outer_block(a + n0 * rows, W, std_min<int64_t>(W, n - n0), (const S*)b.at(i0), b.lanes(i0), k,
                  c + n0 * b.columns + i0, b.columns);
}

}  // namespace ISA_NAME
