#include "launches.cuh"

namespace fused_inr {

int32_t forward_float32(const FusedInrSiren& s, void* stream) { return forward<Float32>(s, stream); }
int32_t backward_float32(const FusedInrSiren& s, void* stream) { return backward<Float32>(s, stream); }

}  // namespace fused_inr
