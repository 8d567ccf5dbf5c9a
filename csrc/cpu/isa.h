// One instruction set: everything in a namespace of its own (ISA_NAME), and the table through which api.cpp calls it.
//
// The standard library's inline functions would be shared among the instruction sets, and the linker might keep the copy
// with the widest one: what is needed of it stands here.
#include <stdint.h>
#include <stdlib.h>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#include "abi.h"
#include "table.h"

namespace ISA_NAME {

template <class T>
static inline T std_min(T a, T b) {
  return b < a ? b : a;
}
template <class T>
static inline T std_max(T a, T b) {
  return a < b ? b : a;
}
static inline void* std_malloc(int64_t bytes) { return malloc(size_t(bytes)); }
static inline void std_free(void* p) { free(p); }

#include "simd.h"
#include "gemm.h"
#include "engine.h"
#include "driver.h"
#include "backward.h"
#include "points.h"

static int32_t render(const FusedInrProgram& p, FusedInrParallelFor run) {
  return p.bfloat16 ? render_program<uint16_t>(p, run) : render_program<float>(p, run);
}

static int64_t render_workspace(const FusedInrProgram& p, int64_t threads) {
  return p.bfloat16 ? workspace<uint16_t>(p, threads) : workspace<float>(p, threads);
}

static int32_t backward(const FusedInrProgram& p, const FusedInrGradients& g, FusedInrParallelFor run) {
  return p.bfloat16 ? backward_program<uint16_t>(p, g, run) : backward_program<float>(p, g, run);
}

static int64_t kept(const FusedInrProgram& p) { return p.bfloat16 ? kept_bytes<uint16_t>(p) : kept_bytes<float>(p); }

static int32_t points(const FusedInrPoints& p, FusedInrParallelFor run) {
  return p.bfloat16 ? points_program<uint16_t>(p, run) : points_program<float>(p, run);
}

static int32_t points_backward(const FusedInrPoints& p, const FusedInrPointsGradients& g, FusedInrParallelFor run) {
  return p.bfloat16 ? points_backward_program<uint16_t>(p, g, run) : points_backward_program<float>(p, g, run);
}

}  // namespace ISA_NAME

extern const IsaTable ISA_TABLE;
const IsaTable ISA_TABLE = {ISA_NAME::render, ISA_NAME::render_workspace, ISA_NAME::kept,        ISA_NAME::backward,
                            ISA_NAME::points, ISA_NAME::points_backward,  ISA_NAME::sincos_array};
