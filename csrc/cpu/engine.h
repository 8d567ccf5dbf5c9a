// Evaluation of a program on bands of the base grid.
//
// Everything after the coordinates is pointwise, and nearest upsampling commutes with a pointwise layer. So a band of
// rows of the base grid, with all its descendants in the later stages, is computed by one thread from first to last
// layer without any other pixel. Between stages only the product of the stage's output with the next stage's weight is
// kept, at the coarse resolution: the next stage adds it to what its coordinate features give.
#pragma once

#include "abi.h"
#include "gemm.h"
#include "layers.h"
#include "simd.h"
#include "support.h"

namespace ISA_NAME {

constexpr int64_t BAND = 128;  // least pixels of the base grid in a band

// What is packed of one layer for one clip.
template <class T>
struct PackedLayer {
  const T* weight;
  const T* parent;   // of the product with the stage before, or null
  const float* rgb;  // [C][padded O], rounded to T
};

// Where the forward pass of a band leaves the outputs of its layers for the backward pass: [pixels][padded O] each.
template <class T>
struct Kept {
  T* outputs[FUSED_INR_MOST_LAYERS];
};

// image [m, channels] += rows of x times the read-out.
template <class T>
static void read_out(const T* x, int64_t ldx, int64_t m, int64_t n, const float* rgb, int64_t channels, float* image) {
  const int64_t np = round_up(n, W);
  for (int64_t c0 = 0; c0 < channels; c0 += 3) {
    const int64_t some = std_min<int64_t>(3, channels - c0);
    for (int64_t r = 0; r < m; r++) {
      vf acc[3] = {};
      for (int64_t j = 0; j < np; j += W) {
        const vf v = load(x + r * ldx + j);
        for (int64_t c = 0; c < some; c++) acc[c] += v * load(rgb + (c0 + c) * np + j);
      }
      for (int64_t c = 0; c < some; c++) {
        float sum = 0.0f;
        for (int i = 0; i < W; i++) sum += acc[c][i];
        image[r * channels + c0 + c] += sum;
      }
    }
  }
}

// sin and cos of D angles f x + p, in double up to the reduction: a table entry serves a whole row or column of pixels.
static inline void angle_table(const float* frequency, int axis, double x, const float* phase, int64_t d, float* sine,
                               float* cosine) {
  const double turn = 6.283185307179586476925286766559, per_turn = 1 / turn;
  for (int64_t i = 0; i < d; i += W) {
    vf a = {};
    for (int64_t j = 0; j < W && i + j < d; j++) {
      const double angle = frequency[2 * (i + j) + axis] * x + (phase ? phase[i + j] : 0.0f);
      a[j] = float(angle - turn * __builtin_rint(angle * per_turn));
    }
    store(sine + i, sin_of(a));
    store(cosine + i, cos_of(a));
  }
}

template <class T>
struct Engine {
  const FusedInrProgram& p;
  PackedLayer<T>* packed;  // [clips of the group][layers]
  float* columns;          // [clips of the group][column_floats()]: sin and cos of f X, by stage
  int64_t band_rows;

  explicit Engine(const FusedInrProgram& program) : p(program), packed(nullptr), columns(nullptr) {
    band_rows = std_min<int64_t>(p.height, (BAND + p.width - 1) / p.width);
  }

  int64_t bands() const { return (p.height + band_rows - 1) / band_rows; }
  const FusedInrLayer& first_layer(int s) const {
    const FusedInrLayer* l = p.layers;
    for (int i = 0; i < s; i++) l += p.stages[i].layers;
    return *l;
  }
  int64_t feature_width(const FusedInrStage& s) const { return int64_t(s.features) * (s.cosines ? 2 : 1); }
  // Length of a row in the buffers of a tile. The extra vector keeps rows from being a power of two apart, which would
  // put them all into the same few places of a cache.
  int64_t widest() const {
    int64_t widest = W;
    for (int i = 0; i < p.num_layers; i++) widest = std_max<int64_t>(widest, p.layers[i].out);
    for (int i = 0; i < p.num_stages; i++) widest = std_max<int64_t>(widest, 2 * p.stages[i].features);
    return round_up(widest, W) + W;
  }

  int64_t column_floats() const {
    int64_t n = 0;
    for (int s = 0; s < p.num_stages; s++) n += 2 * p.width * p.stages[s].scale * round_up(p.stages[s].features, W);
    return n;
  }

  // Takes (or, in a dry arena, counts) the packed weights of `clips` clips from `first` on.
  int64_t layout(Arena& arena, int64_t clips) {
    PackedLayer<T>* all = arena.take<PackedLayer<T>>(clips * p.num_layers);
    for (int64_t n = 0; n < clips; n++) {
      int layer = 0;
      for (int s = 0; s < p.num_stages; s++)
        for (int i = 0; i < p.stages[s].layers; i++, layer++) {
          const FusedInrLayer& l = p.layers[layer];
          const FusedInrStage& stage = p.stages[s];
          PackedLayer<T> mine = {};
          const PackedLayer<T>* before = all && n ? all + layer : nullptr;
          const bool dry = !all;
          mine.weight =
              n && !l.weight_clip ? (dry ? nullptr : before->weight) : arena.take<T>(packed_size(l.out, l.in));
          if (i == 0 && s)
            mine.parent = n && !stage.parent_clip ? (dry ? nullptr : before->parent)
                                                  : arena.take<T>(packed_size(l.out, p.layers[layer - 1].out));
          if (l.rgb_weight)
            mine.rgb =
                n && !l.rgb_clip ? (dry ? nullptr : before->rgb) : arena.take<float>(p.channels * round_up(l.out, W));
          if (all) all[n * p.num_layers + layer] = mine;
        }
    }
    packed = all;
    columns = arena.take<float>(clips * column_floats());
    return arena.used;
  }

  void pack_layer(int64_t n, int64_t clip, int layer) {
    const FusedInrLayer& l = p.layers[layer];
    const PackedLayer<T>& to = packed[n * p.num_layers + layer];
    const bool again = n > 0;
    if (!again || l.weight_clip) pack((T*)to.weight, l.weight + clip * l.weight_clip, l.weight_row, l.out, l.in);
    int at = 0;
    for (int s = 0; s < p.num_stages; at += p.stages[s++].layers) {
      const FusedInrStage& stage = p.stages[s];
      if (s && at == layer && (!again || stage.parent_clip))
        pack((T*)to.parent, stage.parent + clip * stage.parent_clip, stage.parent_row, l.out, p.layers[layer - 1].out);
    }
    if (l.rgb_weight && (!again || l.rgb_clip)) {
      const int64_t np = round_up(l.out, W);
      float* rgb = (float*)to.rgb;
      for (int64_t c = 0; c < p.channels; c++)
        for (int64_t j = 0; j < np; j++) {
          const float w = j < l.out ? l.rgb_weight[clip * l.rgb_clip + c * l.out + j] : 0.0f;
          rgb[c * np + j] = sizeof(T) == 2 ? from_bf16(to_bf16(w)) : w;
        }
    }
  }

  // The tables of a clip's columns serve all its frames: time is in the phase, which the tables of rows take.
  void fill_columns(int64_t n, int64_t clip) {
    float* at = columns + n * column_floats();
    for (int s = 0; s < p.num_stages; s++) {
      const FusedInrStage& stage = p.stages[s];
      const int64_t d = stage.features, dp = round_up(d, W), width = p.width * stage.scale;
      for (int64_t j = 0; j < width; j++) {
        const double x = p.x0 + (p.x1 - p.x0) * double(j) / double(width);
        const float* frequency = stage.frequency + clip * stage.frequency_clip;
        angle_table(frequency, 0, x, nullptr, d, at + j * dp, at + (width + j) * dp);
      }
      at += 2 * width * dp;
    }
  }

  // One thread's buffers.
  struct Scratch {
    T *a, *b;                     // [TILE][widest]
    float* c;                     // [TILE][NB]
    float* bias;                  // [layers][padded O]
    int32_t* parents;             // [TILE]
    float *sy, *cy;               // sin and cos of f Y + phase, of one stage: [rows][padded D]
    float *addend, *addend_next;  // [pixels of the stage before][padded O]: product waiting for the stage's first layer
    float *image, *image_before;  // [pixels][channels]
  };

  Scratch scratch(Arena& arena) const {
    int64_t table_rows = 0, pixels = 0, addend = 0, biases = 0;
    for (int s = 0; s < p.num_stages; s++) {
      const FusedInrStage& stage = p.stages[s];
      const int64_t rows = band_rows * stage.scale, columns = p.width * stage.scale, d = round_up(stage.features, W);
      table_rows = std_max(table_rows, rows * d);
      pixels = std_max(pixels, rows * columns);
      if (s + 1 < p.num_stages) addend = std_max(addend, rows * columns * round_up(first_layer(s + 1).out, W));
    }
    for (int i = 0; i < p.num_layers; i++) biases += round_up(p.layers[i].out, W);
    Scratch x;
    x.a = arena.take<T>(TILE * widest());
    x.b = arena.take<T>(TILE * widest());
    x.c = arena.take<float>(TILE * NB);
    x.bias = arena.take<float>(biases);
    x.parents = arena.take<int32_t>(TILE);
    x.sy = arena.take<float>(table_rows);
    x.cy = arena.take<float>(table_rows);
    x.addend = arena.take<float>(addend);
    x.addend_next = arena.take<float>(addend);
    x.image = arena.take<float>(p.has_rgb ? pixels * p.channels : 0);
    x.image_before = arena.take<float>(p.has_rgb ? pixels * p.channels : 0);
    return x;
  }

  void fill_rows(const FusedInrStage& stage, int64_t clip, int64_t time, int64_t row0, int64_t rows, Scratch& x) {
    const int64_t d = stage.features, dp = round_up(d, W);
    if (!d) return;
    const float* frequency = stage.frequency + clip * stage.frequency_clip;
    const float* phase = stage.phase + clip * stage.phase_clip + time * stage.phase_time;
    const double height = double(p.height * stage.scale);
    for (int64_t i = 0; i < rows; i++) {
      const double y = p.y0 + (p.y1 - p.y0) * (height - 1 - double(row0 + i)) / height;
      angle_table(frequency, 1, y, phase, d, x.sy + i * dp, x.cy + i * dp);
    }
  }

  // Rows of features of pixels first ... first+m-1 of the band, from the tables: sin(u+v), cos(u+v).
  void features(const FusedInrStage& stage, const float* table, int64_t first, int64_t m, const Scratch& x, T* to,
                int64_t ld) const {
    const int64_t d = stage.features, dp = round_up(d, W), columns = p.width * stage.scale;
    const int64_t width = feature_width(stage);
    for (int64_t r = 0; r < m; r++) {
      const int64_t i = (first + r) / columns, j = (first + r) % columns;
      const float *su = x.sy + i * dp, *cu = x.cy + i * dp, *sv = table + j * dp, *cv = table + (columns + j) * dp;
      T* row = to + r * ld;
      if (d % W == 0) {
        for (int64_t k = 0; k < d; k += W) {
          const vf a = load(su + k), b = load(cu + k), e = load(sv + k), f = load(cv + k);
          store(row + k, a * f + b * e);
          if (stage.cosines) store(row + d + k, b * f - a * e);
        }
      } else {
        for (int64_t k = 0; k < d; k++) {
          row[k] = element(su[k] * cv[k] + cu[k] * sv[k], T());
          if (stage.cosines) row[d + k] = element(cu[k] * cv[k] - su[k] * sv[k], T());
        }
      }
      if (width % 2) row[width] = element(0.0f, T());  // products take pairs
    }
  }

  // Where the outputs of the layers of one band lie, from `base` on; returns how many values they are.
  int64_t kept_layout(T* base, Kept<T>& kept) const {
    int64_t at = 0;
    for (int s = 0, layer = 0; s < p.num_stages; s++) {
      const int64_t pixels = band_rows * p.width * p.stages[s].scale * p.stages[s].scale;
      for (int i = 0; i < p.stages[s].layers; i++, layer++) {
        kept.outputs[layer] = base + at;
        at += round_up(pixels * round_up(p.layers[layer].out, W), 64);
      }
    }
    return at;
  }

  // The stored outputs of one band of one frame.
  Kept<T> stored(int64_t clip, int64_t time, int64_t band) const {
    Kept<T> kept;
    const int64_t size = kept_layout((T*)p.kept, kept);
    kept_layout((T*)p.kept + ((clip * p.times + time) * bands() + band) * size, kept);
    return kept;
  }

  // One band of one frame, from the first stage to the picture.
  void band(int64_t n, int64_t clip, int64_t time, int64_t band, Scratch x, const Kept<T>* kept = nullptr) {
    const int64_t base_row = band * band_rows, base_rows = std_min(band_rows, p.height - base_row);
    const int64_t ld = widest();
    int64_t bias_at = 0;
    for (int i = 0; i < p.num_layers; i++) {
      const FusedInrLayer& l = p.layers[i];
      const float* bias = l.bias + clip * l.bias_clip + time * l.bias_time;
      const int64_t padded = round_up(l.out, W);
      for (int64_t j = 0; j < padded; j++) x.bias[bias_at + j] = j < l.out ? bias[j] : 0.0f;
      bias_at += padded;
    }
    const FusedInrLayer* layers = p.layers;
    const PackedLayer<T>* weights = packed + n * p.num_layers;
    const float* biases = x.bias;
    const float* table = columns + n * column_floats();
    for (int s = 0; s < p.num_stages; s++) {
      const FusedInrStage& stage = p.stages[s];
      const bool last = s + 1 == p.num_stages;
      const int64_t rows = base_rows * stage.scale, width = p.width * stage.scale, pixels = rows * width;
      const int64_t ratio = s ? stage.scale / p.stages[s - 1].scale : 1;
      const int64_t lda = round_up(layers[0].out, W);
      fill_rows(stage, clip, time, base_row * stage.scale, rows, x);
      for (int64_t first = 0; first < pixels; first += TILE) {
        const int64_t m = std_min<int64_t>(TILE, pixels - first);
        for (int64_t r = 0; r < m; r++) {
          const int64_t pixel = first + r;
          x.parents[r] = s ? int32_t(pixel / width / ratio * (width / ratio) + pixel % width / ratio) : 0;
        }
        float* image = x.image + first * p.channels;
        if (p.has_rgb)
          for (int64_t r = 0; r < m; r++)
            for (int64_t c = 0; c < p.channels; c++)
              image[r * p.channels + c] = s ? x.image_before[x.parents[r] * p.channels + c] : 0.0f;
        features(stage, table, first, m, x, x.a, ld);
        T *in = x.a, *to = x.b;
        const float* bias = biases;
        for (int i = 0; i < stage.layers; i++) {
          const FusedInrLayer& l = layers[i];
          const float* addend = i == 0 && s ? x.addend : nullptr;
          product(in, ld, m, weights[i].weight, l.out, l.in, x.c, [&](const float* c, int64_t n0, int64_t lanes) {
            finish_block(c, n0, lanes, m, l, bias, addend, x.parents, lda, to, ld);
          });
          if (kept) {
            T* keep = kept->outputs[&l - p.layers] + first * round_up(l.out, W);
            for (int64_t r = 0; r < m; r++)
              __builtin_memcpy(keep + r * round_up(l.out, W), to + r * ld, round_up(l.out, W) * sizeof(T));
          }
          if (l.rgb_weight) {
            read_out(to, ld, m, l.out, weights[i].rgb, p.channels, image);
            for (int64_t r = 0; r < m; r++)
              for (int64_t c = 0; c < p.channels; c++) image[r * p.channels + c] += l.rgb_bias[c];
          }
          T* swap = in;
          in = to, to = swap;
          bias += round_up(l.out, W);
        }
        if (!last) {
          const FusedInrLayer& next = layers[stage.layers];
          const int64_t ldn = round_up(next.out, W);
          float* rest = x.addend_next + first * ldn;
          product(in, ld, m, weights[stage.layers].parent, next.out, layers[stage.layers - 1].out, x.c,
                  [&](const float* c, int64_t n0, int64_t lanes) {
            for (int64_t r = 0; r < m; r++)
              for (int64_t j = 0; j < lanes; j += W) store(rest + r * ldn + n0 + j, load(c + r * lanes + j));
          });
        } else if (p.out) {
          write(clip, time, base_row * stage.scale, width, first, m, in, ld, image);
        }
      }
      for (int i = 0; i < stage.layers; i++) biases += round_up(layers[i].out, W);
      table += 2 * width * round_up(stage.features, W);
      layers += stage.layers;
      weights += stage.layers;
      float* swap = x.addend;
      x.addend = x.addend_next, x.addend_next = swap;
      swap = x.image;
      x.image = x.image_before, x.image_before = swap;
    }
  }

  // Pixels of the last stage into the planes of the output: the image, or the last layer where nothing is read out.
  void write(int64_t clip, int64_t time, int64_t row0, int64_t columns, int64_t first, int64_t m, const T* x,
             int64_t ld, const float* image) const {
    const int64_t height = p.height * p.stages[p.num_stages - 1].scale;
    float* frame = p.out + (clip * p.times + time) * p.channels * height * columns + row0 * columns + first;
    for (int64_t c = 0; c < p.channels; c++)
      for (int64_t r = 0; r < m; r++)
        frame[c * height * columns + r] = p.has_rgb ? image[r * p.channels + c] : value(x[r * ld + c]);
  }

  static float value(float v) { return v; }
  static float value(uint16_t v) { return from_bf16(v); }

  // Clips whose packed weights are held at a time.
  int64_t group() {
    Arena one = {nullptr, 0}, two = {nullptr, 0};
    const int64_t first = layout(one, 1), more = layout(two, 2) - first;
    const int64_t fit = more > 0 ? 1 + std_max<int64_t>(0, GROUP_BYTES - first) / more : p.clips;
    return std_max<int64_t>(1, std_min(p.clips, fit));
  }
};

}  // namespace ISA_NAME
