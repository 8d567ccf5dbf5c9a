// Color, translation and cutout of clips, and the adjoint of their linear part. A frame is read from memory once: its
// mean and its output are computed in succession while it is in cache.
//
// A pixel is visible unless translation or cutout removes it. With m the mean over the channels of a pixel, M the mean
// over the frame, and b, s and k the brightness, saturation and contrast, color maps a visible pixel x to
//
//     k s x + k (1 - s) m + (1 - k) M + b
//
// which, apart from b, is self-adjoint. If color comes first, M is the mean over the whole frame. If it comes last,
// pixels that are not visible count as zero in M, and become (1 - k) M + b.
#pragma once

#include "abi.h"
#include "elements.h"
#include "simd.h"
#include "support.h"

namespace ISA_NAME {

// Along one axis, output i in [begin, end) is element i + source of the input, unless it is in [hole, hole_end).
struct Axis {
  int64_t begin, end, hole, hole_end, source;
};

static inline int64_t clamped_to(int64_t value, int64_t low, int64_t high) {
  return std_max(low, std_min(value, high));
}

// Offsets are clamped before they are added, since they may have any value.
static inline Axis axis_of(const FusedInrAugment& c, int64_t clip, int axis) {
  const int64_t size = axis ? c.width : c.height;
  int64_t shift = c.offset ? clamped_to(c.offset[2 * clip + axis], -size, size) : 0, hole_shift = 0;
  if (c.adjoint) {
    shift = -shift;
    hole_shift = shift;
  }
  Axis a = {std_max<int64_t>(0, shift), std_min(size, size + shift), 0, 0, -shift};
  a.hole = a.hole_end = a.end;
  if (c.hole) {
    const int64_t length = std_min(axis ? c.hole_width : c.hole_height, INT64_MAX / 4);
    const int64_t first = clamped_to(c.hole[2 * clip + axis], -length, size) + hole_shift;
    a.hole = clamped_to(first, a.begin, a.end);
    a.hole_end = clamped_to(first + length, a.begin, a.end);
  }
  return a;
}

// The visible pixels of a clip's frames.
struct Visibility {
  Axis rows, columns;

  // Calls visible(begin, end) and hidden(begin, end) for the columns of an output row, from left to right.
  template <class Visible, class Hidden>
  void row(int64_t i, int64_t width, const Visible& visible, const Hidden& hidden) const {
    if (i < rows.begin || i >= rows.end || columns.begin >= columns.end) return hidden(0, width);
    hidden(0, columns.begin);
    if (i >= rows.hole && i < rows.hole_end) {
      visible(columns.begin, columns.hole);
      hidden(columns.hole, columns.hole_end);
      visible(columns.hole_end, columns.end);
    } else {
      visible(columns.begin, columns.end);
    }
    hidden(columns.end, width);
  }
};

// Calls step(offset, n) for vectors that cover a stretch; the last vector may overlap the one before it.
template <class Step>
static inline void over_stretch(int64_t length, const Step& step) {
  if (length < W) {
    if (length > 0) step(0, int(length));
    return;
  }
  for (int64_t i = 0; i < length; i += W) step(std_min(i, length - W), W);
}

// A sum in float64 of float32 vectors.
struct WideSum {
  typedef float Half_vf __attribute__((vector_size(W * 2)));
  typedef double Wide __attribute__((vector_size(W * 4)));
  Wide low = {}, high = {};

  void add(vf v) {
    Half_vf halves[2];
    __builtin_memcpy(halves, &v, sizeof v);
    low += __builtin_convertvector(halves[0], Wide);
    high += __builtin_convertvector(halves[1], Wide);
  }

  double total() const {
    double sum = 0.0;
    for (int i = 0; i < W / 2; i++) sum += low[i] + high[i];
    return sum;
  }
};

template <class T>
static inline vf channel_sum(const T* x, int64_t channels, int64_t plane, int n) {
  vf sum = {};
  for (int64_t channel = 0; channel < channels; channel++) sum += load_n(x + channel * plane, n);
  return sum;
}

// The sum over the visible pixels of a frame.
template <class T>
static double visible_sum(const FusedInrAugment& c, const Visibility& visibility, const T* x) {
  WideSum sum;
  for (int64_t i = 0; i < c.height; i++) {
    const T* row = x + (i + visibility.rows.source) * c.width + visibility.columns.source;
    const auto visible = [&](int64_t begin, int64_t end) {
      over_row(end - begin,
               [&](int64_t j, int n) { sum.add(channel_sum(row + begin + j, c.channels, c.height * c.width, n)); });
    };
    visibility.row(i, c.width, visible, [](int64_t, int64_t) {});
  }
  return sum.total();
}

template <class T>
static void augment_frame(const FusedInrAugment& c, int64_t clip, const T* x, T* out) {
  const int64_t plane = c.height * c.width;
  const Visibility whole = {{0, c.height, c.height, c.height, 0}, {0, c.width, c.width, c.width, 0}};
  const Visibility visibility = {axis_of(c, clip, 0), axis_of(c, clip, 1)};
  const bool color_after = bool(c.color_last) != bool(c.adjoint);
  const bool colored = c.brightness || c.saturation || c.contrast;
  const float contrast = c.contrast ? c.contrast[clip] : 1.0f;
  const float saturation = c.saturation ? c.saturation[clip] : 1.0f;
  float constant = c.brightness ? c.brightness[clip] : 0.0f;
  if (c.contrast) {
    const double mean = visible_sum(c, color_after ? visibility : whole, x) / (double(plane) * double(c.channels));
    constant += float((1.0 - contrast) * mean);
  }
  const float own = contrast * saturation, shared = contrast * (1.0f - saturation) / float(c.channels);
  // The factors matter to a zero only if they are not finite.
  const T rest = element(color_after ? constant + 0.0f * (own + shared) : 0.0f, T());
  for (int64_t i = 0; i < c.height; i++) {
    const T* row = x + (i + visibility.rows.source) * c.width + visibility.columns.source;
    T* to = out + i * c.width;
    const auto visible = [&](int64_t begin, int64_t end) {
      if (!colored) {
        if (begin < end)
          for (int64_t channel = 0; channel < c.channels; channel++)
            __builtin_memcpy(to + channel * plane + begin, row + channel * plane + begin,
                             size_t(end - begin) * sizeof(T));
        return;
      }
      over_stretch(end - begin, [&](int64_t j, int n) {
        const T* from = row + begin + j;
        const vf level = c.saturation ? channel_sum(from, c.channels, plane, n) * shared + constant : splat(constant);
        for (int64_t channel = 0; channel < c.channels; channel++)
          store_n(to + channel * plane + begin + j, load_n(from + channel * plane, n) * own + level, n);
      });
    };
    const auto hidden = [&](int64_t begin, int64_t end) {
      for (int64_t channel = 0; channel < c.channels; channel++)
        for (int64_t j = begin; j < end; j++) to[channel * plane + j] = rest;
    };
    visibility.row(i, c.width, visible, hidden);
  }
}

template <class T>
static int32_t augment_of(T*, const FusedInrAugment& c, FusedInrParallelFor run) {
  const int64_t frame = c.channels * c.height * c.width;
  const bool ok = parallel(run, c.clips * c.times, [&](int64_t begin, int64_t end) {
    for (int64_t f = begin; f < end; f++)
      augment_frame(c, f / c.times, (const T*)c.x + f * frame, (T*)c.out + f * frame);
  });
  return ok ? 0 : 2;
}

}  // namespace ISA_NAME
