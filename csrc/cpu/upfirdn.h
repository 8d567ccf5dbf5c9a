// Zero insertion, padding or cropping, correlation with a small filter, and decimation, computed at kept pixels only.
//
// The filter is a sum of terms, each a column of taps times a row of taps: one term if it is separable, otherwise one
// for each of its rows. For each output row and term, the column combines input rows into one row of float32, to which
// the row of taps is then applied.
#pragma once

#include <math.h>

#include "abi.h"
#include "elements.h"
#include "simd.h"
#include "support.h"

namespace ISA_NAME {

struct Term {
  const float *column, *row;
  int first, count;  // the range of nonzero taps of the column
};

// The terms of a filter, determined once per call.
struct Filter {
  const FusedInrUpfirdn& c;
  Block column;  // of a separable filter, whose row is the one with the largest tap
  int pivot;
  bool separable;
  explicit Filter(const FusedInrUpfirdn& c) : c(c), column(c.taps_y * 4), pivot(0), separable(false) {
    if (!column.base) return;
    float largest = 0.0f;
    int at = 0;
    for (int i = 0; i < c.taps_y * c.taps_x; i++)
      if (fabsf(c.taps[i]) > largest) largest = fabsf(c.taps[i]), at = i;
    pivot = at / c.taps_x;
    separable = true;
    for (int y = 0; y < c.taps_y; y++) {
      const float factor = largest > 0.0f ? c.taps[y * c.taps_x + at % c.taps_x] / c.taps[at] : 0.0f;
      ((float*)column.base)[y] = factor;
      for (int x = 0; x < c.taps_x; x++)
        separable &= fabsf(c.taps[y * c.taps_x + x] - factor * c.taps[pivot * c.taps_x + x]) <= 1e-7f * largest;
    }
  }
  int terms() const { return separable ? 1 : c.taps_y; }
  Term term(int index) const {
    if (separable) return {(const float*)column.base, c.taps + int64_t(pivot) * c.taps_x, 0, c.taps_y};
    return {nullptr, c.taps + int64_t(index) * c.taps_x, index, 1};
  }
};

struct SourceRow {
  int64_t y;
  float tap;
};

// Lists the input rows under the column of taps at output row `oy`; returns their number.
static inline int source_rows(const FusedInrUpfirdn& c, const Term& term, int64_t oy, SourceRow* rows) {
  int count = 0;
  for (int j = term.first; j < term.first + term.count; j++) {
    const int64_t place = oy * c.down_y + j - c.pad_y;  // in the image with zeros inserted
    if (place < 0 || place % c.up_y || place / c.up_y >= c.height) continue;
    rows[count++] = {place / c.up_y, term.column ? term.column[j] : 1.0f};
  }
  return count;
}

// A row and the tap by which it is multiplied.
template <class T>
struct Weighted {
  const T* from;
  float tap;
};

struct True {
  static constexpr bool value = true;
};
struct False {
  static constexpr bool value = false;
};

// The memory of one thread.
template <class T>
struct Lines {
  float *line, *sum;  // the result of a column of taps; the sum of the terms so far
  SourceRow* rows;
  Weighted<T>* down;
  Weighted<float>* across;
};

// to[i] = (sum ? sum[i] : 0) + the weighted rows at i. For up to 4 rows, whose taps fit into registers.
template <int N, class T, class Out>
static inline void combine_of(const Weighted<T>* rows, const float* sum, Out* to, int64_t length) {
  Weighted<T> copies[N + 1];  // copies, so that the compiler knows that stores do not change them
  vf tap[N + 1];
  for (int j = 0; j < N; j++) copies[j] = rows[j], tap[j] = splat(rows[j].tap);
  const auto steps = [&](auto with_sum) {
    over_row(length, [&](int64_t i, int n) {
      vf v = decltype(with_sum)::value ? load_n(sum + i, n) : vf{};
      for (int j = 0; j < N; j++) v += tap[j] * load_n(copies[j].from + i, n);
      store_n(to + i, v, n);
    });
  };
  if (sum)
    steps(True());
  else
    steps(False());
}

template <class T, class Out>
static void combine(const Weighted<T>* rows, int count, const float* sum, Out* to, int64_t length) {
  switch (count) {
    case 0: return combine_of<0>(rows, sum, to, length);
    case 1: return combine_of<1>(rows, sum, to, length);
    case 2: return combine_of<2>(rows, sum, to, length);
    case 3: return combine_of<3>(rows, sum, to, length);
    case 4: return combine_of<4>(rows, sum, to, length);
    default: break;
  }
  over_row(length, [&](int64_t i, int n) {
    vf v = sum ? load_n(sum + i, n) : vf{};
    for (int j = 0; j < count; j++) v += rows[j].tap * load_n(rows[j].from + i, n);
    store_n(to + i, v, n);
  });
}

// Accumulates a term in `sum`, or writes the output if it is the last one.
template <class T, class Out>
static void finish(const Weighted<T>* rows, int count, int term, int terms, float* sum, Out* out, int64_t length) {
  const float* before = term ? sum : nullptr;
  if (term + 1 < terms)
    combine(rows, count, before, sum, length);
  else
    combine(rows, count, before, out, length);
}

// Calls rows(lines, begin, end) on ranges of the jobs, each with its own lines of `line` and `sum` floats.
template <class T, class Body>
static int32_t over_rows(const FusedInrUpfirdn& c, FusedInrParallelFor run, int64_t jobs, int64_t line, int64_t sum,
                         const Body& rows) {
  volatile bool failed = false;
  const bool ok = parallel(run, jobs, [&](int64_t begin, int64_t end) {
    const auto layout = [&](Arena& arena) {
      return Lines<T>{arena.take<float>(line), arena.take<float>(sum), arena.take<SourceRow>(c.taps_y),
                      arena.take<Weighted<T>>(c.taps_y), arena.take<Weighted<float>>(c.taps_x)};
    };
    Arena size = {nullptr, 0};
    layout(size);
    Block own(size.used);
    if (!own.base) {
      failed = true;
      return;
    }
    Arena arena = {own.base, 0};
    rows(layout(arena), begin, end);
  });
  if (failed) return 1;
  return ok ? 0 : 2;
}

constexpr int64_t TILE_BYTES = 1 << 16;  // float32 input pixels of a tile, which stay in cache

// Channels last: vectors run over channels, and in the vertical pass over whole tiles of pixels.
template <class T>
static int32_t upfirdn_pixels(const FusedInrUpfirdn& c, FusedInrParallelFor run) {
  const Filter filter(c);
  const int terms = filter.terms();
  const int64_t tile_inputs = std_max<int64_t>(c.taps_x + 1, TILE_BYTES / 4 / c.channels);  // input pixels of a tile
  const int64_t tile_width =
      std_min(c.out_width, std_max<int64_t>(1, ((tile_inputs - 1) * c.up_x - c.taps_x) / c.down_x + 1));
  const auto rows = [&](const Lines<T>& lines, int64_t begin, int64_t end) {
    for (int64_t job = begin; job < end; job++) {
      const int64_t n = job / c.out_height, oy = job % c.out_height;
      const T* image = (const T*)c.x + n * c.height * c.width * c.channels;
      for (int64_t first = 0; first < c.out_width; first += tile_width) {
        const int64_t last = std_min(first + tile_width, c.out_width);
        T* out = (T*)c.out + (job * c.out_width + first) * c.channels;
        // The input pixels under the tile's taps.
        const int64_t low = std_max<int64_t>(0, first * c.down_x - c.pad_x + c.up_x - 1) / c.up_x;
        const int64_t high = std_min(c.width, ((last - 1) * c.down_x - c.pad_x + c.taps_x - 1 + c.up_x) / c.up_x);
        for (int t = 0; t < terms; t++) {
          const Term term = filter.term(t);
          const int count = source_rows(c, term, oy, lines.rows);
          for (int j = 0; j < count; j++)
            lines.down[j] = {image + (lines.rows[j].y * c.width + low) * c.channels, lines.rows[j].tap};
          combine(lines.down, count, nullptr, lines.line, std_max<int64_t>(0, high - low) * c.channels);
          for (int64_t ox = first; ox < last; ox++) {
            int used = 0;
            for (int j = 0; j < c.taps_x; j++) {
              const int64_t place = ox * c.down_x + j - c.pad_x;  // in the image with zeros inserted
              if (place < 0 || place % c.up_x || place / c.up_x >= c.width) continue;
              lines.across[used++] = {lines.line + (place / c.up_x - low) * c.channels, term.row[j]};
            }
            const int64_t at = (ox - first) * c.channels;
            finish(lines.across, used, t, terms, lines.sum + at, out + at, c.channels);
          }
        }
      }
    }
  };
  return over_rows<T>(c, run, c.batch * c.out_height, (tile_inputs + 1) * c.channels, tile_width * c.channels, rows);
}

// Every second element of a line.
static inline vf load_even(const float* p) {
  const vf a = load(p), b = load(p + W);
#if defined(__AVX512F__)
  return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
#elif defined(__AVX2__)
  return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14);
#else
  return __builtin_shufflevector(a, b, 0, 2, 4, 6);
#endif
}

// Planes: vectors run along rows.
template <class T>
static int32_t upfirdn_planes(const FusedInrUpfirdn& c, FusedInrParallelFor run) {
  const Filter filter(c);
  const int terms = filter.terms();
  // A line holds the padded row with its inserted zeros; reading two vectors past its end is safe.
  const int64_t padded = (c.out_width - 1) * c.down_x + c.taps_x;
  const int64_t from = std_max<int64_t>(0, (-c.pad_x + c.up_x - 1) / c.up_x);     // the first pixel that is not cropped
  const int64_t to = std_min(c.width, (padded - 1 - c.pad_x + c.up_x) / c.up_x);  // no pixels if it is not positive
  const auto rows = [&](const Lines<T>& lines, int64_t begin, int64_t end) {
    float* const packed = lines.line + padded + 2 * W;  // the row before zeros are inserted
    for (int64_t i = 0; i < padded + 2 * W; i++) lines.line[i] = 0.0f;
    for (int64_t job = begin; job < end; job++) {
      const int64_t plane = job / c.out_height, oy = job % c.out_height;
      const T* image = (const T*)c.x + plane * c.height * c.width;
      T* out = (T*)c.out + job * c.out_width;
      for (int t = 0; t < terms; t++) {
        const Term term = filter.term(t);
        const int count = source_rows(c, term, oy, lines.rows);
        for (int j = 0; j < count; j++) lines.down[j] = {image + lines.rows[j].y * c.width + from, lines.rows[j].tap};
        float* const row = c.up_x == 1 ? lines.line + c.pad_x + from : packed;
        combine(lines.down, count, nullptr, row, std_max<int64_t>(0, to - from));
        if (c.up_x > 1)
          for (int64_t i = from; i < to; i++) lines.line[i * c.up_x + c.pad_x] = packed[i - from];
        if (c.down_x == 1) {
          for (int j = 0; j < c.taps_x; j++) lines.across[j] = {lines.line + j, term.row[j]};
          finish(lines.across, c.taps_x, t, terms, lines.sum, out, c.out_width);
          continue;
        }
        over_row(c.out_width, [&](int64_t i, int n) {
          vf v = t ? load_n(lines.sum + i, n) : vf{};
          const float* first = lines.line + i * c.down_x;
          if (c.down_x == 2 && n == W) {
            for (int j = 0; j < c.taps_x; j++) v += term.row[j] * load_even(first + j);
          } else {
            for (int k = 0; k < n; k++)
              for (int j = 0; j < c.taps_x; j++) v[k] += term.row[j] * first[k * c.down_x + j];
          }
          if (t + 1 < terms)
            store_n(lines.sum + i, v, n);
          else
            store_n(out + i, v, n);
        });
      }
    }
  };
  const int64_t jobs = c.batch * c.channels * c.out_height;
  return over_rows<T>(c, run, jobs, padded + 2 * W + c.width, c.out_width, rows);
}

template <class T>
static int32_t upfirdn2d_of(T*, const FusedInrUpfirdn& c, FusedInrParallelFor run) {
  return c.channels_last ? upfirdn_pixels<T>(c, run) : upfirdn_planes<T>(c, run);
}

}  // namespace ISA_NAME
