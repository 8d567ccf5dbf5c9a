// Calls the library, built for the host, on buffers of exactly the required size, so that AddressSanitizer detects
// accesses beyond them. Prints the sums of the results and fails if one is not finite: buffers start as NaN.
#include "host.cpp"

namespace {

struct Case {
  int samples, points, blocks, warps, width, type;
  bool shared, final_sine, with_coords;
  std::vector<int> sizes;
};

uint32_t seed = 1;
float number() {  // -1 .. 1
  seed = seed * 1664525u + 1013904223u;
  return float(seed >> 8) / (1 << 23) - 1;
}

struct Buffers {
  std::vector<void*> all;

  ~Buffers() {
    for (void* one : all) free(one);
  }
  char* bytes(size_t size) {
    all.push_back(malloc(size));
    memset(all.back(), 0xff, size);
    return (char*)all.back();
  }
  float* floats(size_t count) { return (float*)bytes(4 * count); }
  float* numbers(size_t count, float scale) {
    float* to = floats(count);
    for (size_t i = 0; i < count; i++) to[i] = scale * number();
    return to;
  }
};

bool finite(const char* name, const float* x, size_t count) {
  double sum = 0;
  for (size_t i = 0; i < count; i++) sum += x[i];
  printf(" %s %.9g", name, sum);
  return std::isfinite(sum);
}

bool run(const Case& c) {
  Buffers memory;
  FusedInrSiren s = {};
  const int layers = int(c.sizes.size()) - 1, samples = c.shared ? 1 : c.samples;
  for (int i = 0; i < layers; i++) {
    const int inputs = c.sizes[i], outputs = c.sizes[i + 1];
    FusedInrSirenLayer& l = s.layers[i];
    l.weight = memory.numbers(size_t(samples) * outputs * inputs, 0.3f), l.bias = memory.numbers(size_t(samples) * outputs, 1);
    l.weight_sample = c.shared ? 0 : outputs * inputs, l.weight_row = inputs, l.weight_column = 1;
    l.bias_sample = c.shared ? 0 : outputs, l.bias_row = 1;
    l.weight_gradient = memory.floats(size_t(c.samples) * outputs * inputs);
    l.bias_gradient = memory.floats(size_t(c.samples) * outputs);
    l.inputs = inputs, l.outputs = outputs, l.omega = 2;
    l.sine = i + 1 < layers || c.final_sine;
  }
  s.num_layers = layers, s.width = c.width, s.type = c.type, s.warps = c.warps;
  s.samples = c.samples, s.packed_samples = samples, s.points = c.points, s.blocks = c.blocks;
  const size_t coords = size_t(c.samples) * c.points * c.sizes[0], values = size_t(c.samples) * c.points * c.sizes[layers];
  s.coords = memory.numbers(coords, 1), s.coords_sample = int64_t(c.points) * c.sizes[0];
  s.out = memory.floats(values);
  s.gradient = memory.numbers(values, 1);
  s.coords_gradient = c.with_coords ? memory.floats(coords) : nullptr;
  s.packed = memory.bytes(samples * fused_inr_siren_packed(&s));
  if (fused_inr_siren_forward(&s, nullptr)) return false;
  bool fine = finite("values", s.out, values);
  memset(s.packed, 0xff, samples * fused_inr_siren_packed(&s));
  s.partials = memory.floats(size_t(c.samples) * c.blocks * fused_inr_siren_partials(&s));
  if (fused_inr_siren_backward(&s, nullptr)) return false;
  if (c.with_coords) fine &= finite("coords", s.coords_gradient, coords);
  for (int i = 0; i < layers; i++) {
    const FusedInrSirenLayer& l = s.layers[i];
    fine &= finite("weight", l.weight_gradient, size_t(c.samples) * l.outputs * l.inputs);
    fine &= finite("bias", l.bias_gradient, size_t(c.samples) * l.outputs);
  }
  printf("\n");
  return fine;
}

}  // namespace

int main() {
  const Case cases[] = {
      {2, 1, 1, 1, 16, TYPE_BFLOAT16, false, false, true, {2, 16, 3}},
      {1, 100, 2, 2, 16, TYPE_FLOAT16, false, true, true, {1, 5, 7, 1}},
      {3, 33, 1, 2, 32, TYPE_FLOAT32, true, false, true, {16, 32, 20, 16}},
      {2, 63, 3, 1, 64, TYPE_BFLOAT16, false, false, false, {3, 64, 64, 2}},
      {1, 65, 1, 4, 64, TYPE_FLOAT32, false, true, true, {9, 33, 64, 4}},
      {1, 17, 1, 1, 128, TYPE_FLOAT16, true, false, true, {5, 128, 100, 9}},
  };
  for (int backwards = 0; backwards < 2; backwards++) {
    fused_inr_host_run_threads_backwards(backwards);
    seed = 1;
    for (const Case& c : cases)
      if (!run(c)) return 1;
  }
}
