// The C interface of the CPU kernels. Python fills these structs through ctypes (_backends/cpu/native.py mirrors them).
//
// No PyTorch header is included: the library needs only a C++ compiler, and one build works with every PyTorch version.
#pragma once

#include <cstdint>

extern "C" {

// PyTorch's own parallel_for, looked up in libtorch at run time, so that the kernels use its threads.
typedef void (*FusedInrRange)(int64_t begin, int64_t end, void* context);
typedef int32_t (*FusedInrParallelFor)(int64_t begin, int64_t end, int64_t grain, FusedInrRange body, void* context);

enum { FUSED_INR_MAX_LAYERS = 64, FUSED_INR_MAX_STAGES = 16 };  // limits of a program with gradients

// Codes are positions in ACTIVATIONS of primitives/mlp.py. Programs support only the first four, points support all.
enum FusedInrActivation : int32_t {
  ACT_LINEAR = 0,
  ACT_LRELU = 1,
  ACT_RELU = 2,
  ACT_SINE = 3,
  ACT_GELU = 4,  // exact
  ACT_SILU = 5,
  ACT_TANH = 6,
  ACT_GAUSS = 7,
  ACT_FINER = 8,
};

// y = gain * act(W x + b), with `slope` the slope of lrelu and `omega` the frequency of sine, gauss and finer. Strides
// are in floats, and 0 if all clips (frames) share the tensor.
struct FusedInrLayer {
  const float* weight;  // [N,O,I], row-major
  int64_t weight_clip, weight_row;
  const float* bias;  // [N,T,O]
  int64_t bias_clip, bias_time;
  int32_t in, out;  // `in` excludes the channels of the stage before, which `parent` multiplies
  int32_t activation;
  float slope, omega, gain;
  const float* rgb_weight;  // [N,C,O]; null without a read-out
  int64_t rgb_clip;
  const float* rgb_bias;  // [C]
};

struct FusedInrStage {
  int32_t scale;        // pixels per side for each pixel of the base grid
  int32_t layers;       // number of layers; stages take the program's layers in order
  const float* parent;  // [N,O,I]: weight of the first layer for the stage before; null in the first stage
  int64_t parent_clip, parent_row;
  int32_t features;        // D; 0 without coordinate features
  int32_t cosines;         // 1: sin then cos, 2D inputs; 0: sin only, D inputs
  const float* frequency;  // [N,D,2]
  int64_t frequency_clip;
  const float* phase;  // [N,T,D]
  int64_t phase_clip, phase_time;
};

struct FusedInrProgram {
  const FusedInrStage* stages;
  const FusedInrLayer* layers;
  int32_t num_stages, num_layers;
  int64_t clips, times;
  int64_t height, width;  // base grid; X = x0 + (x1-x0)*j/width, Y = y0 + (y1-y0)*(height-1-i)/height
  double x0, x1, y0, y1;
  int32_t channels;  // of the image, or of the last layer of a program without read-outs
  int32_t has_rgb;
  int32_t bfloat16;  // products in bfloat16, accumulated in float32
  float* out;        // [N,T,channels,height*scale,width*scale], with the scale of the last stage
  // Outputs of all layers, fused_inr_kept_bytes in size: written by the forward pass and read by the backward pass. If
  // null, they are not stored, and the backward pass recomputes them.
  void* kept;
};

// Gradients of a program: one entry per layer and per stage. Each is dense and per clip, even for a shared tensor. A
// pointer may be null only if the program has no such tensor.
struct FusedInrLayerGrad {
  float* weight;  // [N,O,I], for the features or the layer before; row stride `weight_row`
  int64_t weight_clip, weight_row;
  float* bias;        // [N,T,O]
  float* rgb_weight;  // [N,C,O]
  float* rgb_bias;    // [N,C]
};

struct FusedInrStageGrad {
  float* parent;  // [N,O,I], for the stage before; row stride `parent_row`
  int64_t parent_clip, parent_row;
  float* frequency;  // [N,D,2]
  float* phase;      // [N,T,D]
};

struct FusedInrGradients {
  const FusedInrLayerGrad* layers;
  const FusedInrStageGrad* stages;
  const float* out;  // gradient of the output: [N,T,channels,height,width]
};

// A chain of layers evaluated at points, with O outputs of the last layer, and its derivatives by the coordinates.
struct FusedInrPoints {
  const FusedInrLayer* layers;
  const int32_t* skips;  // [layers]: whether a layer's input is the output of the one before, then the coordinates
  int32_t num_layers;
  int64_t clips, points;
  const float* coords;  // [N,P,K], row-major
  int64_t coords_clip;
  int32_t bfloat16;
  int32_t order;         // of the derivatives: 0 for none, 1 for Jacobians, 2 for Laplacians too
  int32_t with_hessian;  // needs order 2
  float* out;            // [N,P,O]
  float* jacobian;       // [N,P,O,K]
  float* laplacian;      // [N,P,O]
  float* hessian;        // [N,P,O,K,K]
};

// Gradients of such a chain, whose layers have gain 1; dense and per clip.
struct FusedInrPointsGradients {
  float* const* weights;  // [N,O,I] for each layer
  float* const* biases;   // [N,O] for each layer
  float* coords;          // [N,P,K], or null
  // Gradients of the results that the program has.
  const float* out;
  const float* jacobian;
  const float* laplacian;
  const float* hessian;
};

enum FusedInrType : int32_t { TYPE_FLOAT32 = 0, TYPE_BFLOAT16 = 1, TYPE_FLOAT16 = 2 };

enum FusedInrPointwise : int32_t {
  POINTWISE_LINEAR = 0,
  POINTWISE_RELU = 1,
  POINTWISE_LRELU = 2,  // the last that is piecewise linear
  POINTWISE_TANH = 3,
  POINTWISE_SIGMOID = 4,
  POINTWISE_ELU = 5,
  POINTWISE_SELU = 6,
  POINTWISE_SOFTPLUS = 7,
  POINTWISE_SWISH = 8,
};

// out = residual + clamp(act(x + bias) * gain), or a gradient times the derivative of that. Tensors are [outer,
// channels, inner], dense and of one type; all arithmetic is in float32.
struct FusedInrBiasAct {
  int64_t outer, channels, inner;
  int32_t type, act;
  float alpha, gain, clamp;  // clamp is infinite if there is none
  const void*
      x;  // with from_output: the output without residual, if it determines the derivative: up to LRELU, |gain| > 0.5
  const float* bias;     // [channels] or null
  const void* residual;  // or null
  void* out;
  int32_t from_output;
  // For the derivative only: out = (gradient + shift) * derivative; sums is the sum of out over outer and inner.
  const void* gradient;
  const float* shift;  // [channels] or null
  float* sums;         // [channels] or null
};

// out[n,c] = every down-th pixel of the correlation of x[n,c], after zero insertion and padding, with the taps.
struct FusedInrUpfirdn {
  int64_t batch, channels, height, width, out_height, out_width;
  int32_t channels_last, type;
  int32_t up_x, up_y, down_x, down_y;
  int64_t pad_x, pad_y;  // left and top, negative to crop; right and bottom follow from the output's size
  int32_t taps_x, taps_y;
  const float* taps;  // [taps_y, taps_x]
  const void* x;
  void* out;
};

// Minibatch standard deviation of x [batch, channels, pixels], dense: sample i is in group i % (batch / group).
struct FusedInrStddev {
  int64_t batch, channels, pixels;
  int64_t group, planes;
  int32_t type;
  const void* x;
  void* out;             // [batch, channels + planes, pixels]; in the backward pass: the gradient of x
  const void* gradient;  // of the output; null in the forward pass
};

// Gradient of the weight of a convolution of x [batch, height, width, inputs] to [batch, out_height, out_width,
// outputs], dense, channels last and of one type; sums are in float32.
struct FusedInrConvolutionWeight {
  int64_t batch, inputs, outputs, height, width, out_height, out_width;
  int32_t kernel_y, kernel_x, stride, padding;
  int32_t type;     // TYPE_FLOAT32 or TYPE_BFLOAT16
  int32_t threads;  // among which the work is divided; does not affect the result's bits
  const void* x;
  const void* gradient;  // of the output
  void* out;             // [outputs, kernel_y, kernel_x, inputs]
};

// Color, translation and cutout of x [clips, times, channels, height, width], dense, with one set of parameters per
// clip; or the adjoint of the linear part.
struct FusedInrAugment {
  int64_t clips, times, channels, height, width;
  int32_t type;
  int32_t color_last;  // 0: color comes before translation and cutout; the adjoint reverses the order
  int32_t adjoint;
  const float* brightness;  // [clips] or null
  const float* saturation;  // [clips] or null
  const float* contrast;    // [clips] or null
  const int64_t* offset;    // [clips, 2]: rows down and columns right by which pixels move, or null
  const int64_t* hole;      // [clips, 2]: first row and column of the hole, or null
  int64_t hole_height, hole_width;
  const void* x;
  void* out;
};

// Instruction sets, from narrow to wide. Each is compiled from the same source.
enum FusedInrIsa : int32_t { ISA_BASE = 0, ISA_AVX2 = 1, ISA_AVX512 = 2, ISA_AVX512_BF16 = 3 };

int32_t fused_inr_best_isa();
int64_t fused_inr_render_workspace(const FusedInrProgram* program, int32_t threads, int32_t isa);
int64_t fused_inr_kept_bytes(const FusedInrProgram* program, int32_t isa);
int32_t fused_inr_render(const FusedInrProgram* program, FusedInrParallelFor parallel_for, int32_t isa);
// Supports activations whose derivative follows from their output (linear, lrelu, relu), up to FUSED_INR_MAX_LAYERS
// layers and FUSED_INR_MAX_STAGES stages.
int32_t fused_inr_backward(const FusedInrProgram* program, const FusedInrGradients* gradients,
                           FusedInrParallelFor parallel_for, int32_t isa);
int32_t fused_inr_points(const FusedInrPoints* program, FusedInrParallelFor parallel_for, int32_t isa);
int32_t fused_inr_points_backward(const FusedInrPoints* program, const FusedInrPointsGradients* gradients,
                                  FusedInrParallelFor parallel_for, int32_t isa);
int32_t fused_inr_bias_act(const FusedInrBiasAct* call, FusedInrParallelFor parallel_for, int32_t isa);
int32_t fused_inr_bias_act_slope(const FusedInrBiasAct* call, FusedInrParallelFor parallel_for, int32_t isa);
int32_t fused_inr_upfirdn2d(const FusedInrUpfirdn* call, FusedInrParallelFor parallel_for, int32_t isa);
int32_t fused_inr_minibatch_stddev(const FusedInrStddev* call, FusedInrParallelFor parallel_for, int32_t isa);
int32_t fused_inr_convolution_weight(const FusedInrConvolutionWeight* call, FusedInrParallelFor parallel_for,
                                     int32_t isa);
int32_t fused_inr_augment(const FusedInrAugment* call, FusedInrParallelFor parallel_for, int32_t isa);
void fused_inr_sincos(const float* x, float* sine, float* cosine, int64_t n, int32_t isa);
// Value and first three derivatives, [4][n], of a layer's activation at z; as accurate as stored results need, with
// `bfloat16`.
void fused_inr_activation(const FusedInrLayer* layer, const float* z, float* derivatives, int64_t n, int32_t bfloat16,
                          int32_t isa);
const char* fused_inr_source_hash();
}
