// Gradients of a program: each band is computed forward again, its layer outputs kept, unless the forward pass stored
// them, and then walked backwards.
//
// The identities of the forward pass hold backwards as well: the gradient of the upsampled product is summed over the
// children of each coarse pixel before it meets a matrix. Weight gradients are accumulated over the bands of a slice, a
// fixed part of a clip's bands, and the slices are added in order: the same bits for any number of threads.
#pragma once

#include "abi.h"
#include "engine.h"
#include "gemm.h"
#include "layers.h"
#include "simd.h"
#include "slices.h"
#include "support.h"

namespace ISA_NAME {

constexpr int64_t CLIPS_AT_ONCE = 4;

template <class T>
struct Backward : Engine<T> {
  typedef typename Step<T>::type S;
  typedef Engine<T> Base;
  using Base::p;

  const FusedInrGradients& g;
  PackedLayer<T>* transposed;  // [clips of the group][layers]: weight and parent, for gradients of inputs

  Backward(const FusedInrProgram& program, const FusedInrGradients& gradients)
      : Base(program), g(gradients), transposed(nullptr) {}

  int stage_of(int layer) const {
    int s = 0;
    for (int at = p.stages[0].layers; at <= layer; at += p.stages[++s].layers) {
    }
    return s;
  }
  int first_of(int stage) const { return int(&this->first_layer(stage) - p.layers); }
  bool has_parent(int layer) const {
    const int s = stage_of(layer);
    return s > 0 && first_of(s) == layer;
  }

  void layout_transposed(Arena& arena, int64_t clips) {
    PackedLayer<T>* all = arena.take<PackedLayer<T>>(clips * p.num_layers);
    for (int64_t i = 0; i < clips * p.num_layers; i++) {
      const int layer = int(i % p.num_layers);
      const FusedInrLayer& l = p.layers[layer];
      PackedLayer<T> mine = {};
      mine.weight = arena.take<T>(packed_size(l.in, l.out));
      if (has_parent(layer)) mine.parent = arena.take<T>(packed_size(p.layers[layer - 1].out, l.out));
      if (all) all[i] = mine;
    }
    transposed = all;
  }

  void pack_backward(int64_t n, int64_t clip, int layer) {
    const FusedInrLayer& l = p.layers[layer];
    const PackedLayer<T>& to = transposed[n * p.num_layers + layer];
    pack_transposed((T*)to.weight, l.weight + clip * l.weight_clip, l.weight_row, l.out, l.in);
    if (to.parent) {
      const FusedInrStage& stage = p.stages[stage_of(layer)];
      pack_transposed((T*)to.parent, stage.parent + clip * stage.parent_clip, stage.parent_row, l.out,
                      p.layers[layer - 1].out);
    }
  }

  // Sums of one slice.
  struct LayerSums {
    float *weight, *parent;        // [O][padded I]
    float* bias;                   // [T][padded O]
    float *rgb_weight, *rgb_bias;  // [C][padded O], [C]
  };
  struct StageSums {
    float* phase;      // [T][padded D]
    float* frequency;  // [2][padded D]
  };
  struct Sums {
    LayerSums* layers;
    StageSums* stages;
  };

  Sums sums(Arena& arena) const {
    Sums x;
    x.layers = arena.take<LayerSums>(p.num_layers);
    x.stages = arena.take<StageSums>(p.num_stages);
    for (int i = 0; i < p.num_layers; i++) {
      const FusedInrLayer& l = p.layers[i];
      LayerSums mine = {};
      mine.weight = arena.take<float>(l.out * round_up(l.in, W));
      if (has_parent(i)) mine.parent = arena.take<float>(l.out * round_up(p.layers[i - 1].out, W));
      mine.bias = arena.take<float>(p.times * round_up(l.out, W));
      if (l.rgb_weight) {
        mine.rgb_weight = arena.take<float>(p.channels * round_up(l.out, W));
        mine.rgb_bias = arena.take<float>(p.channels);
      }
      if (x.layers) x.layers[i] = mine;
    }
    for (int i = 0; i < p.num_stages; i++) {
      const int64_t d = round_up(p.stages[i].features, W);
      StageSums mine = {arena.take<float>(p.times * d), arena.take<float>(2 * d)};
      if (x.stages) x.stages[i] = mine;
    }
    return x;
  }

  // One thread's buffers beyond the forward pass's.
  struct Work {
    Kept<T> kept;
    float* gradient;   // [TILE][widest]: of a layer's output
    T *delta, *input;  // [TILE][widest]: gradient before the activation, features
    S *delta_steps, *input_steps, *block;
    float* image[FUSED_INR_MOST_STAGES];  // [pixels][channels] of each stage: gradient of the running image
    float *below, *above;  // [pixels][padded O]: gradient of a stage's output; of the upsampled product, summed
  };

  Work work(Arena& arena) const {
    Work x;
    int64_t largest = 0;
    for (int s = 0, layer = 0; s < p.num_stages; s++) {
      const int64_t pixels = this->band_rows * p.width * p.stages[s].scale * p.stages[s].scale;
      x.image[s] = arena.take<float>(pixels * p.channels);
      layer += p.stages[s].layers;
      if (s + 1 < p.num_stages)
        largest = std_max(largest, pixels * round_up(std_max(p.layers[layer].out, p.layers[layer - 1].out), W));
    }
    if (!p.kept) this->kept_layout(arena.take<T>(this->kept_layout(nullptr, x.kept)), x.kept);
    const int64_t tile = TILE * this->widest();
    x.gradient = arena.take<float>(tile);
    x.delta = arena.take<T>(tile);
    x.input = arena.take<T>(tile);
    x.delta_steps = arena.take<S>(tile);
    x.input_steps = arena.take<S>(tile);
    x.block = arena.take<S>(TILE * NB);
    x.below = arena.take<float>(largest);
    x.above = arena.take<float>(largest);
    return x;
  }

  // The gradient of the running image of every stage in a band: that of the picture, summed over children.
  void image_gradients(int64_t clip, int64_t time, int64_t base_row, int64_t base_rows, Work& x) const {
    for (int s = p.num_stages - 1; s >= 0; s--) {
      const int64_t scale = p.stages[s].scale, rows = base_rows * scale, width = p.width * scale;
      float* to = x.image[s];
      if (s + 1 == p.num_stages) {
        const int64_t height = p.height * scale;
        const float* from = g.out + ((clip * p.times + time) * p.channels * height + base_row * scale) * width;
        for (int64_t c = 0; c < p.channels; c++)
          for (int64_t r = 0; r < rows * width; r++) to[r * p.channels + c] = from[c * height * width + r];
      } else {
        const int64_t ratio = p.stages[s + 1].scale / scale, fine = width * ratio;
        for (int64_t i = 0; i < rows * width * p.channels; i++) to[i] = 0.0f;
        for (int64_t r = 0; r < rows * ratio; r++)
          for (int64_t q = 0; q < fine; q++)
            for (int64_t c = 0; c < p.channels; c++)
              to[(r / ratio * width + q / ratio) * p.channels + c] += x.image[s + 1][(r * fine + q) * p.channels + c];
      }
    }
  }

  // gradient [m][widest] of a layer's output -> delta, before its activation; bias sums.
  void through_activation(const FusedInrLayer& l, const T* out, int64_t m, const Work& x, int64_t ld,
                          float* bias) const {
    const int64_t np = round_up(l.out, W);
    const float low = l.activation == ACT_LRELU ? l.slope : l.activation == ACT_RELU ? 0.0f : 1.0f;
    for (int64_t j = 0; j < np; j += W) {
      vf sum = {};
      for (int64_t r = 0; r < m; r++) {
        const vf y = load(out + r * np + j) * l.gain;  // as positive as the value before the activation
        const vf d = load(x.gradient + r * ld + j) * l.gain;
        const vf delta = y > 0.0f ? d : d * low;
        sum += delta;
        store(x.delta + r * ld + j, delta);
      }
      store(bias + j, load(bias + j) + sum);
    }
  }

  void add_outer(const T* input, int64_t ldi, int64_t in, int64_t out, int64_t m, int64_t ld, const Work& x,
                 float* sum) const {
    const S* a = in_steps(x.delta, ld, m, round_up(out, W), (S*)x.delta_steps);
    const S* b = in_steps(input, ldi, m, round_up(in, W), (S*)x.input_steps);
    outer_product(a, ld, out, b, ldi, in, steps(m, T()), sum, x.block);
  }

  // Gradients of phase and frequency from those of the features, which `product` left in `gradient`.
  void through_features(const FusedInrStage& stage, int64_t row0, int64_t first, int64_t m, const Work& x, int64_t ld,
                        float* phase, float* frequency) const {
    const int64_t d = stage.features, dp = round_up(d, W), width = p.width * stage.scale;
    const double height = double(p.height * stage.scale);
    for (int64_t r = 0; r < m; r++) {
      const int64_t i = row0 + (first + r) / width, j = (first + r) % width;
      const float px = float(p.x0 + (p.x1 - p.x0) * double(j) / double(width));
      const float py = float(p.y0 + (p.y1 - p.y0) * (height - 1 - double(i)) / height);
      const float* df = x.gradient + r * ld;
      const T* f = x.input + r * ld;
      for (int64_t k = 0; k < d; k++) {
        // With sines alone the cosine is what the table gives: it was put behind the sines for this.
        const float da = df[k] * Base::value(f[d + k]) - (stage.cosines ? df[d + k] * Base::value(f[k]) : 0.0f);
        phase[k] += da;
        frequency[k] += da * px;
        frequency[dp + k] += da * py;
      }
    }
  }

  void band_backward(int64_t n, int64_t clip, int64_t time, int64_t band, typename Base::Scratch& scratch, Work& x,
                     const Sums& sums) {
    if (p.kept)
      x.kept = this->stored(clip, time, band);
    else
      this->band(n, clip, time, band, scratch, &x.kept);
    const int64_t base_row = band * this->band_rows, base_rows = std_min(this->band_rows, p.height - base_row);
    const int64_t ld = this->widest();
    const PackedLayer<T>* back = transposed + n * p.num_layers;
    image_gradients(clip, time, base_row, base_rows, x);
    const float* table = this->columns + n * this->column_floats();
    const float* tables[FUSED_INR_MOST_STAGES];
    for (int s = 0; s < p.num_stages; s++) {
      tables[s] = table;
      table += 2 * p.width * p.stages[s].scale * round_up(p.stages[s].features, W);
    }
    for (int s = p.num_stages - 1; s >= 0; s--) {
      const FusedInrStage& stage = p.stages[s];
      const int first_layer = first_of(s), last_layer = first_layer + stage.layers - 1;
      const int64_t rows = base_rows * stage.scale, width = p.width * stage.scale, pixels = rows * width;
      const int64_t ratio = s ? stage.scale / p.stages[s - 1].scale : 1;
      const int64_t coarse = pixels / (ratio * ratio), lda = round_up(p.layers[first_layer].out, W);
      const int64_t ldl = round_up(p.layers[last_layer].out, W);
      if (s)
        for (int64_t i = 0; i < coarse * lda; i++) x.above[i] = 0.0f;
      this->fill_rows(stage, clip, time, base_row * stage.scale, rows, scratch);
      for (int64_t first = 0; first < pixels; first += TILE) {
        const int64_t m = std_min<int64_t>(TILE, pixels - first);
        for (int64_t r = 0; r < m; r++)
          for (int64_t j = 0; j < ldl; j++)
            x.gradient[r * ld + j] = s + 1 < p.num_stages ? x.below[(first + r) * ldl + j] : 0.0f;
        if (!p.has_rgb && s + 1 == p.num_stages)
          for (int64_t r = 0; r < m; r++)
            for (int64_t c = 0; c < p.channels; c++) x.gradient[r * ld + c] = x.image[s][(first + r) * p.channels + c];
        for (int i = last_layer; i >= first_layer; i--) {
          const FusedInrLayer& l = p.layers[i];
          const int64_t np = round_up(l.out, W);
          const T* out = x.kept.outputs[i] + first * np;
          const LayerSums& sum = sums.layers[i];
          if (l.rgb_weight) read_out_backward(l, n, i, out, m, x.image[s] + first * p.channels, x.gradient, ld, sum);
          through_activation(l, out, m, x, ld, sum.bias + time * np);
          const auto keep = [&](const float* c, int64_t n0, int64_t lanes) {
            for (int64_t r = 0; r < m; r++)
              for (int64_t j = 0; j < lanes; j += W) store(x.gradient + r * ld + n0 + j, load(c + r * lanes + j));
          };
          if (i > first_layer) {
            const int64_t ldi = round_up(l.in, W);
            add_outer(x.kept.outputs[i - 1] + first * ldi, ldi, l.in, l.out, m, ld, x, sum.weight);
            product(x.delta, ld, m, back[i].weight, l.in, l.out, scratch.c, keep);
            continue;
          }
          if (s)
            for (int64_t r = 0; r < m; r++) {
              const int64_t pixel = first + r;
              float* to = x.above + (pixel / width / ratio * (width / ratio) + pixel % width / ratio) * lda;
              for (int64_t j = 0; j < lda; j += W) store(to + j, load(to + j) + load(x.delta + r * ld + j));
            }
          if (stage.features) {
            FusedInrStage both = stage;
            both.cosines = 1;
            this->features(both, tables[s], first, m, scratch, x.input, ld);
            for (int64_t r = 0; r < m; r++)  // the padding of a row meets the padding of the sums: it must be finite
              for (int64_t j = 2 * stage.features; j < ld; j++) x.input[r * ld + j] = element(0.0f, T());
            add_outer(x.input, ld, l.in, l.out, m, ld, x, sum.weight);
            product(x.delta, ld, m, back[i].weight, l.in, l.out, scratch.c, keep);
            const int64_t dp = round_up(stage.features, W);
            through_features(stage, base_row * stage.scale, first, m, x, ld, sums.stages[s].phase + time * dp,
                             sums.stages[s].frequency);
          }
        }
      }
      if (s) parent_backward(first_layer, coarse, back[first_layer].parent, x, scratch, ld, sums.layers[first_layer]);
    }
  }

  // The product with the stage before, at that stage's resolution: from `above` to `below`.
  void parent_backward(int layer, int64_t pixels, const T* weight, Work& x, typename Base::Scratch& scratch, int64_t ld,
                       const LayerSums& sum) const {
    const int64_t out = p.layers[layer].out, in = p.layers[layer - 1].out, lda = round_up(out, W),
                  ldi = round_up(in, W);
    for (int64_t first = 0; first < pixels; first += TILE) {
      const int64_t m = std_min<int64_t>(TILE, pixels - first);
      for (int64_t r = 0; r < m; r++)
        for (int64_t j = 0; j < lda; j += W) store(x.delta + r * ld + j, load(x.above + (first + r) * lda + j));
      add_outer(x.kept.outputs[layer - 1] + first * ldi, ldi, in, out, m, ld, x, sum.parent);
      product(x.delta, ld, m, weight, in, out, scratch.c, [&](const float* c, int64_t n0, int64_t lanes) {
        for (int64_t r = 0; r < m; r++)
          for (int64_t j = 0; j < lanes; j += W) store(x.below + (first + r) * ldi + n0 + j, load(c + r * lanes + j));
      });
    }
  }

  void read_out_backward(const FusedInrLayer& l, int64_t n, int layer, const T* out, int64_t m, const float* image,
                         float* gradient, int64_t ld, const LayerSums& sum) const {
    const int64_t np = round_up(l.out, W);
    const float* rgb = this->packed[n * p.num_layers + layer].rgb;
    for (int64_t c = 0; c < p.channels; c++) {
      for (int64_t r = 0; r < m; r++) sum.rgb_bias[c] += image[r * p.channels + c];
      for (int64_t j = 0; j < np; j += W) {
        const vf w = load(rgb + c * np + j);
        vf total = load(sum.rgb_weight + c * np + j);
        for (int64_t r = 0; r < m; r++) {
          const float d = image[r * p.channels + c];
          total += load(out + r * np + j) * d;
          store(gradient + r * ld + j, load(gradient + r * ld + j) + w * d);
        }
        store(sum.rgb_weight + c * np + j, total);
      }
    }
  }

  void finish_layer(int64_t clip, int layer, const Sums* slices, int64_t count) const {
    const FusedInrLayer& l = p.layers[layer];
    const FusedInrLayerGrad& to = g.layers[layer];
    const float* parts[SLICES];
    const auto each = [&](float* LayerSums::* field) {
      for (int64_t i = 0; i < count; i++) parts[i] = slices[i].layers[layer].*field;
      return parts;
    };
    sum_slices(each(&LayerSums::weight), count, l.out, l.in, round_up(l.in, W), to.weight + clip * to.weight_clip,
               to.weight_row);
    const int64_t np = round_up(l.out, W);
    sum_slices(each(&LayerSums::bias), count, p.times, l.out, np, to.bias + clip * p.times * l.out, l.out);
    if (l.rgb_weight) {
      sum_slices(each(&LayerSums::rgb_weight), count, p.channels, l.out, np, to.rgb_weight + clip * p.channels * l.out,
                 l.out);
      sum_slices(each(&LayerSums::rgb_bias), count, 1, p.channels, p.channels, to.rgb_bias + clip * p.channels,
                 p.channels);
    }
    const int s = stage_of(layer);
    if (first_of(s) != layer) return;
    const FusedInrStageGrad& at = g.stages[s];
    if (s) {
      const int64_t in = p.layers[layer - 1].out;
      sum_slices(each(&LayerSums::parent), count, l.out, in, round_up(in, W), at.parent + clip * at.parent_clip,
                 at.parent_row);
    }
    const int64_t d = p.stages[s].features, dp = round_up(d, W);
    if (!d) return;
    for (int64_t i = 0; i < count; i++) parts[i] = slices[i].stages[s].phase;
    sum_slices(parts, count, p.times, d, dp, at.phase + clip * p.times * d, d);
    for (int64_t i = 0; i < count; i++) parts[i] = slices[i].stages[s].frequency;
    sum_slices(parts, count, 2, d, dp, at.frequency + clip * d * 2, 1, 2);
  }
};

template <class T>
static int32_t backward_program(const FusedInrProgram& p, const FusedInrGradients& g, FusedInrParallelFor run) {
  if (p.num_layers > FUSED_INR_MOST_LAYERS || p.num_stages > FUSED_INR_MOST_STAGES) return 3;
  Backward<T> engine(p, g);
  const int64_t bands = engine.bands(), jobs_of_clip = p.times * bands;
  const int64_t at_once = std_min<int64_t>(CLIPS_AT_ONCE, p.clips);
  const int64_t slices = std_min<int64_t>(SLICES / at_once, jobs_of_clip);
  Arena shared_size = {nullptr, 0}, sums_size = {nullptr, 0}, own_size = {nullptr, 0};
  engine.layout(shared_size, at_once);
  engine.layout_transposed(shared_size, at_once);
  engine.sums(sums_size);
  engine.scratch(own_size);
  engine.work(own_size);
  Block shared(shared_size.used), sum_memory(at_once * slices * sums_size.used);
  if (!shared.base || !sum_memory.base) return 1;
  typename Backward<T>::Sums sums[SLICES];
  volatile bool failed = false;
  for (int64_t first = 0; first < p.clips; first += at_once) {
    const int64_t clips = std_min(at_once, p.clips - first);
    Arena arena = {shared.base, 0};
    engine.layout(arena, clips);
    engine.layout_transposed(arena, clips);
    bool fine = parallel(run, clips * (p.num_layers + 1), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) {
        const int64_t n = i / (p.num_layers + 1), layer = i % (p.num_layers + 1);
        if (layer == p.num_layers) {
          engine.fill_columns(n, first + n);
        } else {
          engine.pack_layer(n, first + n, int(layer));
          engine.pack_backward(n, first + n, int(layer));
        }
      }
    });
    fine = fine && parallel(run, clips * slices, [&](int64_t begin, int64_t end) {
      Block own(own_size.used);
      if (!own.base) {
        failed = true;
        return;
      }
      Arena mine = {own.base, 0};
      auto scratch = engine.scratch(mine);
      auto work = engine.work(mine);
      for (int64_t i = begin; i < end; i++) {
        const int64_t n = i / slices, slice = i % slices;
        Arena memory = {sum_memory.base + i * sums_size.used, 0};
        __builtin_memset(memory.base, 0, sums_size.used);
        sums[i] = engine.sums(memory);
        for (int64_t job = jobs_of_clip * slice / slices; job < jobs_of_clip * (slice + 1) / slices; job++)
          engine.band_backward(n, first + n, job / bands, job % bands, scratch, work, sums[i]);
      }
    });
    if (failed) return 1;
    fine = fine && parallel(run, clips * p.num_layers, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++)
        engine.finish_layer(first + i / p.num_layers, int(i % p.num_layers), sums + i / p.num_layers * slices, slices);
    });
    if (!fine) return 2;
  }
  return 0;
}

}  // namespace ISA_NAME
