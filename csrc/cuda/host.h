// What device.cuh defines, for a C++ compiler: the kernels run on the CPU as they are, index by index.
//
// Every thread of a block is a fiber, and the fibers of a block take turns on one thread of the processor. Those of a
// warp meet at each of its instructions, and the last one to come computes the result of all from the layout of
// fragments that the PTX ISA gives. Shared memory begins as NaN and lies between guards.
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
  jmp_buf at;
  bool started, done;
  std::vector<std::pair<char*, const char*>> copies;  // that have not arrived
};

// Where threads wait for one another: a warp's instruction, or a block's barrier.
struct Meeting {
  int arrived;
  int64_t turn;
  const char* name;
};

struct Warp {
  Meeting meeting;
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
  Meeting barrier;
  jmp_buf scheduler;
  char* memory;
  int64_t progress;  // arrivals and ends of threads, to tell waiting from standing still
  int current, order;
  void (*run)(void*);
  void* argument;
};
inline Block& block() {
  static Block one;
  return one;
}

inline Index thread_index, block_index, block_size;

[[noreturn]] inline void fail(const char* what) {
  fprintf(stderr, "fused_inr on the host: %s\n", what);
  abort();
}

inline void yield() {
  Block& b = block();
  if (!_setjmp(b.fibers[b.current].at)) _longjmp(b.scheduler, 1);
}

// Waits until `count` threads have come; the last one runs `compute`.
template <class Compute>
void meet(Meeting& meeting, int count, const char* name, Compute compute) {
  if (meeting.arrived == 0) meeting.name = name;
  if (strcmp(meeting.name, name)) fail("threads that should run one instruction are at different ones");
  const int64_t turn = meeting.turn;
  block().progress++;
  if (++meeting.arrived == count) {
    compute();
    meeting.arrived = 0;
    meeting.turn++;
  } else {
    while (meeting.turn == turn) yield();
  }
}

template <class In, class Out, class Compute>
void with_warp(const char* name, const In& in, Out& out, Compute compute) {
  Warp& warp = block().warps[thread_index.x / LANES];
  const int lane = thread_index.x % LANES;
  warp.in[lane] = &in, warp.out[lane] = &out;
  meet(warp.meeting, LANES, name, [&] {
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
  if (fiber.started) _longjmp(fiber.at, 1);
  fiber.started = true;
  getcontext(&fiber.start);
  fiber.start.uc_stack.ss_sp = b.stacks.data() + size_t(thread) * STACK;
  fiber.start.uc_stack.ss_size = STACK;
  makecontext(&fiber.start, fiber_main, 0);
  setcontext(&fiber.start);
}

// Runs the threads of a warp until they wait for another warp, or have ended; returns how many have not.
inline int run_warp(int warp) {
  Block& b = block();
  for (int64_t before = -1; before != b.progress;) {
    before = b.progress;
    for (int i = 0; i < LANES; i++) {
      const int thread = LANES * warp + (b.order ? LANES - 1 - i : i);
      if (!b.fibers[thread].done) resume(thread);
    }
  }
  int left = 0;
  for (int i = 0; i < LANES; i++) left += !b.fibers[LANES * warp + i].done;
  return left;
}

// One block: each warp as far as it comes, from the first to the last or the other way round (order 1). Where a
// barrier is missing, the first of them reads what is not there yet, in one of the two orders.
inline void run_block(int threads, int shared) {
  Block& b = block();
  b.fibers.assign(threads, Fiber());
  b.warps.assign(threads / LANES, Warp());
  b.barrier = Meeting();
  b.stacks.resize(size_t(threads) * STACK);
  b.shared.assign(shared + 2 * GUARD + 128, char(0xff));  // NaN in all types
  const uintptr_t start = (uintptr_t(b.shared.data()) + GUARD + 127) / 128 * 128;
  b.memory = (char*)start;
  for (int left = threads, warps = threads / LANES; left;) {
    const int64_t before = b.progress;
    left = 0;
    for (int i = 0; i < warps; i++) left += run_warp(b.order ? warps - 1 - i : i);
    if (left && b.progress == before) fail("all threads wait for one another");
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
  host::meet(b.barrier, int(b.fibers.size()), "barrier", [] {});
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
// Numbers below the normal ones are multiples of 2^-24, which adding 0.5 rounds to; others lose 13 bits of the
// mantissa.
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

// Of a mma: what a lane gives and gets.
struct Operands {
  uint32_t a[4], b[2];
};

// To float32 towards zero, as the tensor cores were found to round their sums.
inline float truncate(double x) {
  const float nearest = float(x);
  return std::fabs(double(nearest)) > std::fabs(x) ? std::nextafter(nearest, 0.0f) : nearest;
}

// d[16][8] += a[16][K] b[K][8]. a_at and b_at give the lane and the number within it of an element.
template <int K, class Element, class At>
void mma_of(const char* name, float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, At at, Element element) {
  struct Sums {
    float* d;
  };
  const Operands in = {{a[0], a[1], a[2], a[3]}, {b0, b1}};
  Sums out = {d};
  host::with_warp(name, in, out, [&](auto given, auto wanted) {
    for (int row = 0; row < 16; row++)
      for (int column = 0; column < 8; column++) {
        float& sum = wanted(row % 8 * 4 + column / 2).d[row / 8 * 2 + column % 2];
        double exact = sum;
        for (int k = 0; k < K; k++) {
          const std::pair<int, int> place = at(k);  // within a row of a, or a column of b
          const int half = place.second / 2, part = place.second % 2;
          exact += double(element(given(row % 8 * 4 + place.first).a[row / 8 + 2 * half], part)) *
                   element(given(column * 4 + place.first).b[half], part);
        }
        sum = truncate(exact);
      }
  });
}

// 16-bit types: lane t of a row holds k = 2 t, 2 t + 1, and 8 more in its second register.
inline std::pair<int, int> place_16(int k) { return {k % 8 / 2, k / 8 * 2 + k % 2}; }
inline void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  mma_of<16>("mma_bf16", d, a, b0, b1, place_16,
             [](uint32_t pair, int part) { return widen_bf16(part ? pair >> 16 : pair & 0xffff); });
}
inline void mma_f16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  mma_of<16>("mma_f16", d, a, b0, b1, place_16,
             [](uint32_t pair, int part) { return widen_f16(part ? pair >> 16 : pair & 0xffff); });
}
// tf32: lane t of a row holds k = t, and t + 4 in its second register.
inline void mma_tf32(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  mma_of<8>("mma_tf32", d, a, b0, b1, [](int k) { return std::pair<int, int>{k % 4, k / 4 * 2}; },
            [](uint32_t bits, int) { return float_of(bits & 0xffffe000); });
}

struct Rows {
  uint32_t* r;
};
inline void load_matrices(const char* name, uint32_t (&r)[4], const char* row, bool transposed) {
  if (row < host::block().memory || uintptr_t(row) % 16) host::fail("ldmatrix of an address that it does not take");
  Rows out = {r};
  host::with_warp(name, row, out, [&](auto address, auto wanted) {
    for (int lane = 0; lane < 32; lane++)
      for (int matrix = 0; matrix < 4; matrix++) {
        uint16_t pair[2];
        for (int i = 0; i < 2; i++) {
          const int along = lane % 4 * 2 + i, across = lane / 4;
          const int from = transposed ? along : across, column = transposed ? across : along;
          memcpy(&pair[i], address(8 * matrix + from) + 2 * column, 2);
        }
        wanted(lane).r[matrix] = pair[0] | uint32_t(pair[1]) << 16;
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
  host::with_warp("shuffle", x, sum, [](auto given, auto wanted) {
    for (int lane = 0; lane < 32; lane++)
      wanted(lane) = (given(lane) + given(lane ^ 1)) + (given(lane ^ 2) + given(lane ^ 3));
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
