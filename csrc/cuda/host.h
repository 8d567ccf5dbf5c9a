// The definitions of device.cuh for a C++ compiler: the unchanged kernels run on the CPU, thread by thread.
//
// Every thread of a block is a fiber, and the fibers of a block take turns on one thread of the processor. The lanes of
// a warp wait for one another at each warp-wide instruction, and the last one to arrive computes the results of all
// lanes, with the fragment layouts of the PTX ISA. Shared memory is initialized with NaN and lies between guard bytes.
#pragma once

#include <ucontext.h>
#include <cmath>
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#define __device__
#define __global__
#define __launch_bounds__(...)
#define UNROLL
#define ROLLED
#define SHARED_MEMORY(name) char* name = host::block().memory

struct float2 {
  float x, y;
};
struct float4 {
  float x, y, z, w;
};

namespace fused_inr {
namespace host {

constexpr int LANES = 32, STACK = 256 << 10, GUARD = 4096;

struct Fiber {
  ucontext_t start;
  jmp_buf resume_point;
  bool started, done;
  std::vector<std::pair<char*, const char*>> copies;  // pending ones: target in shared memory, source
};

// Threads wait for one another here: the lanes of a warp at an instruction, or the threads of a block.
struct Barrier {
  int arrived;
  int64_t generation;
  const char* name;
};

struct Warp {
  Barrier barrier;
  const void* in[LANES];
  void* out[LANES];
};

struct Index {
  unsigned x;
};

struct Block {
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  std::vector<char> stacks, shared;
  Barrier barrier;
  jmp_buf scheduler;
  char* memory;
  int64_t progress;  // counts arrivals and finished threads, to detect a deadlock
  int current;
  bool backwards;  // warps and lanes run from the last to the first
  void (*run)(void*);
  void* argument;
};
inline Block& block() {
  static Block instance;
  return instance;
}

inline Index thread_index, block_index, block_size;

[[noreturn]] inline void fail(const char* what) {
  fprintf(stderr, "fused_inr on the host: %s\n", what);
  abort();
}

inline void yield() {
  Block& b = block();
  if (!_setjmp(b.fibers[b.current].resume_point)) _longjmp(b.scheduler, 1);
}

// Waits until `count` threads have arrived; the last one runs `compute`.
template <class Compute>
void arrive_and_wait(Barrier& barrier, int count, const char* name, Compute compute) {
  if (barrier.arrived == 0) barrier.name = name;
  if (strcmp(barrier.name, name)) fail("the threads of a warp or block are at different instructions");
  const int64_t generation = barrier.generation;
  block().progress++;
  if (++barrier.arrived == count) {
    compute();
    barrier.arrived = 0;
    barrier.generation++;
  } else {
    while (barrier.generation == generation) yield();
  }
}

// Calls `compute` once for all lanes of a warp, with functions that return the input and the output of a lane.
template <class In, class Out, class Compute>
void with_warp(const char* name, const In& in, Out& out, Compute compute) {
  Warp& warp = block().warps[thread_index.x / LANES];
  const int lane = thread_index.x % LANES;
  warp.in[lane] = &in, warp.out[lane] = &out;
  arrive_and_wait(warp.barrier, LANES, name, [&] {
    compute([&](int i) -> const In& { return *(const In*)warp.in[i]; },
            [&](int i) -> Out& { return *(Out*)warp.out[i]; });
  });
}

inline void fiber_main() {
  Block& b = block();
  b.run(b.argument);
  b.fibers[b.current].done = true;
  b.progress++;
  _longjmp(b.scheduler, 1);
}

inline void resume(int thread) {
  Block& b = block();
  Fiber& fiber = b.fibers[thread];
  b.current = thread;
  thread_index.x = thread;
  if (_setjmp(b.scheduler)) return;
  if (fiber.started) _longjmp(fiber.resume_point, 1);
  fiber.started = true;
  getcontext(&fiber.start);
  fiber.start.uc_stack.ss_sp = b.stacks.data() + size_t(thread) * STACK;
  fiber.start.uc_stack.ss_size = STACK;
  makecontext(&fiber.start, fiber_main, 0);
  setcontext(&fiber.start);
}

// Runs the threads of a warp until they wait for another warp or are done; returns the number that are not done.
inline int run_warp(int warp) {
  Block& b = block();
  for (int64_t before = -1; before != b.progress;) {
    before = b.progress;
    for (int i = 0; i < LANES; i++) {
      const int thread = LANES * warp + (b.backwards ? LANES - 1 - i : i);
      if (!b.fibers[thread].done) resume(thread);
    }
  }
  int remaining = 0;
  for (int i = 0; i < LANES; i++) remaining += !b.fibers[LANES * warp + i].done;
  return remaining;
}

// Runs one block: each warp until it has to wait, from the first to the last or, if `backwards`, the reverse. If a
// barrier is missing, then in one of the two orders a warp reads memory before it is written.
inline void run_block(int threads, int shared) {
  Block& b = block();
  b.fibers.assign(threads, Fiber());
  b.warps.assign(threads / LANES, Warp());
  b.barrier = Barrier();
  b.stacks.resize(size_t(threads) * STACK);
  b.shared.assign(shared + 2 * GUARD + 128, char(0xff));  // NaN in all types
  const uintptr_t start = (uintptr_t(b.shared.data()) + GUARD + 127) / 128 * 128;
  b.memory = (char*)start;
  for (int remaining = threads, warps = threads / LANES; remaining;) {
    const int64_t before = b.progress;
    remaining = 0;
    for (int i = 0; i < warps; i++) remaining += run_warp(b.backwards ? warps - 1 - i : i);
    if (remaining && b.progress == before) fail("deadlock: all threads wait for one another");
  }
  for (size_t i = 0; i < b.shared.size(); i++)
    if ((b.shared.data() + i < b.memory || b.shared.data() + i >= b.memory + shared) && b.shared[i] != char(0xff))
      fail("a kernel wrote beyond its shared memory");
}

}  // namespace host

#define threadIdx fused_inr::host::thread_index
#define blockIdx fused_inr::host::block_index
#define blockDim fused_inr::host::block_size

inline void __syncthreads() {
  host::Block& b = host::block();
  host::arrive_and_wait(b.barrier, int(b.fibers.size()), "barrier", [] {});
}
inline void __syncwarp() {
  int nothing = 0;
  host::with_warp("syncwarp", nothing, nothing, [](auto, auto) {});
}

inline uint32_t bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return bits;
}
inline float float_of(uint32_t bits) {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}
inline float fma(float a, float b, float c) { return std::fma(a, b, c); }
inline float sine_near_zero(float x) { return std::sin(x); }
inline float cosine_near_zero(float x) { return std::cos(x); }

inline uint32_t round_bf16(float x) {
  const uint32_t bits = bits_of(x);
  return x != x ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
// Subnormal numbers are multiples of 2^-24, to which adding 0.5 rounds; normal ones lose 13 bits of the mantissa.
inline uint32_t round_f16(float x) {
  const uint32_t sign = bits_of(x) >> 16 & 0x8000, bits = bits_of(x) & 0x7fffffff;
  if (x != x) return 0x7fff;
  if (bits < 0x38800000) return sign | (bits_of(float_of(bits) + 0.5f) - 0x3f000000);
  const uint32_t rounded = (bits + 0xfff + (bits >> 13 & 1) - 0x38000000) >> 13;
  return sign | (rounded < 0x7c00 ? rounded : 0x7c00);
}
inline float widen_f16(uint32_t half) {
  const uint32_t magnitude = half & 0x7fff;
  const float sign = half & 0x8000 ? -1.0f : 1.0f;
  if (magnitude >= 0x7c00) return magnitude == 0x7c00 ? sign * INFINITY : NAN;
  if (magnitude < 0x400) return sign * std::ldexp(float(magnitude), -24);
  return sign * float_of((magnitude << 13) + 0x38000000);
}
inline float widen_bf16(uint32_t half) { return float_of(half << 16); }

inline uint32_t pack_bf16(float low, float high) { return round_bf16(low) | round_bf16(high) << 16; }
inline uint32_t pack_f16(float low, float high) { return round_f16(low) | round_f16(high) << 16; }
inline float2 unpack_f16(uint32_t pair) { return {widen_f16(pair & 0xffff), widen_f16(pair >> 16)}; }
inline uint32_t round_tf32(float x) { return (bits_of(x) + 0x1000) & 0xffffe000; }

// The operands of an mma that a lane holds.
struct Operands {
  uint32_t a[4], b[2];
};

// Rounds to float32 toward zero, as tensor cores round their sums according to measurements.
inline float truncate(double x) {
  const float nearest = float(x);
  return std::fabs(double(nearest)) > std::fabs(x) ? std::nextafter(nearest, 0.0f) : nearest;
}

// d[16][8] += a[16][K] b[K][8]. at(k) gives the lane within a row of a, or column of b, and the index within that lane.
template <int K, class Element, class At>
void mma_of(const char* name, float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, At at, Element element) {
  struct Accumulators {
    float* d;
  };
  const Operands in = {{a[0], a[1], a[2], a[3]}, {b0, b1}};
  Accumulators out = {d};
  host::with_warp(name, in, out, [&](auto input_of, auto output_of) {
    for (int row = 0; row < 16; row++)
      for (int column = 0; column < 8; column++) {
        float& sum = output_of(row % 8 * 4 + column / 2).d[row / 8 * 2 + column % 2];
        double exact = sum;
        for (int k = 0; k < K; k++) {
          const std::pair<int, int> place = at(k);
          const int half = place.second / 2, part = place.second % 2;
          exact += double(element(input_of(row % 8 * 4 + place.first).a[row / 8 + 2 * half], part)) *
                   element(input_of(column * 4 + place.first).b[half], part);
        }
        sum = truncate(exact);
      }
  });
}

// 16-bit types: lane t of a row holds k = 2 t and 2 t + 1, and in its second register these plus 8.
inline std::pair<int, int> place_16(int k) { return {k % 8 / 2, k / 8 * 2 + k % 2}; }
inline void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  mma_of<16>("mma_bf16", d, a, b0, b1, place_16,
             [](uint32_t pair, int part) { return widen_bf16(part ? pair >> 16 : pair & 0xffff); });
}
inline void mma_f16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  mma_of<16>("mma_f16", d, a, b0, b1, place_16,
             [](uint32_t pair, int part) { return widen_f16(part ? pair >> 16 : pair & 0xffff); });
}
// tf32: lane t of a row holds k = t, and in its second register k = t + 4.
inline void mma_tf32(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  mma_of<8>("mma_tf32", d, a, b0, b1, [](int k) { return std::pair<int, int>{k % 4, k / 4 * 2}; },
            [](uint32_t bits, int) { return float_of(bits & 0xffffe000); });
}

struct Rows {
  uint32_t* r;
};
inline void load_matrices(const char* name, uint32_t (&r)[4], const char* row, bool transposed) {
  if (row < host::block().memory || uintptr_t(row) % 16)
    host::fail("ldmatrix needs addresses in shared memory, aligned to 16 bytes");
  Rows out = {r};
  host::with_warp(name, row, out, [&](auto address_of, auto output_of) {
    for (int lane = 0; lane < 32; lane++)
      for (int matrix = 0; matrix < 4; matrix++) {
        uint16_t pair[2];
        for (int i = 0; i < 2; i++) {
          const int along = lane % 4 * 2 + i, across = lane / 4;
          const int from = transposed ? along : across, column = transposed ? across : along;
          memcpy(&pair[i], address_of(8 * matrix + from) + 2 * column, 2);
        }
        output_of(lane).r[matrix] = pair[0] | uint32_t(pair[1]) << 16;
      }
  });
}
inline void ldmatrix(uint32_t (&r)[4], const char* row) { load_matrices("ldmatrix", r, row, false); }
inline void ldmatrix_transposed(uint32_t (&r)[4], const char* row) { load_matrices("ldmatrix.trans", r, row, true); }

inline void copy_16(char* shared, const char* global) {
  host::block().fibers[host::thread_index.x].copies.push_back({shared, global});
}
inline void copies_wait() {
  auto& copies = host::block().fibers[host::thread_index.x].copies;
  for (const auto& copy : copies) memcpy(copy.first, copy.second, 16);
  copies.clear();
}

inline float add_lanes_of_row(float x) {
  float sum = 0;
  host::with_warp("shuffle", x, sum, [](auto input_of, auto output_of) {
    for (int lane = 0; lane < 32; lane++)
      output_of(lane) = (input_of(lane) + input_of(lane ^ 1)) + (input_of(lane ^ 2) + input_of(lane ^ 3));
  });
  return sum;
}

template <class... Parameters>
int32_t launch(void (*kernel)(Parameters...), int64_t blocks, int threads, int shared, void*, Parameters... arguments) {
  auto body = [&] { kernel(arguments...); };
  host::Block& b = host::block();
  b.argument = &body;
  b.run = [](void* argument) { (*(decltype(body)*)argument)(); };
  host::block_size.x = threads;
  for (int64_t i = 0; i < blocks; i++) {
    host::block_index.x = unsigned(i);
    host::run_block(threads, shared);
  }
  return 0;
}

template <class... Parameters>
int32_t check(void (*)(Parameters...)) {
  return 0;
}

inline int32_t use_device(int32_t) { return 0; }
inline const char* error_text(int32_t) { return "an error of the host"; }

}  // namespace fused_inr
