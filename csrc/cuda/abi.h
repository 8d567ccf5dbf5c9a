// The C interface of the CUDA kernels. Python fills these structs through ctypes; _backends/cuda/native.py mirrors
// them.
//
// No PyTorch header is included: the library is built with nvcc alone, and one build serves every version of PyTorch.
#pragma once

#include <cstdint>

extern "C" {

enum {
  FUSED_INR_MAX_LAYERS = 32,  // structs are kernel arguments, which take at most 4 KiB
  FUSED_INR_MAX_INPUTS = 16,
  FUSED_INR_MAX_OUTPUTS = 16,
  FUSED_INR_MAX_WARPS = 8,
};

enum FusedInrType : int32_t { TYPE_FLOAT32 = 0, TYPE_BFLOAT16 = 1, TYPE_FLOAT16 = 2 };

// z = W x + b, followed by sin(omega z) if `sine`. Strides are in floats, and 0 if all samples share the tensor.
struct FusedInrSirenLayer {
  const float* weight;  // [N,O,I]
  int64_t weight_sample, weight_row, weight_column;
  const float* bias;  // [N,O]
  int64_t bias_sample, bias_row;
  float* weight_gradient;  // [N,O,I] contiguous; null in the forward pass
  float* bias_gradient;    // [N,O] contiguous
  int32_t inputs, outputs;
  float omega;
  int32_t sine;
};

struct FusedInrSiren {
  FusedInrSirenLayer layers[FUSED_INR_MAX_LAYERS];
  int32_t num_layers;
  int32_t width;  // 16, 32, 64 or 128: at least the width of every hidden layer
  int32_t type;
  int32_t warps;           // per block
  int64_t samples;         // N
  int64_t packed_samples;  // N, or 1 if all samples share all weights and biases
  int64_t points;          // P
  int64_t blocks;          // per sample
  const float* coords;     // [N,P,K], rows contiguous
  int64_t coords_sample;
  float* out;              // [N,P,C]
  const float* gradient;   // [N,P,C] of out
  float* coords_gradient;  // [N,P,K], or null
  void* packed;            // packed_samples * fused_inr_siren_packed bytes
  float* partials;         // samples * blocks * fused_inr_siren_partials floats
  int32_t device;
};

// Return the bytes of a sample's packed weights, the bytes of shared memory of a block, and the floats of a block's
// sums of gradients.
int64_t fused_inr_siren_packed(const FusedInrSiren* siren);
int64_t fused_inr_siren_shared(const FusedInrSiren* siren, int32_t backward);
int64_t fused_inr_siren_partials(const FusedInrSiren* siren);

// Return 0 or a cudaError_t.
int32_t fused_inr_siren_forward(const FusedInrSiren* siren, void* stream);
int32_t fused_inr_siren_backward(const FusedInrSiren* siren, void* stream);
int32_t fused_inr_check(int32_t device);  // 0 if the driver and the library support the device
const char* fused_inr_error(int32_t error);

const char* fused_inr_source_hash();
const char* fused_inr_architectures();  // such as "8.0 9.0+PTX"
int32_t fused_inr_runs_on_host();       // 1: built by a C++ compiler to run the kernels on the CPU, for tests
}
