// The launches of one compute type. Each siren_*.cu file instantiates those of one type, so that they compile in
// parallel.
#pragma once

#include "backward.cuh"
#include "forward.cuh"
#include "pack.cuh"

namespace fused_inr {

inline Layout layout_of(const FusedInrSiren& s) {
  return {s.width, s.num_layers, s.layers[0].inputs, s.type == TYPE_FLOAT32 ? 4 : 2};
}

// Number of tiles of 16 rows that a warp processes at a time in the forward pass. Two tiles share each loaded weight,
// but float32 activations of the widest network leave no registers for a second one.
inline int forward_tiles(const Layout& layout) { return layout.element == 4 && layout.width == 128 ? 1 : 2; }

inline int forward_shared(const FusedInrSiren& s) {
  const Layout layout = layout_of(s);
  return layout.forward_shared(16 * forward_tiles(layout) * s.warps);
}

inline int backward_shared(const FusedInrSiren& s) { return layout_of(s).backward_shared(16 * s.warps); }

inline Network network_of(const FusedInrSiren& s) {
  // The layers after the first have one frequency; that of the last one has no meaning if it is linear.
  const FusedInrSirenLayer &first = s.layers[0], &second = s.layers[1], &last = s.layers[s.num_layers - 1];
  Network net;
  net.layout = layout_of(s);
  net.outputs = last.outputs;
  net.first_omega = first.omega, net.omega = second.omega;
  net.final_sine = last.sine;
  net.points = s.points, net.blocks = s.blocks;
  net.coords = s.coords, net.coords_sample = s.coords_sample;
  net.out = s.out, net.gradient = s.gradient, net.coords_gradient = s.coords_gradient;
  net.packed = (const char*)s.packed;
  net.packed_sample = s.packed_samples > 1 ? net.layout.packed() : 0;
  net.partials = s.partials;
  return net;
}

template <class T>
int32_t pack(const FusedInrSiren& s, void* stream) {
  const Layout layout = layout_of(s);
  const int64_t threads = s.packed_samples * (layout.packed() / 4);
  return launch(pack_weights<T>, (threads + SIMPLE_THREADS - 1) / SIMPLE_THREADS, SIMPLE_THREADS, 0, stream, s, layout);
}

template <class T, int WIDTH>
int32_t forward_of_width(const FusedInrSiren& s, void* stream) {
  constexpr int M = T::ELEMENT == 4 && WIDTH == 128 ? 1 : 2;
  return launch(siren_forward<T, WIDTH, M>, s.samples * s.blocks, 32 * s.warps, forward_shared(s), stream,
                network_of(s));
}

template <class T, int WIDTH>
int32_t backward_of_width(const FusedInrSiren& s, void* stream) {
  return launch(siren_backward<T, WIDTH>, s.samples * s.blocks, 32 * s.warps, backward_shared(s), stream,
                network_of(s));
}

template <class T>
int32_t forward(const FusedInrSiren& s, void* stream) {
  if (const int32_t error = pack<T>(s, stream)) return error;
  switch (s.width) {
    case 16: return forward_of_width<T, 16>(s, stream);
    case 32: return forward_of_width<T, 32>(s, stream);
    case 64: return forward_of_width<T, 64>(s, stream);
    default: return forward_of_width<T, 128>(s, stream);
  }
}

template <class T>
int32_t backward(const FusedInrSiren& s, void* stream) {
  if (const int32_t error = pack<T>(s, stream)) return error;
  switch (s.width) {
    case 16: return backward_of_width<T, 16>(s, stream);
    case 32: return backward_of_width<T, 32>(s, stream);
    case 64: return backward_of_width<T, 64>(s, stream);
    default: return backward_of_width<T, 128>(s, stream);
  }
}

int32_t forward_float32(const FusedInrSiren&, void*);
int32_t backward_float32(const FusedInrSiren&, void*);
int32_t forward_bfloat16(const FusedInrSiren&, void*);
int32_t backward_bfloat16(const FusedInrSiren&, void*);
int32_t forward_float16(const FusedInrSiren&, void*);
int32_t backward_float16(const FusedInrSiren&, void*);

}  // namespace fused_inr
