// Runs an engine over all clips, frames and bands, and a chain of layers over all points.

// Memory that is freed with the scope, aligned to cache lines; `base` is null where there is none to be had.
struct Block {
  char *memory, *base;
  explicit Block(int64_t bytes) : memory((char*)std_malloc(bytes + 64)), base(nullptr) {
    if (memory) base = (char*)(((uintptr_t)memory + 63) / 64 * 64);
  }
  ~Block() { std_free(memory); }
};

template <class Body>
static bool parallel(FusedInrParallelFor run, int64_t n, const Body& body) {
  const auto call = [](int64_t begin, int64_t end, void* context) { (*(const Body*)context)(begin, end); };
  return run(0, n, 1, call, (void*)&body) == 0;
}

template <class T>
static int32_t render_program(const FusedInrProgram& p, FusedInrParallelFor run) {
  Engine<T> engine(p);
  const int64_t group = engine.group(), bands = engine.bands();
  Arena size = {nullptr, 0};
  engine.layout(size, group);
  Block shared(size.used);
  if (!shared.base) return 1;
  Arena threads = {nullptr, 0};
  engine.scratch(threads);
  volatile bool failed = false;
  for (int64_t first = 0; first < p.clips; first += group) {
    const int64_t clips = std_min(group, p.clips - first);
    Arena arena = {shared.base, 0};
    engine.layout(arena, clips);
    const int64_t jobs = p.num_layers + 1;
    const bool packed = parallel(run, clips * jobs, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) {
        if (i % jobs == p.num_layers)
          engine.fill_columns(i / jobs, first + i / jobs);
        else
          engine.pack_layer(i / jobs, first + i / jobs, int(i % jobs));
      }
    });
    const bool done = packed && parallel(run, clips * p.times * bands, [&](int64_t begin, int64_t end) {
      Block own(threads.used);
      if (!own.base) {
        failed = true;
        return;
      }
      Arena mine = {own.base, 0};
      const auto scratch = engine.scratch(mine);
      for (int64_t i = begin; i < end; i++) {
        const int64_t n = i / (p.times * bands);
        engine.band(n, first + n, i / bands % p.times, i % bands, scratch);
      }
    });
    if (!done) return 2;
  }
  return failed ? 1 : 0;
}

template <class T>
static int64_t workspace(const FusedInrProgram& p, int64_t threads) {
  Engine<T> engine(p);
  Arena shared = {nullptr, 0}, own = {nullptr, 0};
  engine.layout(shared, engine.group());
  engine.scratch(own);
  return shared.used + 64 + threads * (own.used + 64);
}

template <class T>
static int32_t points_program(const FusedInrPoints& p, FusedInrParallelFor run) {
  int64_t widest = W, packed_size_all = 0, bias_size = 0;
  for (int i = 0; i < p.num_layers; i++) {
    const FusedInrLayer& l = p.layers[i];
    widest = std_max(widest, std_max(round_up(l.in, W), round_up(l.out, W)));
    packed_size_all += round_up(packed_size(l.out, l.in), 64);
    bias_size += round_up(l.out, W);
  }
  const int64_t tiles = (p.points + TILE - 1) / TILE, inputs = p.layers[0].in;
  const int64_t outputs = p.layers[p.num_layers - 1].out;
  const int64_t group = std_max<int64_t>(1, std_min(p.clips, GROUP_BYTES / std_max<int64_t>(1, packed_size_all * sizeof(T))));
  Block shared(group * packed_size_all * sizeof(T));
  if (!shared.base) return 1;
  T* weights = (T*)shared.base;
  volatile bool failed = false;
  for (int64_t first = 0; first < p.clips; first += group) {
    const int64_t clips = std_min(group, p.clips - first);
    const bool packed = parallel(run, clips * p.num_layers, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) {
        const int64_t n = i / p.num_layers;
        T* to = weights + n * packed_size_all;
        for (int j = 0; j < i % p.num_layers; j++)
          to += round_up(packed_size(p.layers[j].out, p.layers[j].in), 64);
        const FusedInrLayer& l = p.layers[i % p.num_layers];
        pack(to, l.weight + (first + n) * l.weight_clip, l.weight_row, l.out, l.in);
      }
    });
    const bool done = packed && parallel(run, clips * tiles, [&](int64_t begin, int64_t end) {
      Block own(TILE * (2 * widest * sizeof(T) + NB * sizeof(float)) + bias_size * sizeof(float) + 256);
      if (!own.base) {
        failed = true;
        return;
      }
      Arena arena = {own.base, 0};
      T *a = arena.take<T>(TILE * widest), *b = arena.take<T>(TILE * widest);
      float *c = arena.take<float>(TILE * NB), *biases = arena.take<float>(bias_size);
      for (int64_t i = begin; i < end; i++) {
        const int64_t n = i / tiles, clip = first + n, at = i % tiles * TILE;
        const int64_t m = std_min<int64_t>(TILE, p.points - at);
        const float* coords = p.coords + clip * p.coords_clip + at * inputs;
        for (int64_t r = 0; r < m; r++)
          for (int64_t k = 0; k < round_up(inputs, 2); k++)
            a[r * widest + k] = element(k < inputs ? coords[r * inputs + k] : 0.0f, T());
        const T* w = weights + n * packed_size_all;
        T *in = a, *to = b;
        for (int l = 0; l < p.num_layers; l++) {
          const FusedInrLayer& layer = p.layers[l];
          const float* bias = layer.bias + clip * layer.bias_clip;
          const bool last = l + 1 == p.num_layers;
          for (int64_t j = 0; j < round_up(layer.out, W); j++) biases[j] = j < layer.out ? bias[j] : 0.0f;
          float* out = p.out + (clip * p.points + at) * outputs;
          product(in, widest, m, w, layer.out, layer.in, c, [&](const float* block, int64_t n0, int64_t lanes) {
            if (!last) return finish_block(block, n0, lanes, m, layer, biases, nullptr, nullptr, 0, to, widest);
            // Results stay float32: they are not the input of a product any more.
            for (int64_t r = 0; r < m; r++)
              for (int64_t j = 0; j < lanes; j += W) {
                const vf v = activate(load(block + r * lanes + j) + load(biases + n0 + j), layer);
                for (int64_t e = 0; e < W && n0 + j + e < outputs; e++) out[r * outputs + n0 + j + e] = v[e];
              }
          });
          w += round_up(packed_size(layer.out, layer.in), 64);
          T* swap = in;
          in = to, to = swap;
        }
      }
    });
    if (!done) return 2;
  }
  return failed ? 1 : 0;
}

static void sincos_array(const float* x, float* sine, float* cosine, int64_t n) {
  for (int64_t i = 0; i < n; i += W) {
    vf v = {};
    const int64_t some = std_min<int64_t>(W, n - i);
    for (int64_t j = 0; j < some; j++) v[j] = x[i + j];
    const vf s = sin_of(v), c = cos_of(v);
    for (int64_t j = 0; j < some; j++) sine[i + j] = s[j], cosine[i + j] = c[j];
  }
}
