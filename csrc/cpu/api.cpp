// The exported functions, each dispatched to an instruction set, and the detection of the widest one.
#include "abi.h"
#include "table.h"

extern const IsaTable fused_inr_table_base;
#if defined(FUSED_INR_X86)
extern const IsaTable fused_inr_table_avx2, fused_inr_table_avx512, fused_inr_table_avx512_bf16;
#endif

static const IsaTable& table([[maybe_unused]] int32_t isa) {
#if defined(FUSED_INR_X86)
  switch (isa) {
    case ISA_AVX2: return fused_inr_table_avx2;
    case ISA_AVX512: return fused_inr_table_avx512;
    case ISA_AVX512_BF16: return fused_inr_table_avx512_bf16;
    default: break;
  }
#endif
  return fused_inr_table_base;
}

extern "C" {

int32_t fused_inr_best_isa() {
#if defined(FUSED_INR_X86)
  __builtin_cpu_init();
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (avx512 && __builtin_cpu_supports("avx512bf16")) return ISA_AVX512_BF16;
  if (avx512) return ISA_AVX512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return ISA_AVX2;
#endif
  return ISA_BASE;
}

int64_t fused_inr_render_workspace(const FusedInrProgram* program, int32_t threads, int32_t isa) {
  return table(isa).workspace(*program, threads);
}

int64_t fused_inr_kept_bytes(const FusedInrProgram* program, int32_t isa) { return table(isa).kept(*program); }

int32_t fused_inr_render(const FusedInrProgram* program, FusedInrParallelFor parallel_for, int32_t isa) {
  return table(isa).render(*program, parallel_for);
}

int32_t fused_inr_backward(const FusedInrProgram* program, const FusedInrGradients* gradients,
                           FusedInrParallelFor parallel_for, int32_t isa) {
  return table(isa).backward(*program, *gradients, parallel_for);
}

int32_t fused_inr_points(const FusedInrPoints* program, FusedInrParallelFor parallel_for, int32_t isa) {
  return table(isa).points(*program, parallel_for);
}

int32_t fused_inr_points_backward(const FusedInrPoints* program, const FusedInrPointsGradients* gradients,
                                  FusedInrParallelFor parallel_for, int32_t isa) {
  return table(isa).points_backward(*program, *gradients, parallel_for);
}

int32_t fused_inr_bias_act(const FusedInrBiasAct* call, FusedInrParallelFor parallel_for, int32_t isa) {
  return table(isa).bias_act(*call, parallel_for);
}

int32_t fused_inr_bias_act_slope(const FusedInrBiasAct* call, FusedInrParallelFor parallel_for, int32_t isa) {
  return table(isa).bias_act_slope(*call, parallel_for);
}

int32_t fused_inr_upfirdn2d(const FusedInrUpfirdn* call, FusedInrParallelFor parallel_for, int32_t isa) {
  return table(isa).upfirdn2d(*call, parallel_for);
}

int32_t fused_inr_minibatch_stddev(const FusedInrStddev* call, FusedInrParallelFor parallel_for, int32_t isa) {
  return table(isa).minibatch_stddev(*call, parallel_for);
}

int32_t fused_inr_convolution_weight(const FusedInrConvolutionWeight* call, FusedInrParallelFor parallel_for,
                                     int32_t isa) {
  return table(isa).convolution_weight(*call, parallel_for);
}

int32_t fused_inr_augment(const FusedInrAugment* call, FusedInrParallelFor parallel_for, int32_t isa) {
  return table(isa).augment(*call, parallel_for);
}

void fused_inr_sincos(const float* x, float* sine, float* cosine, int64_t n, int32_t isa) {
  table(isa).sincos(x, sine, cosine, n);
}

void fused_inr_activation(const FusedInrLayer* layer, const float* z, float* derivatives, int64_t n, int32_t bfloat16,
                          int32_t isa) {
  table(isa).activation(*layer, z, derivatives, n, bfloat16);
}

const char* fused_inr_source_hash() { return FUSED_INR_SOURCE_HASH; }
}
