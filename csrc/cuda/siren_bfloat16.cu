#include "launches.cuh"

namespace fused_inr {

int32_t forward_bfloat16(const FusedInrSiren& s, void* stream) { return forward<Bfloat16>(s, stream); }
int32_t backward_bfloat16(const FusedInrSiren& s, void* stream) { return backward<Bfloat16>(s, stream); }

}  // namespace fused_inr
