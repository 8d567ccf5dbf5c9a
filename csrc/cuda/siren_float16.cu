#include "launches.cuh"

namespace fused_inr {

int32_t forward_float16(const FusedInrSiren& s, void* stream) { return forward<Float16>(s, stream); }
int32_t backward_float16(const FusedInrSiren& s, void* stream) { return backward<Float16>(s, stream); }

}  // namespace fused_inr
