// Gradients of a program. Each band is first evaluated forward, its layer outputs kept, unless the forward pass stored
// them, and is then walked through backwards.
//
// The identities of the forward pass hold backwards too: the gradient of the upsampled product is summed over the
// children of each coarse pixel before it is multiplied. Weight gradients are accumulated per slice, a fixed part of a
// clip's bands, and slices are added in order, so that the result has the same bits for any number of threads.
#pragma once

#include "abi.h"
#include "engine.h"
#include "gemm.h"
#include "layers.h"
#include "simd.h"
#include "slices.h"
#include "support.h"

namespace ISA_NAME {

constexpr int64_t CLIPS_AT_ONCE = 4;  // clips whose gradients are computed together

template <class T>
struct Backward : Engine<T> {
  typedef typename Step<T>::type S;
  typedef Engine<T> Base;
  using Base::p;

  const FusedInrGradients& g;
  PackedLayer<T>* transposed;  // [clips of the group][layers]: weight and parent, for gradients of inputs

  Backward(const FusedInrProgram& program, const FusedInrGradients& gradients)
      : Base(program), g(gradients), transposed(nullptr) {}

  void layout_transposed(Arena& arena, int64_t clips) {
    PackedLayer<T>* all = arena.take<PackedLayer<T>>(clips * p.num_layers);
    for (int64_t i = 0; i < clips * p.num_layers; i++) {
      const int layer = int(i % p.num_layers);
      const FusedInrLayer& l = p.layers[layer];
      PackedLayer<T> own = {};
      own.weight = arena.take<T>(packed_size(l.in, l.out));
      if (this->has_parent(layer)) own.parent = arena.take<T>(packed_size(p.layers[layer - 1].out, l.out));
      if (all) all[i] = own;
    }
    transposed = all;
  }

  void pack_backward(int64_t n, int64_t clip, int layer) {
    const FusedInrLayer& l = p.layers[layer];
    const PackedLayer<T>& to = transposed[n * p.num_layers + layer];
    pack_transposed((T*)to.weight, l.weight + clip * l.weight_clip, l.weight_row, l.out, l.in);
    if (to.parent) {
      const FusedInrStage& stage = p.stages[this->stage_of(layer)];
      pack_transposed((T*)to.parent, stage.parent + clip * stage.parent_clip, stage.parent_row, l.out,
                      p.layers[layer - 1].out);
    }
  }

  // The gradient sums of one slice.
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
      LayerSums own = {};
      own.weight = arena.take<float>(l.out * round_up(l.in, W));
      if (this->has_parent(i)) own.parent = arena.take<float>(l.out * round_up(p.layers[i - 1].out, W));
      own.bias = arena.take<float>(p.times * round_up(l.out, W));
      if (l.rgb_weight) {
        own.rgb_weight = arena.take<float>(p.channels * round_up(l.out, W));
        own.rgb_bias = arena.take<float>(p.channels);
      }
      if (x.layers) x.layers[i] = own;
    }
    for (int i = 0; i < p.num_stages; i++) {
      const int64_t d = round_up(p.stages[i].features, W);
      StageSums own = {arena.take<float>(p.times * d), arena.take<float>(2 * d)};
      if (x.stages) x.stages[i] = own;
    }
    return x;
  }

  // The buffers of one thread, in addition to those of the forward pass.
  struct Work {
    Kept<T> kept;
    float* gradient;                       // [TILE][widest]: of a layer's output, later of its input
    T *delta, *input;                      // [TILE][widest]: gradient before the activation; features
    S *delta_steps, *input_steps, *block;  // operands of outer_product
    float* image[FUSED_INR_MAX_STAGES];    // [pixels][channels] per stage: gradient of the running image
    float* below;                          // [pixels][padded O]: gradient of a stage's output
    float* above;  // [pixels][padded O]: gradient of the upsampled product, summed over children
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

  // Gradients of the running image of every stage in a band: that of the output, summed over children.
  void image_gradients(const Band& band, const Work& x) const {
    for (int s = p.num_stages - 1; s >= 0; s--) {
      const int64_t scale = p.stages[s].scale, rows = band.rows * scale, width = this->stage_width(s);
      float* to = x.image[s];
      if (s + 1 == p.num_stages) {
        const int64_t height = p.height * scale;
        const float* from =
            g.out + ((band.clip * p.times + band.time) * p.channels * height + band.row * scale) * width;
        for (int64_t c = 0; c < p.channels; c++)
          for (int64_t r = 0; r < rows * width; r++) to[r * p.channels + c] = from[c * height * width + r];
      } else {
        const int64_t ratio = this->upsampling(s + 1), fine = width * ratio;
        for (int64_t i = 0; i < rows * width * p.channels; i++) to[i] = 0.0f;
        for (int64_t r = 0; r < rows * ratio; r++)
          for (int64_t q = 0; q < fine; q++)
            for (int64_t c = 0; c < p.channels; c++)
              to[(r / ratio * width + q / ratio) * p.channels + c] += x.image[s + 1][(r * fine + q) * p.channels + c];
      }
    }
  }

  // Computes delta, the gradient before the activation, from the gradient of a layer's output; adds it to the bias
  // sums.
  void through_activation(const FusedInrLayer& l, const T* out, int64_t m, const Work& x, int64_t ld,
                          float* bias) const {
    const int64_t np = round_up(l.out, W);
    const bool relu = l.activation == ACT_RELU;
    const float low = l.activation == ACT_LRELU ? l.slope : 1.0f;
    for (int64_t j = 0; j < np; j += W) {
      vf sum = {};
      for (int64_t r = 0; r < m; r++) {
        const vf y = load(out + r * np + j) * l.gain;  // has the sign of the value before the activation
        const vf d = load(x.gradient + r * ld + j) * l.gain;
        const vf delta = relu ? (y <= 0.0f ? vf{} : d) : y > 0.0f ? d : d * low;  // relu lets NaN pass
        sum += delta;
        store(x.delta + r * ld + j, delta);
      }
      store(bias + j, load(bias + j) + sum);
    }
  }

  // Adds delta^T input, over the pixels of a tile, to the sums of a weight gradient.
  void add_outer(const T* input, int64_t ldi, int64_t in, int64_t out, int64_t m, int64_t ld, const Work& x,
                 float* sum) const {
    const S* a = in_steps(x.delta, ld, m, round_up(out, W), (S*)x.delta_steps);
    const S* b = in_steps(input, ldi, m, round_up(in, W), (S*)x.input_steps);
    outer_product(a, ld, out, b, ldi, in, steps(m, T()), sum, x.block);
  }

  // Adds the gradients of phase and frequency, from those of the features in `gradient`.
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
        // f holds the cosines behind the sines even if the stage has sines only.
        const float da = df[k] * Base::value(f[d + k]) - (stage.cosines ? df[d + k] * Base::value(f[k]) : 0.0f);
        phase[k] += da;
        frequency[k] += da * px;
        frequency[dp + k] += da * py;
      }
    }
  }

  void band_backward(const Band& band, typename Base::Scratch& scratch, Work& x, const Sums& sums) {
    if (p.kept)
      x.kept = this->stored(band);
    else
      this->render_band(band, scratch, &x.kept);
    image_gradients(band, x);
    for (int s = p.num_stages - 1; s >= 0; s--) {
      const int first_layer = this->first_layer(s), ratio = int(this->upsampling(s));
      const int64_t pixels = band.rows * p.stages[s].scale * this->stage_width(s);
      const int64_t coarse = pixels / (ratio * ratio), lda = round_up(p.layers[first_layer].out, W);
      if (s)
        for (int64_t i = 0; i < coarse * lda; i++) x.above[i] = 0.0f;
      this->fill_rows(p.stages[s], band, scratch);
      for (int64_t first = 0; first < pixels; first += TILE)
        tile_backward(s, band, first, std_min<int64_t>(TILE, pixels - first), scratch, x, sums);
      if (s) {
        const T* weight = transposed[band.n * p.num_layers + first_layer].parent;
        parent_backward(first_layer, coarse, weight, x, scratch, sums.layers[first_layer]);
      }
    }
  }

  // Propagates a tile's gradient from the last layer of a stage to its features and to the stage before.
  void tile_backward(int s, const Band& band, int64_t first, int64_t m, typename Base::Scratch& scratch, Work& x,
                     const Sums& sums) const {
    const int64_t ld = this->widest();
    const int first_layer = this->first_layer(s), last_layer = first_layer + p.stages[s].layers - 1;
    const PackedLayer<T>* back = transposed + band.n * p.num_layers;
    start_gradient(s, last_layer, first, m, x, ld);
    for (int i = last_layer; i >= first_layer; i--) {
      const FusedInrLayer& l = p.layers[i];
      const int64_t np = round_up(l.out, W);
      const T* out = x.kept.outputs[i] + first * np;
      const LayerSums& sum = sums.layers[i];
      if (l.rgb_weight) read_out_backward(l, band.n, i, out, m, x.image[s] + first * p.channels, x.gradient, ld, sum);
      through_activation(l, out, m, x, ld, sum.bias + band.time * np);
      if (i > first_layer) {
        const int64_t ldi = round_up(l.in, W);
        add_outer(x.kept.outputs[i - 1] + first * ldi, ldi, l.in, l.out, m, ld, x, sum.weight);
        input_gradient(l, back[i].weight, m, x, scratch, ld);
      }
    }
    if (s) add_to_parents(s, first, m, x, ld);
    if (p.stages[s].features) features_backward(s, band, first, m, scratch, x, ld, sums);
  }

  // Starts with the gradient of a stage's output: from the next stage, or of a program's output without read-outs.
  void start_gradient(int s, int last_layer, int64_t first, int64_t m, const Work& x, int64_t ld) const {
    const int64_t ldl = round_up(p.layers[last_layer].out, W);
    const bool last = s + 1 == p.num_stages;
    for (int64_t r = 0; r < m; r++)
      for (int64_t j = 0; j < ldl; j++) x.gradient[r * ld + j] = last ? 0.0f : x.below[(first + r) * ldl + j];
    if (last && !p.has_rgb)
      for (int64_t r = 0; r < m; r++)
        for (int64_t c = 0; c < p.channels; c++) x.gradient[r * ld + c] = x.image[s][(first + r) * p.channels + c];
  }

  // Replaces the gradient of a layer's output by that of its input: delta times the weight.
  void input_gradient(const FusedInrLayer& l, const T* transposed_weight, int64_t m, const Work& x,
                      typename Base::Scratch& scratch, int64_t ld) const {
    product(x.delta, ld, m, transposed_weight, l.in, l.out, scratch.c, [&](const float* c, int64_t n0, int64_t lanes) {
      for (int64_t r = 0; r < m; r++)
        for (int64_t j = 0; j < lanes; j += W) store(x.gradient + r * ld + n0 + j, load(c + r * lanes + j));
    });
  }

  // Adds delta of a stage's first layer to the sums over the children of each pixel of the stage before.
  void add_to_parents(int s, int64_t first, int64_t m, const Work& x, int64_t ld) const {
    const int64_t width = this->stage_width(s), ratio = this->upsampling(s);
    const int64_t lda = round_up(p.layers[this->first_layer(s)].out, W);
    for (int64_t r = 0; r < m; r++) {
      const int64_t pixel = first + r;
      float* to = x.above + (pixel / width / ratio * (width / ratio) + pixel % width / ratio) * lda;
      for (int64_t j = 0; j < lda; j += W) store(to + j, load(to + j) + load(x.delta + r * ld + j));
    }
  }

  // Gradients of a first layer's weight, and of the frequencies and phases of its features.
  void features_backward(int s, const Band& band, int64_t first, int64_t m, typename Base::Scratch& scratch, Work& x,
                         int64_t ld, const Sums& sums) const {
    const int layer = this->first_layer(s);
    const FusedInrLayer& l = p.layers[layer];
    const FusedInrStage& stage = p.stages[s];
    FusedInrStage with_cosines = stage;  // the derivative of a sine needs them
    with_cosines.cosines = 1;
    const float* table = this->columns + band.n * this->column_floats() + this->column_offset(s);
    this->features(with_cosines, table, first, m, scratch, x.input, ld);
    for (int64_t r = 0; r < m; r++)  // padding must be finite: it is multiplied and added to the padding of the sums
      for (int64_t j = 2 * stage.features; j < ld; j++) x.input[r * ld + j] = element(0.0f, T());
    add_outer(x.input, ld, l.in, l.out, m, ld, x, sums.layers[layer].weight);
    input_gradient(l, transposed[band.n * p.num_layers + layer].weight, m, x, scratch, ld);
    through_features(stage, band.row * stage.scale, first, m, x, ld,
                     sums.stages[s].phase + band.time * round_up(stage.features, W), sums.stages[s].frequency);
  }

  // Backward pass of the product with the stage before, at that stage's resolution: computes `below` from `above`.
  void parent_backward(int layer, int64_t pixels, const T* weight, Work& x, typename Base::Scratch& scratch,
                       const LayerSums& sum) const {
    const int64_t out = p.layers[layer].out, in = p.layers[layer - 1].out;
    const int64_t lda = round_up(out, W), ldi = round_up(in, W), ld = this->widest();
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

  // Adds the slices of a layer's gradients, and of its stage's if it is the first, and writes the results.
  void finish_layer(int64_t clip, int layer, const Sums* slices, int64_t count) const {
    const FusedInrLayer& l = p.layers[layer];
    const FusedInrLayerGrad& to = g.layers[layer];
    const float* parts[SLICES] = {};
    const auto each = [&](float* LayerSums::* field) {
      for (int64_t i = 0; i < count; i++) parts[i] = slices[i].layers[layer].*field;
      return parts;
    };
    const int64_t np = round_up(l.out, W), channels = p.channels;
    sum_slices(each(&LayerSums::weight), count, l.out, l.in, round_up(l.in, W), to.weight + clip * to.weight_clip,
               to.weight_row);
    sum_slices(each(&LayerSums::bias), count, p.times, l.out, np, to.bias + clip * p.times * l.out, l.out);
    if (l.rgb_weight) {
      sum_slices(each(&LayerSums::rgb_weight), count, channels, l.out, np, to.rgb_weight + clip * channels * l.out,
                 l.out);
      sum_slices(each(&LayerSums::rgb_bias), count, 1, channels, channels, to.rgb_bias + clip * channels, channels);
    }
    if (this->has_parent(layer)) {
      const FusedInrStageGrad& stage = g.stages[this->stage_of(layer)];
      const int64_t in = p.layers[layer - 1].out;
      sum_slices(each(&LayerSums::parent), count, l.out, in, round_up(in, W), stage.parent + clip * stage.parent_clip,
                 stage.parent_row);
    }
    if (this->first_layer(this->stage_of(layer)) == layer) finish_features(clip, this->stage_of(layer), slices, count);
  }

  void finish_features(int64_t clip, int s, const Sums* slices, int64_t count) const {
    const int64_t d = p.stages[s].features, dp = round_up(d, W);
    if (!d) return;
    const FusedInrStageGrad& to = g.stages[s];
    const float* parts[SLICES] = {};
    for (int64_t i = 0; i < count; i++) parts[i] = slices[i].stages[s].phase;
    sum_slices(parts, count, p.times, d, dp, to.phase + clip * p.times * d, d);
    for (int64_t i = 0; i < count; i++) parts[i] = slices[i].stages[s].frequency;
    sum_slices(parts, count, 2, d, dp, to.frequency + clip * d * 2, 1, 2);
  }
};

template <class T>
static int32_t backward_program(const FusedInrProgram& p, const FusedInrGradients& g, FusedInrParallelFor run) {
  if (p.num_layers > FUSED_INR_MAX_LAYERS || p.num_stages > FUSED_INR_MAX_STAGES) return 3;
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
    bool ok = parallel(run, clips * (p.num_layers + 1), [&](int64_t begin, int64_t end) {
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
    ok = ok && parallel(run, clips * slices, [&](int64_t begin, int64_t end) {
      Block own(own_size.used);
      if (!own.base) {
        failed = true;
        return;
      }
      Arena own_arena = {own.base, 0};
      auto scratch = engine.scratch(own_arena);
      auto work = engine.work(own_arena);
      for (int64_t i = begin; i < end; i++) {
        const int64_t n = i / slices, slice = i % slices;
        Arena memory = {sum_memory.base + i * sums_size.used, 0};
        __builtin_memset(memory.base, 0, sums_size.used);
        sums[i] = engine.sums(memory);
        for (int64_t job = jobs_of_clip * slice / slices; job < jobs_of_clip * (slice + 1) / slices; job++)
          engine.band_backward(engine.band_at(n, first + n, job / bands, job % bands), scratch, work, sums[i]);
      }
    });
    if (failed) return 1;
    ok = ok && parallel(run, clips * p.num_layers, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++)
        engine.finish_layer(first + i / p.num_layers, int(i % p.num_layers), sums + i / p.num_layers * slices, slices);
    });
    if (!ok) return 2;
  }
  return 0;
}

}  // namespace ISA_NAME
