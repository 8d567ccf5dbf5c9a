// Insert zeros, pad or crop, correlate with a small filter, keep every down-th pixel: computed at those pixels only.
//
// The filter is a sum of terms, each a column of taps times a row of taps: one where it is separable, else one for each
// of its rows. For each output row and term, the column makes one row of float32 out of some input rows, and the row of
// taps goes over that.

struct Term {
  const float *column, *row;
  int first, count;  // the taps of the column that are not left out
};

// The terms of a filter: found once for each call.
struct Filter {
  const FusedInrUpfirdn& c;
  Block column;  // of a separable filter; its row is the one with the largest tap
  int pivot;
  bool separable;
  explicit Filter(const FusedInrUpfirdn& c) : c(c), column(c.taps_y * 4), pivot(0), separable(false) {
    if (!column.base) return;
    float most = 0.0f;
    int at = 0;
    for (int i = 0; i < c.taps_y * c.taps_x; i++)
      if (fabsf(c.taps[i]) > most) most = fabsf(c.taps[i]), at = i;
    pivot = at / c.taps_x;
    separable = true;
    for (int y = 0; y < c.taps_y; y++) {
      const float factor = most > 0.0f ? c.taps[y * c.taps_x + at % c.taps_x] / c.taps[at] : 0.0f;
      ((float*)column.base)[y] = factor;
      for (int x = 0; x < c.taps_x; x++)
        separable &= fabsf(c.taps[y * c.taps_x + x] - factor * c.taps[pivot * c.taps_x + x]) <= 1e-7f * most;
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

// The input rows under the column of taps at output row `oy`; returns how many.
static inline int source_rows(const FusedInrUpfirdn& c, const Term& term, int64_t oy, SourceRow* rows) {
  int found = 0;
  for (int j = term.first; j < term.first + term.count; j++) {
    const int64_t place = oy * c.down_y + j - c.pad_y;  // in the image with zeros inserted
    if (place < 0 || place % c.up_y || place / c.up_y >= c.height) continue;
    rows[found++] = {place / c.up_y, term.column ? term.column[j] : 1.0f};
  }
  return found;
}

constexpr int64_t CHANNEL_BLOCK = 8 * W;  // a row of them fits into the first-level cache

// Pixels with all their channels together: vectors run over channels.
template <class T>
static int32_t upfirdn_pixels(const FusedInrUpfirdn& c, FusedInrParallelFor run) {
  const int64_t blocks = (c.channels + CHANNEL_BLOCK - 1) / CHANNEL_BLOCK;
  const Filter filter(c);
  const int terms = filter.terms();
  volatile bool failed = false;
  const bool ok = parallel(run, c.batch * c.out_height, [&](int64_t begin, int64_t end) {
    Block own(c.width * CHANNEL_BLOCK * 4 + c.out_width * CHANNEL_BLOCK * 4 + c.taps_y * int64_t(sizeof(SourceRow)));
    if (!own.base) {
      failed = true;
      return;
    }
    float* const line = (float*)own.base;
    float* const sum = line + c.width * CHANNEL_BLOCK;  // of the terms, where there are several
    SourceRow* const rows = (SourceRow*)(sum + c.out_width * CHANNEL_BLOCK);
    for (int64_t job = begin; job < end; job++) {
      const int64_t n = job / c.out_height, oy = job % c.out_height;
      const T* image = (const T*)c.x + n * c.height * c.width * c.channels;
      T* out = (T*)c.out + job * c.out_width * c.channels;
      for (int64_t block = 0; block < blocks; block++) {
        const int64_t c0 = block * CHANNEL_BLOCK, some = std_min(CHANNEL_BLOCK, c.channels - c0);
        for (int t = 0; t < terms; t++) {
          const Term term = filter.term(t);
          const int found = source_rows(c, term, oy, rows);
          for (int64_t x = 0; x < c.width; x++) {
            float* to = line + x * CHANNEL_BLOCK;
            over_row(some, [&](int64_t i, int m) {
              vf v = {};
              for (int j = 0; j < found; j++)
                v += rows[j].tap * load_n(image + (rows[j].y * c.width + x) * c.channels + c0 + i, m);
              store(to + i, v);
            });
          }
          for (int64_t ox = 0; ox < c.out_width; ox++) {
            const int64_t place = ox * c.down_x - c.pad_x;  // of the first tap, in the image with zeros inserted
            int64_t first = 0;  // the taps that meet a pixel and not an inserted zero: first, first + up, ...
            while (first < c.taps_x && (place + first < 0 || (place + first) % c.up_x)) first++;
            const int64_t stop = std_min<int64_t>(c.taps_x, (c.width - 1) * c.up_x - place + 1);
            over_row(some, [&](int64_t i, int m) {
              vf v = t ? load(sum + ox * CHANNEL_BLOCK + i) : vf{};
              for (int64_t j = first; j < stop; j += c.up_x)
                v += term.row[j] * load(line + (place + j) / c.up_x * CHANNEL_BLOCK + i);
              if (t + 1 < terms)
                store(sum + ox * CHANNEL_BLOCK + i, v);
              else
                store_n(out + ox * c.channels + c0 + i, v, m);
            });
          }
        }
      }
    }
  });
  if (failed) return 1;
  return ok ? 0 : 2;
}

// Planes: vectors run along rows.
template <class T>
static int32_t upfirdn_planes(const FusedInrUpfirdn& c, FusedInrParallelFor run) {
  const Filter filter(c);
  const int terms = filter.terms();
  // A line holds the padded row with its zeros; reading a vector past its end is safe.
  const int64_t padded = (c.out_width - 1) * c.down_x + c.taps_x, length = padded + W;
  volatile bool failed = false;
  const bool ok = parallel(run, c.batch * c.channels * c.out_height, [&](int64_t begin, int64_t end) {
    Block own((length + c.out_width + W + c.width + W) * 4 + c.taps_y * int64_t(sizeof(SourceRow)));
    if (!own.base) {
      failed = true;
      return;
    }
    float* const line = (float*)own.base;
    float* const sum = line + length;
    float* const packed = sum + c.out_width + W;  // the row before zeros are inserted
    SourceRow* const rows = (SourceRow*)(packed + c.width + W);
    for (int64_t i = 0; i < length; i++) line[i] = 0.0f;
    const int64_t from = std_max<int64_t>(0, (-c.pad_x + c.up_x - 1) / c.up_x);  // the first pixel that is not cropped
    const int64_t to = std_min(c.width, (padded - 1 - c.pad_x) / c.up_x + 1);
    for (int64_t job = begin; job < end; job++) {
      const int64_t plane = job / c.out_height, oy = job % c.out_height;
      const T* image = (const T*)c.x + plane * c.height * c.width;
      T* out = (T*)c.out + job * c.out_width;
      for (int t = 0; t < terms; t++) {
        const Term term = filter.term(t);
        const int found = source_rows(c, term, oy, rows);
        float* const direct = c.up_x == 1 ? line + c.pad_x + from : packed;
        over_row(std_max<int64_t>(0, to - from), [&](int64_t i, int m) {
          vf v = {};
          for (int j = 0; j < found; j++) v += rows[j].tap * load_n(image + rows[j].y * c.width + from + i, m);
          store_n(direct + i, v, m);
        });
        if (c.up_x > 1)
          for (int64_t i = from; i < to; i++) line[i * c.up_x + c.pad_x] = packed[i - from];
        over_row(c.out_width, [&](int64_t i, int m) {
          vf v = t ? load_n(sum + i, m) : vf{};
          if (c.down_x == 1) {
            for (int j = 0; j < c.taps_x; j++) v += term.row[j] * load(line + i + j);
          } else {
            for (int k = 0; k < m; k++)
              for (int j = 0; j < c.taps_x; j++) v[k] += term.row[j] * line[(i + k) * c.down_x + j];
          }
          if (t + 1 < terms)
            store_n(sum + i, v, m);
          else
            store_n(out + i, v, m);
        });
      }
    }
  });
  if (failed) return 1;
  return ok ? 0 : 2;
}

template <class T>
static int32_t upfirdn2d_of(T*, const FusedInrUpfirdn& c, FusedInrParallelFor run) {
  return c.channels_last ? upfirdn_pixels<T>(c, run) : upfirdn_planes<T>(c, run);
}
