// The library's entry points.
#include "launches.cuh"
#include "reduce.cuh"

using namespace fused_inr;

namespace {

typedef int32_t (*Run)(const FusedInrSiren&, void*);

Run of_type(int32_t type, Run float32, Run bfloat16, Run float16) {
  return type == TYPE_BFLOAT16 ? bfloat16 : type == TYPE_FLOAT16 ? float16 : float32;
}

}  // namespace

extern "C" {

const char* fused_inr_source_hash() { return FUSED_INR_SOURCE_HASH; }
const char* fused_inr_architectures() { return FUSED_INR_ARCHITECTURES; }
const char* fused_inr_error(int32_t error) { return error_text(error); }

int32_t fused_inr_runs_on_host() {
#ifdef FUSED_INR_HOST
  return 1;
#else
  return 0;
#endif
}

int32_t fused_inr_check(int32_t device) {
  if (const int32_t error = use_device(device)) return error;
  return check(reduce_gradients);
}

int64_t fused_inr_siren_packed(const FusedInrSiren* s) { return layout_of(*s).packed(); }
int64_t fused_inr_siren_partials(const FusedInrSiren* s) { return layout_of(*s).sums(); }
int64_t fused_inr_siren_shared(const FusedInrSiren* s, int32_t backward) {
  return backward ? backward_shared(*s) : forward_shared(*s);
}

int32_t fused_inr_siren_forward(const FusedInrSiren* s, void* stream) {
  if (const int32_t error = use_device(s->device)) return error;
  return of_type(s->type, forward_float32, forward_bfloat16, forward_float16)(*s, stream);
}

int32_t fused_inr_siren_backward(const FusedInrSiren* s, void* stream) {
  if (const int32_t error = use_device(s->device)) return error;
  if (const int32_t error = of_type(s->type, backward_float32, backward_bfloat16, backward_float16)(*s, stream))
    return error;
  int64_t largest = 0;  // number of gradients of a layer
  for (int i = 0; i < s->num_layers; i++) {
    const int64_t gradients = s->samples * s->layers[i].outputs * (s->layers[i].inputs + 1);
    largest = gradients > largest ? gradients : largest;
  }
  const int64_t blocks = (largest + SIMPLE_THREADS - 1) / SIMPLE_THREADS;
  return launch(reduce_gradients, blocks * s->num_layers, SIMPLE_THREADS, 0, stream, *s, layout_of(*s), blocks);
}
}
