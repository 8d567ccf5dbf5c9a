// Calls every function of the CPU library on small tensors, for builds with a sanitizer; `.ci/sanitize.py` builds it.
//
// Tensors are heap blocks of exactly their size, so that AddressSanitizer sees a read beyond the end. Threads come from
// std::thread instead of PyTorch's OpenMP runtime: ThreadSanitizer cannot see the synchronization of a runtime that is
// not compiled with it, and would report every barrier of libgomp as a race. The library takes its parallel loop as an
// argument, so no other part of it changes.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <thread>
#include <vector>

#include "abi.h"

static int failures = 0, calls = 0;

static int32_t in_threads(int64_t begin, int64_t end, int64_t, FusedInrRange body, void* context) {
  constexpr int64_t THREADS = 3;
  std::vector<std::thread> threads;
  for (int64_t i = 0; i < THREADS; i++) {
    const int64_t from = begin + (end - begin) * i / THREADS, to = begin + (end - begin) * (i + 1) / THREADS;
    if (from < to) threads.emplace_back(body, from, to, context);
  }
  for (std::thread& thread : threads) thread.join();
  return 0;
}

// Memory of exactly `count` elements, filled with numbers in -1 ... 1 or, for 16-bit types, with bits of such numbers.
template <class T>
class Tensor {
 public:
  explicit Tensor(int64_t count) : count_(count), data_(new T[count]) {
    for (int64_t i = 0; i < count; i++) fill(data_[i]);
  }
  operator T*() const { return data_.get(); }
  void expect_finite(const char* name) const {
    for (int64_t i = 0; i < count_; i++)
      if (!std::isfinite(float(data_[i]))) {
        std::printf("%s: element %lld is not finite\n", name, (long long)i);
        failures++;
        return;
      }
  }

 private:
  static uint32_t random() {
    static uint32_t state = 1;
    return (state = state * 1664525 + 1013904223) >> 8;
  }
  static void fill(float& x) { x = float(random() % 2001) / 1000 - 1; }
  static void fill(uint16_t& x) { x = uint16_t(random() % 2 << 15 | 0x3800 | random() % 0x400); }
  static void fill(int64_t& x) { x = int64_t(random() % 9) - 4; }

  int64_t count_;
  std::unique_ptr<T[]> data_;
};

static void expect(const char* name, int32_t status) {
  calls++;
  if (!status) return;
  std::printf("%s: status %d\n", name, status);
  failures++;
}

// The weights of a chain of layers; each takes the outputs of the one before.
struct Layers {
  std::vector<FusedInrLayer> layers;
  std::vector<std::unique_ptr<Tensor<float>>> tensors, gradients;

  float* tensor(int64_t count) {
    tensors.push_back(std::make_unique<Tensor<float>>(count));
    return *tensors.back();
  }
  void add(int64_t clips, int64_t times, int32_t inputs, int32_t outputs, int32_t activation, int32_t channels,
           bool shared) {
    FusedInrLayer l = {};
    l.weight = tensor((shared ? 1 : clips) * outputs * inputs);
    l.weight_clip = shared ? 0 : int64_t(outputs) * inputs, l.weight_row = inputs;
    l.bias = tensor(clips * times * outputs);
    l.bias_clip = times * outputs, l.bias_time = times > 1 ? outputs : 0;
    l.in = inputs, l.out = outputs, l.activation = activation;
    l.slope = 0.2f, l.omega = 3.0f, l.gain = 1.0f;
    if (channels) {
      l.rgb_weight = tensor(clips * channels * outputs), l.rgb_clip = int64_t(channels) * outputs;
      l.rgb_bias = tensor(channels);
    }
    layers.push_back(l);
  }
};

static void points(int32_t isa, bool bfloat16, int32_t inputs, int32_t width, int64_t count, float omega, int32_t first,
                   int32_t last, int32_t order = 0, bool hessian = false) {
  const int64_t clips = 3, outputs = 3;
  const int32_t skips[] = {0, 1, 1};
  Layers net;
  net.add(clips, 1, inputs, width, first, 0, false);
  net.add(clips, 1, width + inputs, width, last, 0, true);
  net.add(clips, 1, width + inputs, outputs, ACT_LINEAR, 0, false);
  net.layers[0].omega = omega;
  const int64_t values = clips * count * outputs;
  Tensor<float> coords(clips * count * inputs), out(values), jacobian(values * inputs), laplacian(values),
      matrix(values * inputs * inputs);
  FusedInrPoints p = {};
  p.layers = net.layers.data(), p.skips = skips, p.num_layers = 3, p.clips = clips, p.points = count;
  p.coords = coords, p.coords_clip = count * inputs, p.bfloat16 = bfloat16, p.out = out;
  p.order = order, p.with_hessian = hessian, p.jacobian = jacobian, p.laplacian = laplacian, p.hessian = matrix;
  expect("points", fused_inr_points(&p, in_threads, isa));
  for (const Tensor<float>* result : {&out, &jacobian, &laplacian, &matrix}) result->expect_finite("points");
  std::vector<std::unique_ptr<Tensor<float>>> gradients;
  std::vector<float*> weights, biases;
  for (const FusedInrLayer& l : net.layers) {
    gradients.push_back(std::make_unique<Tensor<float>>(clips * l.out * l.in));
    weights.push_back(*gradients.back());
    gradients.push_back(std::make_unique<Tensor<float>>(clips * l.out));
    biases.push_back(*gradients.back());
  }
  Tensor<float> of_coords(clips * count * inputs);
  const FusedInrPointsGradients g = {weights.data(), biases.data(), of_coords, out, jacobian, laplacian, matrix};
  expect("points_backward", fused_inr_points_backward(&p, &g, in_threads, isa));
  of_coords.expect_finite("points_backward");
}

static void render(int32_t isa, bool bfloat16, int32_t activation, bool rgb, int32_t features, bool cosines, bool keep,
                   float phase) {
  const int64_t clips = 2, times = 3, height = 5, width = 7;
  const int32_t hidden = 13, channels = rgb ? 3 : hidden, scales[] = {1, 2, 4};
  Layers net;
  std::vector<FusedInrStage> stages;
  for (int s = 0; s < 3; s++) {
    const int32_t d = s == 1 ? 0 : features, inner = d * (cosines ? 2 : 1);
    FusedInrStage stage = {};
    stage.scale = scales[s], stage.layers = 2, stage.features = d, stage.cosines = cosines;
    if (s) stage.parent = net.tensor(clips * hidden * hidden), stage.parent_clip = hidden * hidden;
    stage.parent_row = hidden;
    if (d) {
      stage.frequency = net.tensor(clips * d * 2), stage.frequency_clip = 2 * d;
      float* phases = net.tensor(clips * times * d);
      for (int64_t i = 0; i < clips * times * d; i++) phases[i] *= phase;
      stage.phase = phases, stage.phase_clip = times * d, stage.phase_time = d;
    }
    net.add(clips, times, inner, hidden, activation, 0, false);
    net.add(clips, times, hidden, hidden, activation, rgb ? channels : 0, s == 1);
    stages.push_back(stage);
  }
  FusedInrProgram p = {};
  p.stages = stages.data(), p.layers = net.layers.data(), p.num_stages = 3, p.num_layers = 6;
  p.clips = clips, p.times = times, p.height = height, p.width = width;
  p.x0 = -1, p.x1 = 1, p.y0 = -1, p.y1 = 1, p.channels = channels, p.has_rgb = rgb, p.bfloat16 = bfloat16;
  Tensor<float> out(clips * times * channels * height * width * 16),
      upstream(clips * times * channels * height * width * 16);
  p.out = out;
  std::unique_ptr<char[]> kept(keep ? new char[fused_inr_kept_bytes(&p, isa)] : nullptr);
  p.kept = kept.get();
  if (fused_inr_render_workspace(&p, 3, isa) <= 0) failures++;
  expect("render", fused_inr_render(&p, in_threads, isa));
  out.expect_finite("render");
  if (activation == ACT_SINE) return;
  std::vector<std::unique_ptr<Tensor<float>>> gradients;
  const auto gradient = [&](int64_t count) -> float* {
    gradients.push_back(std::make_unique<Tensor<float>>(count));
    return *gradients.back();
  };
  std::vector<FusedInrLayerGrad> of_layers;
  std::vector<FusedInrStageGrad> of_stages;
  for (const FusedInrLayer& l : net.layers) {
    FusedInrLayerGrad g = {
        gradient(clips * l.out * l.in), int64_t(l.out) * l.in, l.in, gradient(clips * times * l.out), nullptr, nullptr};
    if (l.rgb_weight) g.rgb_weight = gradient(clips * channels * l.out), g.rgb_bias = gradient(clips * channels);
    of_layers.push_back(g);
  }
  for (const FusedInrStage& s : stages) {
    FusedInrStageGrad g = {};
    if (s.parent) g.parent = gradient(clips * hidden * hidden), g.parent_clip = hidden * hidden, g.parent_row = hidden;
    if (s.features) g.frequency = gradient(clips * s.features * 2), g.phase = gradient(clips * times * s.features);
    of_stages.push_back(g);
  }
  const FusedInrGradients g = {of_layers.data(), of_stages.data(), upstream};
  expect("backward", fused_inr_backward(&p, &g, in_threads, isa));
  for (const auto& tensor : gradients) tensor->expect_finite("backward");
}

template <class T>
static void bias_act(int32_t isa, int32_t type, int64_t inner) {
  const int64_t outer = 3, channels = 17, count = outer * channels * inner;
  Tensor<T> x(count), out(count), residual(count), gradient(count);
  Tensor<float> bias(channels), shift(channels), sums(channels);
  for (int32_t act = POINTWISE_LINEAR; act <= POINTWISE_SWISH; act++) {
    FusedInrBiasAct c = {};
    c.outer = outer, c.channels = channels, c.inner = inner, c.type = type, c.act = act;
    c.alpha = 0.2f, c.gain = 1.5f, c.clamp = act % 2 ? INFINITY : 1.0f;
    c.x = x, c.bias = bias, c.residual = residual, c.out = out;
    expect("bias_act", fused_inr_bias_act(&c, in_threads, isa));
    c.residual = nullptr, c.gradient = gradient, c.shift = shift, c.sums = sums, c.from_output = act <= POINTWISE_LRELU;
    expect("bias_act_slope", fused_inr_bias_act_slope(&c, in_threads, isa));
    sums.expect_finite("bias_act_slope");
  }
}

template <class T>
static void upfirdn(int32_t isa, int32_t type, bool last, int32_t up, int32_t down, int32_t taps, int64_t pad) {
  const int64_t batch = 2, channels = 5, height = 6, width = 9;
  FusedInrUpfirdn c = {};
  c.batch = batch, c.channels = channels, c.height = height, c.width = width;
  c.out_height = (height * up + 2 * pad - taps) / down + 1, c.out_width = (width * up + 2 * pad - taps) / down + 1;
  c.channels_last = last, c.type = type, c.up_x = c.up_y = up, c.down_x = c.down_y = down, c.pad_x = c.pad_y = pad;
  c.taps_x = c.taps_y = taps;
  Tensor<float> filter(taps * taps), ones(taps * taps);
  for (int i = 0; i < taps * taps; i++) ones[i] = 1.0f;
  Tensor<T> x(batch * channels * height * width), out(batch * channels * c.out_height * c.out_width);
  c.x = x, c.out = out;
  for (const float* each : {(const float*)filter, (const float*)ones}) {  // a general filter, and a separable one
    c.taps = each;
    expect("upfirdn2d", fused_inr_upfirdn2d(&c, in_threads, isa));
  }
}

template <class T>
static void images(int32_t isa, int32_t type) {
  for (int64_t inner : {1, 3, 16, 37}) bias_act<T>(isa, type, inner);
  for (int last = 0; last < 2; last++) {
    upfirdn<T>(isa, type, last, 1, 1, 4, 2);
    upfirdn<T>(isa, type, last, 2, 1, 4, 2);
    upfirdn<T>(isa, type, last, 1, 2, 3, 1);
    upfirdn<T>(isa, type, last, 3, 2, 5, -1);
  }
  FusedInrStddev s = {};
  s.batch = 4, s.channels = 6, s.pixels = 11, s.group = 2, s.planes = 3, s.type = type;
  Tensor<T> x(4 * 6 * 11), out(4 * 9 * 11), gradient(4 * 9 * 11), dx(4 * 6 * 11);
  s.x = x, s.out = out;
  expect("minibatch_stddev", fused_inr_minibatch_stddev(&s, in_threads, isa));
  s.gradient = gradient, s.out = dx;
  expect("minibatch_stddev backward", fused_inr_minibatch_stddev(&s, in_threads, isa));

  Tensor<T> clips(3 * 2 * 3 * 7 * 10), augmented(3 * 2 * 3 * 7 * 10);
  Tensor<float> brightness(3), saturation(3), contrast(3);
  Tensor<int64_t> offset(6), hole(6);
  for (int mode = 0; mode < 4; mode++) {
    FusedInrAugment a = {3,          2,        3,      7,    10, type, mode % 2, mode / 2, brightness,
                         saturation, contrast, offset, hole, 3,  4,    clips,    augmented};
    expect("augment", fused_inr_augment(&a, in_threads, isa));
  }
}

template <class T>
static void convolution_weight(int32_t isa, int32_t type, int32_t stride) {
  const int64_t batch = 2, inputs = 19, outputs = 7, size = 9, out = (size + 2 - 3) / stride + 1;
  Tensor<T> x(batch * size * size * inputs), gradient(batch * out * out * outputs), weight(outputs * 9 * inputs);
  FusedInrConvolutionWeight c = {batch, inputs, outputs, size, size, out, out,      3,
                                 3,     stride, 1,       type, 3,    x,   gradient, weight};
  expect("convolution_weight", fused_inr_convolution_weight(&c, in_threads, isa));
}

int main() {
  const int32_t isa = fused_inr_best_isa();
  for (int64_t n : {1, 15, 16, 33}) {
    Tensor<float> x(n), sine(n), cosine(n);
    for (int64_t i = 0; i < n; i++) x[i] *= i % 3 ? 10.0f : 1e30f;
    fused_inr_sincos(x, sine, cosine, n, isa);
    sine.expect_finite("sincos");
  }
  for (int bfloat16 = 0; bfloat16 < 2; bfloat16++) {
    points(isa, bfloat16, 2, 16, 130, 30.0f, ACT_SINE, ACT_SINE);
    points(isa, bfloat16, 3, 37, 5, 1e20f, ACT_SINE, ACT_GAUSS);
    for (int32_t act = ACT_LINEAR; act <= ACT_FINER; act++)
      for (int32_t order = 0; order < 3; order++) points(isa, bfloat16, 3, 15, 33, 2.0f, act, ACT_FINER - act, order);
    points(isa, bfloat16, 2, 37, 65, 1e5f, ACT_SINE, ACT_SILU, 2, true);
    points(isa, bfloat16, 17, 9, 2, 1.0f, ACT_GELU, ACT_TANH, 2, true);
    render(isa, bfloat16, ACT_LRELU, true, 9, true, false, 1.0f);
    render(isa, bfloat16, ACT_RELU, false, 4, false, true, 1e30f);
    render(isa, bfloat16, ACT_SINE, true, 5, true, false, 1.0f);
  }
  images<float>(isa, TYPE_FLOAT32);
  images<uint16_t>(isa, TYPE_BFLOAT16);
  images<uint16_t>(isa, TYPE_FLOAT16);
  for (int32_t stride : {1, 2}) {
    convolution_weight<float>(isa, TYPE_FLOAT32, stride);
    convolution_weight<uint16_t>(isa, TYPE_BFLOAT16, stride);
  }
  std::printf("%d calls, instruction set %d, %d failures\n", calls, isa, failures);
  return failures ? 1 : 0;
}
