// The whole library for a C++ compiler, to run the kernels on the CPU where there is no GPU.
#define FUSED_INR_HOST
#include "api.cu"
#include "siren_bfloat16.cu"
#include "siren_float16.cu"
#include "siren_float32.cu"

extern "C" void fused_inr_host_run_threads_backwards(int32_t backwards) { host::block().backwards = backwards; }
