// The forward pass of a program: the engine over all clips, frames and bands.
#pragma once

#include "abi.h"
#include "engine.h"
#include "support.h"

namespace ISA_NAME {

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
      Arena own_arena = {own.base, 0};
      const auto scratch = engine.scratch(own_arena);
      for (int64_t i = begin; i < end; i++) {
        const int64_t n = i / (p.times * bands);
        const Band band = engine.band_at(n, first + n, i / bands % p.times, i % bands);
        Kept<T> kept;
        if (p.kept) kept = engine.stored(band);
        engine.render_band(band, scratch, p.kept ? &kept : nullptr);
      }
    });
    if (!done) return 2;
  }
  return failed ? 1 : 0;
}

template <class T>
static int64_t kept_bytes(const FusedInrProgram& p) {
  Engine<T> engine(p);
  Kept<T> kept;
  return p.clips * p.times * engine.bands() * engine.kept_layout((T*)p.kept, kept) * int64_t(sizeof(T));
}

template <class T>
static int64_t workspace(const FusedInrProgram& p, int64_t threads) {
  Engine<T> engine(p);
  Arena shared = {nullptr, 0}, own = {nullptr, 0};
  engine.layout(shared, engine.group());
  engine.scratch(own);
  return shared.used + 64 + threads * (own.used + 64);
}

}  // namespace ISA_NAME
