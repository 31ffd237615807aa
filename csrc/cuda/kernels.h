// What the host calls of the CUDA kernels: raw memory in, launches on a stream out. Free of PyTorch.

#pragma once

#include <cstdint>

#include "layout.h"
#include "options.h"

struct CUstream_st;

namespace jumpstart {
namespace cuda {

using Stream = CUstream_st*;

struct ForwardCall {
  Scalar scalar;
  const void* x;
  void* output;                // null: statistics alone. May be x
  uint8_t* mask;               // [matrix_rows, mask_columns]
  void *slack_sums, *extrema;  // float32, for float64 float64
  int64_t* indices;
  Layout layout;
  Options options;
  int multiprocessors;  // of the device
};

// Bytes of workspace that a forward needs; aligned to 16, and read by no one after it. A small one needs
// none.
int64_t forward_workspace(const ForwardCall& call);
// One launch where the activation is small, else two.
void forward(const ForwardCall& call, void* workspace, Stream stream);

struct BackwardCall {
  Scalar scalar;
  const void* grad_output;  // null: zero
  const uint8_t* mask;
  void* grad_x;
  const void *grad_slack_sums, *grad_extrema;  // null: not in the loss
  const void* extrema;
  const int64_t* indices;
  Layout layout;
  Options options;
  int multiprocessors;
};

// One launch.
void backward(const BackwardCall& call, Stream stream);

constexpr int kPenaltyLayers = 448;  // of a launch: their addresses are its arguments

struct PenaltyCall {
  bool float64;
  const void* const* slack_sums;  // of each layer [2, kSlackSums], dense
  int64_t layers;
  const double* weights;  // [kLayerSums]
  bool square_root;
  void* value;    // []
  double* total;  // scratch, for more than kPenaltyLayers layers
};

void penalty(const PenaltyCall& call, Stream stream);
// Gradient [2, kSlackSums] of every layer's slack sums; `value` is null if the penalty is no square root.
void penalty_backward(bool float64, const void* grad, const void* value, const double* weights, void* by_sum,
                      Stream stream);

}  // namespace cuda
}  // namespace jumpstart
