// Forward evaluation of a program, one band of rows of the base grid at a time.
//
// Every layer after the coordinates is pointwise, and nearest upsampling commutes with a pointwise layer. A thread can
// therefore compute a band, with all its descendants in later stages, from the first layer to the last without any
// other pixel. Between stages only the product of a stage's output with the next stage's weight is stored, at the
// coarse resolution; the next stage adds it to the product with its coordinate features.
#pragma once

#include "abi.h"
#include "gemm.h"
#include "layers.h"
#include "simd.h"
#include "support.h"

namespace ISA_NAME {

constexpr int64_t BAND = 128;  // minimum number of base-grid pixels in a band

// The packed weights of one layer for one clip.
template <class T>
struct PackedLayer {
  const T* weight;
  const T* parent;   // of the product with the stage before, or null
  const float* rgb;  // [C][padded O], rounded to T
};

// The layer outputs of a band that the backward pass needs: [pixels][padded O] per layer.
template <class T>
struct Kept {
  T* outputs[FUSED_INR_MAX_LAYERS];
};

// image [m, channels] += x [m, n] times the read-out weights [channels, n]. The padding of x may be infinite or NaN.
template <class T>
static void read_out(const T* x, int64_t ldx, int64_t m, int64_t n, const float* rgb, int64_t channels, float* image) {
  constexpr int64_t AT_ONCE = 3;  // channels whose sums are held in registers
  const int64_t np = round_up(n, W);
  vi inside;  // of the last vector
  for (int i = 0; i < W; i++) inside[i] = np - W + i < n ? -1 : 0;
  for (int64_t c0 = 0; c0 < channels; c0 += AT_ONCE) {
    const int64_t chunk = std_min<int64_t>(AT_ONCE, channels - c0);
    for (int64_t r = 0; r < m; r++) {
      vf acc[AT_ONCE] = {};
      for (int64_t j = 0; j < np; j += W) {
        vf v = load(x + r * ldx + j);
        if (j + W > n) v = (vf)((vi)v & inside);
        for (int64_t c = 0; c < chunk; c++) acc[c] += v * load(rgb + (c0 + c) * np + j);
      }
      for (int64_t c = 0; c < chunk; c++) {
        float sum = 0.0f;
        for (int i = 0; i < W; i++) sum += acc[c][i];
        image[r * channels + c0 + c] += sum;
      }
    }
  }
}

// sin and cos of D angles f x + p, in double up to the range reduction, since an entry serves a whole row or column.
static inline void angle_table(const float* frequency, int axis, double x, const float* phase, int64_t d, float* sine,
                               float* cosine) {
  const double turn = 6.283185307179586476925286766559, per_turn = 1 / turn;
  const double limit = 1e9;  // beyond, the angle is rounded to a float, whose range reduction is exact
  for (int64_t i = 0; i < d; i += W) {
    vf a = {};
    for (int64_t j = 0; j < W && i + j < d; j++) {
      const double angle = frequency[2 * (i + j) + axis] * x + (phase ? phase[i + j] : 0.0f);
      a[j] = float(__builtin_fabs(angle) <= limit ? angle - turn * __builtin_rint(angle * per_turn) : angle);
    }
    a = reducible(a);
    store(sine + i, sin_of(a));
    store(cosine + i, cos_of(a));
  }
}

// A band of base-grid rows in one frame.
struct Band {
  int64_t n;  // index of the clip in its group
  int64_t clip, time, index;
  int64_t row, rows;  // of the base grid
};

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
  Band band_at(int64_t n, int64_t clip, int64_t time, int64_t index) const {
    const int64_t row = index * band_rows;
    return {n, clip, time, index, row, std_min(band_rows, p.height - row)};
  }

  int stage_of(int layer) const {
    int s = 0;
    for (int end = p.stages[0].layers; end <= layer; end += p.stages[++s].layers) {
    }
    return s;
  }
  int first_layer(int stage) const {
    int layer = 0;
    for (int s = 0; s < stage; s++) layer += p.stages[s].layers;
    return layer;
  }
  bool has_parent(int layer) const {
    const int s = stage_of(layer);
    return s > 0 && first_layer(s) == layer;
  }
  int64_t stage_width(int stage) const { return p.width * p.stages[stage].scale; }
  // Pixels per side of a stage for each pixel of the stage before.
  int64_t upsampling(int stage) const { return stage ? p.stages[stage].scale / p.stages[stage - 1].scale : 1; }

  // Row stride of the buffers of a tile. The extra vector avoids strides that are powers of two, for which all rows map
  // to the same few cache sets.
  int64_t widest() const {
    int64_t widest = W;
    for (int i = 0; i < p.num_layers; i++) widest = std_max<int64_t>(widest, p.layers[i].out);
    for (int i = 0; i < p.num_stages; i++) widest = std_max<int64_t>(widest, 2 * p.stages[i].features);
    return round_up(widest, W) + W;
  }

  // Offset of a stage's table in the tables of a clip's columns.
  int64_t column_offset(int stage) const {
    int64_t n = 0;
    for (int s = 0; s < stage; s++) n += 2 * stage_width(s) * round_up(p.stages[s].features, W);
    return n;
  }
  int64_t column_floats() const { return column_offset(p.num_stages); }

  // Allocates the packed weights and tables of `clips` clips. Without a base, the arena only counts their size. Clips
  // that share a tensor share its packed form.
  int64_t layout(Arena& arena, int64_t clips) {
    PackedLayer<T>* all = arena.take<PackedLayer<T>>(clips * p.num_layers);
    for (int64_t n = 0; n < clips; n++) {
      for (int layer = 0; layer < p.num_layers; layer++) {
        const FusedInrLayer& l = p.layers[layer];
        PackedLayer<T> own = {}, first = {};
        if (all && n) first = all[layer];
        own.weight = n && !l.weight_clip ? first.weight : arena.take<T>(packed_size(l.out, l.in));
        if (has_parent(layer))
          own.parent = n && !p.stages[stage_of(layer)].parent_clip
                           ? first.parent
                           : arena.take<T>(packed_size(l.out, p.layers[layer - 1].out));
        if (l.rgb_weight) own.rgb = n && !l.rgb_clip ? first.rgb : arena.take<float>(p.channels * round_up(l.out, W));
        if (all) all[n * p.num_layers + layer] = own;
      }
    }
    packed = all;
    columns = arena.take<float>(clips * column_floats());
    return arena.used;
  }

  void pack_layer(int64_t n, int64_t clip, int layer) {
    const FusedInrLayer& l = p.layers[layer];
    const PackedLayer<T>& to = packed[n * p.num_layers + layer];
    const bool first = n == 0;  // clips that share a tensor have it packed once
    if (first || l.weight_clip) pack((T*)to.weight, l.weight + clip * l.weight_clip, l.weight_row, l.out, l.in);
    if (to.parent) {
      const FusedInrStage& stage = p.stages[stage_of(layer)];
      if (first || stage.parent_clip)
        pack((T*)to.parent, stage.parent + clip * stage.parent_clip, stage.parent_row, l.out, p.layers[layer - 1].out);
    }
    if (l.rgb_weight && (first || l.rgb_clip)) pack_rgb(l, clip, (float*)to.rgb);
  }

  void pack_rgb(const FusedInrLayer& l, int64_t clip, float* to) const {
    const int64_t np = round_up(l.out, W);
    for (int64_t c = 0; c < p.channels; c++)
      for (int64_t j = 0; j < np; j++) {
        const float w = j < l.out ? l.rgb_weight[clip * l.rgb_clip + c * l.out + j] : 0.0f;
        to[c * np + j] = sizeof(T) == 2 ? from_bf16(to_bf16(w)) : w;
      }
  }

  // Fills the tables of a clip's columns. They serve all frames, because time enters through the phase, which the
  // tables of rows include.
  void fill_columns(int64_t n, int64_t clip) {
    for (int s = 0; s < p.num_stages; s++) {
      float* table = columns + n * column_floats() + column_offset(s);
      const FusedInrStage& stage = p.stages[s];
      const int64_t d = stage.features, dp = round_up(d, W), width = stage_width(s);
      for (int64_t j = 0; j < width; j++) {
        const double x = p.x0 + (p.x1 - p.x0) * double(j) / double(width);
        const float* frequency = stage.frequency + clip * stage.frequency_clip;
        angle_table(frequency, 0, x, nullptr, d, table + j * dp, table + (width + j) * dp);
      }
    }
  }

  // The buffers of one thread.
  struct Scratch {
    T *a, *b;                     // [TILE][widest]
    float* c;                     // [TILE][NB]
    float* bias;                  // [layers][padded O]
    int32_t* parents;             // [TILE]: index of each pixel's parent in the stage before
    float *sy, *cy;               // sin and cos of f Y + phase, of one stage: [rows][padded D]
    float *addend, *addend_next;  // [pixels of the stage before][padded O]: product for the next stage's first layer
    float *image, *image_before;  // [pixels][channels]
  };

  Scratch scratch(Arena& arena) const {
    int64_t table_rows = 0, pixels = 0, addend = 0, biases = 0;
    for (int s = 0; s < p.num_stages; s++) {
      const FusedInrStage& stage = p.stages[s];
      const int64_t rows = band_rows * stage.scale, d = round_up(stage.features, W);
      table_rows = std_max(table_rows, rows * d);
      pixels = std_max(pixels, rows * stage_width(s));
      if (s + 1 < p.num_stages)
        addend = std_max(addend, rows * stage_width(s) * round_up(p.layers[first_layer(s + 1)].out, W));
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

  // Fills the tables of a band's rows.
  void fill_rows(const FusedInrStage& stage, const Band& band, const Scratch& x) const {
    const int64_t d = stage.features, dp = round_up(d, W);
    if (!d) return;
    const float* frequency = stage.frequency + band.clip * stage.frequency_clip;
    const float* phase = stage.phase + band.clip * stage.phase_clip + band.time * stage.phase_time;
    const double height = double(p.height * stage.scale);
    const int64_t row0 = band.row * stage.scale, rows = band.rows * stage.scale;
    for (int64_t i = 0; i < rows; i++) {
      const double y = p.y0 + (p.y1 - p.y0) * (height - 1 - double(row0 + i)) / height;
      angle_table(frequency, 1, y, phase, d, x.sy + i * dp, x.cy + i * dp);
    }
  }

  // Features of pixels first ... first+m-1 of the band: sin(u+v) and cos(u+v), from the tables of u and v.
  void features(const FusedInrStage& stage, const float* table, int64_t first, int64_t m, const Scratch& x, T* to,
                int64_t ld) const {
    const int64_t d = stage.features, dp = round_up(d, W), columns = p.width * stage.scale;
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
    }
  }

  // Sets the outputs of a band's layers to consecutive memory from `base`; returns the number of values.
  int64_t kept_layout(T* base, Kept<T>& kept) const {
    int64_t offset = 0;
    for (int s = 0, layer = 0; s < p.num_stages; s++) {
      const int64_t pixels = band_rows * p.width * p.stages[s].scale * p.stages[s].scale;
      for (int i = 0; i < p.stages[s].layers; i++, layer++) {
        kept.outputs[layer] = base + offset;
        offset += round_up(pixels * round_up(p.layers[layer].out, W), 64);
      }
    }
    return offset;
  }

  // The outputs that the forward pass stores for a band.
  Kept<T> stored(const Band& band) const {
    Kept<T> kept;
    const int64_t size = kept_layout((T*)p.kept, kept);
    kept_layout((T*)p.kept + ((band.clip * p.times + band.time) * bands() + band.index) * size, kept);
    return kept;
  }

  // A stage, with the weights, biases and column table of one frame.
  struct StageOfFrame {
    int index;
    const FusedInrStage& stage;
    const FusedInrLayer* layers;
    const PackedLayer<T>* weights;
    const float* biases;  // padded, layer after layer
    const float* table;
  };

  void load_biases(const Band& band, float* to) const {
    for (int i = 0; i < p.num_layers; i++) {
      const FusedInrLayer& l = p.layers[i];
      const float* bias = l.bias + band.clip * l.bias_clip + band.time * l.bias_time;
      const int64_t padded = round_up(l.out, W);
      for (int64_t j = 0; j < padded; j++) to[j] = j < l.out ? bias[j] : 0.0f;
      to += padded;
    }
  }

  // Evaluates one band, from the first stage to the output.
  void render_band(const Band& band, Scratch x, const Kept<T>* kept = nullptr) {
    load_biases(band, x.bias);
    const float* biases = x.bias;
    for (int s = 0; s < p.num_stages; s++) {
      const int layer = first_layer(s);
      const StageOfFrame at = {s,
                               p.stages[s],
                               p.layers + layer,
                               packed + band.n * p.num_layers + layer,
                               biases,
                               columns + band.n * column_floats() + column_offset(s)};
      const int64_t pixels = band.rows * at.stage.scale * stage_width(s);
      fill_rows(at.stage, band, x);
      for (int64_t first = 0; first < pixels; first += TILE) {
        const int64_t m = std_min<int64_t>(TILE, pixels - first);
        find_parents(s, first, m, x.parents);
        float* image = x.image + first * p.channels;
        if (p.has_rgb) start_image(s, m, x, image);
        T* const out = run_layers(at, first, m, x, image, kept);
        if (s + 1 < p.num_stages)
          multiply_parent(at, first, m, out, x);
        else if (p.out)
          write(band, first, m, out, image);
      }
      for (int i = 0; i < at.stage.layers; i++) biases += round_up(at.layers[i].out, W);
      swap_pointers(x.addend, x.addend_next);
      swap_pointers(x.image, x.image_before);
    }
  }

  void find_parents(int stage, int64_t first, int64_t m, int32_t* parents) const {
    const int64_t width = stage_width(stage), ratio = upsampling(stage);
    for (int64_t r = 0; r < m; r++) {
      const int64_t pixel = first + r;
      parents[r] = stage ? int32_t(pixel / width / ratio * (width / ratio) + pixel % width / ratio) : 0;
    }
  }

  // Starts the running image of a tile with that of the stage before, upsampled.
  void start_image(int stage, int64_t m, const Scratch& x, float* image) const {
    for (int64_t r = 0; r < m; r++)
      for (int64_t c = 0; c < p.channels; c++)
        image[r * p.channels + c] = stage ? x.image_before[x.parents[r] * p.channels + c] : 0.0f;
  }

  // Runs a tile through the layers of a stage and adds their read-outs to the image; returns the last layer's output.
  T* run_layers(const StageOfFrame& at, int64_t first, int64_t m, const Scratch& x, float* image,
                const Kept<T>* kept) const {
    const int64_t ld = widest(), lda = round_up(at.layers[0].out, W);
    features(at.stage, at.table, first, m, x, x.a, ld);
    T *in = x.a, *to = x.b;
    const float* bias = at.biases;
    for (int i = 0; i < at.stage.layers; i++) {
      const FusedInrLayer& l = at.layers[i];
      const float* addend = i == 0 && at.index ? x.addend : nullptr;
      product(in, ld, m, at.weights[i].weight, l.out, l.in, x.c, [&](const float* c, int64_t n0, int64_t lanes) {
        finish_block(c, n0, lanes, m, l, bias, addend, x.parents, lda, to, ld);
      });
      const int64_t np = round_up(l.out, W);
      if (kept) {
        T* keep = kept->outputs[&l - p.layers] + first * np;
        for (int64_t r = 0; r < m; r++) __builtin_memcpy(keep + r * np, to + r * ld, np * sizeof(T));
      }
      if (l.rgb_weight) {
        read_out(to, ld, m, l.out, at.weights[i].rgb, p.channels, image);
        for (int64_t r = 0; r < m; r++)
          for (int64_t c = 0; c < p.channels; c++) image[r * p.channels + c] += l.rgb_bias[c];
      }
      swap_pointers(in, to);
      bias += np;
    }
    return in;
  }

  // Multiplies a stage's output with the next stage's weight, before it is upsampled.
  void multiply_parent(const StageOfFrame& at, int64_t first, int64_t m, T* out, const Scratch& x) const {
    const int layers = at.stage.layers;
    const FusedInrLayer& next = at.layers[layers];
    const int64_t ldn = round_up(next.out, W);
    float* to = x.addend_next + first * ldn;
    product(out, widest(), m, at.weights[layers].parent, next.out, at.layers[layers - 1].out, x.c,
            [&](const float* c, int64_t n0, int64_t lanes) {
      for (int64_t r = 0; r < m; r++)
        for (int64_t j = 0; j < lanes; j += W) store(to + r * ldn + n0 + j, load(c + r * lanes + j));
    });
  }

  // Writes pixels of the last stage to the planes of the output: the image, or the last layer of a program without
  // read-outs.
  void write(const Band& band, int64_t first, int64_t m, const T* x, const float* image) const {
    const int last = p.num_stages - 1;
    const int64_t height = p.height * p.stages[last].scale, columns = stage_width(last), ld = widest();
    const int64_t row0 = band.row * p.stages[last].scale;
    float* frame = p.out + (band.clip * p.times + band.time) * p.channels * height * columns + row0 * columns + first;
    for (int64_t c = 0; c < p.channels; c++)
      for (int64_t r = 0; r < m; r++)
        frame[c * height * columns + r] = p.has_rgb ? image[r * p.channels + c] : value(x[r * ld + c]);
  }

  static float value(float v) { return v; }
  static float value(uint16_t v) { return from_bf16(v); }

  // The number of clips whose packed weights are in memory at a time.
  int64_t group() {
    Arena one = {nullptr, 0}, two = {nullptr, 0};
    const int64_t first = layout(one, 1), more = layout(two, 2) - first;
    const int64_t fit = more > 0 ? 1 + std_max<int64_t>(0, GROUP_BYTES - first) / more : p.clips;
    return std_max<int64_t>(1, std_min(p.clips, fit));
  }
};

}  // namespace ISA_NAME
