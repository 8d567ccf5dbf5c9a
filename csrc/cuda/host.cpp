// All of the library by a C++ compiler, to run on the CPU what cannot be run without a GPU.
#define FUSED_INR_HOST
#include "api.cu"
#include "siren_bfloat16.cu"
#include "siren_float16.cu"
#include "siren_float32.cu"

extern "C" void fused_inr_host_run_threads_backwards(int32_t backwards) { host::block().order = backwards; }
