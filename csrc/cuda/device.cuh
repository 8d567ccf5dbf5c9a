// GPU instructions that C++ has no expression for. host.h defines the same names for a C++ compiler.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#define UNROLL _Pragma("unroll")
#define ROLLED _Pragma("unroll 1")
#define SHARED_MEMORY(name) extern __shared__ __align__(128) char name[]

namespace fused_inr {

// d += a b: a is 16 x 16, b is 16 x 8 in bfloat16; products are exact and sums are float32.
__device__ inline void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ inline void mma_f16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// d += a b: a is 16 x 8, b is 8 x 8; only the top 10 bits of each mantissa are used.
__device__ inline void mma_tf32(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Four 8 x 8 blocks of 16-bit numbers; lane i gives the address of row i % 8 of block i / 8.
__device__ inline void ldmatrix(uint32_t (&r)[4], const char* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(uint32_t(__cvta_generic_to_shared(row)))
               : "memory");
}

__device__ inline void ldmatrix_transposed(uint32_t (&r)[4], const char* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(uint32_t(__cvta_generic_to_shared(row)))
               : "memory");
}

// 16 bytes from global to shared memory, complete after copies_wait.
__device__ inline void copy_16(char* shared, const char* global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(uint32_t(__cvta_generic_to_shared(shared))),
               "l"(global)
               : "memory");
}

__device__ inline void copies_wait() { asm volatile("cp.async.wait_all;" ::: "memory"); }

__device__ inline uint32_t pack_bf16(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

__device__ inline uint32_t pack_f16(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

__device__ inline float2 unpack_f16(uint32_t pair) {
  float2 x;
  asm("{ .reg .b16 l, h; mov.b32 {l, h}, %2; cvt.f32.f16 %0, l; cvt.f32.f16 %1, h; }"
      : "=f"(x.x), "=f"(x.y)
      : "r"(pair));
  return x;
}

__device__ inline uint32_t round_tf32(float x) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return bits;
}

__device__ inline uint32_t bits_of(float x) { return __float_as_uint(x); }
__device__ inline float float_of(uint32_t bits) { return __uint_as_float(bits); }
__device__ inline float fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }

// The hardware's sine and cosine of -pi .. pi: absolute error 4e-7 (CUDA C++ Programming Guide, table of intrinsics).
__device__ inline float sine_near_zero(float x) { return __sinf(x); }
__device__ inline float cosine_near_zero(float x) { return __cosf(x); }

__device__ inline float add_lanes_of_row(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

template <class... Parameters>
int32_t launch(void (*kernel)(Parameters...), int64_t blocks, int threads, int shared, void* stream,
               Parameters... arguments) {
  if (blocks == 0) return 0;
  if (blocks > INT32_MAX) return cudaErrorInvalidConfiguration;
  if (shared > 48 * 1024) {
    // The limit belongs to the kernel, not to the launch, so it is set to the device's maximum: if every launch set its
    // own size, another thread could lower the limit before this launch.
    int device, limit;
    cudaError_t error = cudaGetDevice(&device);
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    if (error == cudaSuccess) error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, limit);
    if (error != cudaSuccess) {
      cudaGetLastError();  // clears the error, which a later call would report
      return error;
    }
  }
  kernel<<<unsigned(blocks), threads, shared, cudaStream_t(stream)>>>(arguments...);
  return cudaGetLastError();
}

// Returns 0 if the driver finds code of a kernel for the current device.
template <class... Parameters>
int32_t check(void (*kernel)(Parameters...)) {
  cudaFuncAttributes attributes;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, kernel);
  cudaGetLastError();
  return error;
}

inline int32_t use_device(int32_t device) { return cudaSetDevice(device); }
inline const char* error_text(int32_t error) { return cudaGetErrorString(cudaError_t(error)); }

}  // namespace fused_inr
