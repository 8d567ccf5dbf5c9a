// Memory, minima and parallel loops, in place of the standard library's.
//
// An inline function of the standard library is shared by all instruction sets, and the linker may keep the copy
// compiled for the widest one. So each instruction set has its own copies, in its namespace.
#pragma once

#include <stdint.h>
#include <stdlib.h>

#include "abi.h"

#if !defined(ISA_NAME)
#error "Define ISA_NAME, the namespace of the instruction set that is compiled for; see isa_base.cpp."
#endif

namespace ISA_NAME {

template <class T>
static inline T std_min(T a, T b) {
  return b < a ? b : a;
}
template <class T>
static inline T std_max(T a, T b) {
  return a < b ? b : a;
}
template <class P>
static inline void swap_pointers(P*& a, P*& b) {
  P* const old = a;
  a = b;
  b = old;
}

static inline void* std_malloc(int64_t bytes) { return malloc(size_t(bytes)); }
static inline void std_free(void* p) { free(p); }

static inline int64_t round_up(int64_t n, int64_t m) { return (n + m - 1) / m * m; }

// A bump allocator aligned to cache lines. With a null base it only counts bytes.
struct Arena {
  char* base;
  int64_t used;
  template <class T>
  T* take(int64_t n) {
    T* p = base ? (T*)(base + used) : nullptr;
    used += round_up(n * sizeof(T), 64);
    return p;
  }
};

// Scoped memory, aligned to cache lines. `base` is null if the allocation failed.
struct Block {
  char *memory, *base;
  explicit Block(int64_t bytes) : memory((char*)std_malloc(bytes + 64)), base(nullptr) {
    if (memory) base = (char*)(((uintptr_t)memory + 63) / 64 * 64);
  }
  ~Block() { std_free(memory); }
};

// Calls body(begin, end) on ranges of [0, n) in parallel; false if PyTorch reports an error.
template <class Body>
static bool parallel(FusedInrParallelFor run, int64_t n, const Body& body) {
  const auto call = [](int64_t begin, int64_t end, void* context) { (*(const Body*)context)(begin, end); };
  return run(0, n, 1, call, (void*)&body) == 0;
}

}  // namespace ISA_NAME
