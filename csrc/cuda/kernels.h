// The host's interface to the CUDA kernels: raw pointers in, launches on a stream. Free of PyTorch.

#pragma once

#include <cstdint>

#include "layout.h"
#include "linked_activations.h"
#include "options.h"

struct CUstream_st;

namespace jumpstart {
namespace cuda {

using Stream = CUstream_st*;

struct ForwardCall {
  Scalar scalar;
  const void* x;
  const void* bias;            // [units]; null: none
  void* output;                // null: statistics alone. May be x
  uint8_t* mask;               // [matrix_rows, mask_columns]
  void *slack_sums, *extrema;  // float32, or float64 for float64
  int64_t* indices;
  Layout layout;
  Options options;
  int multiprocessors;  // of the device
  int cluster_blocks;   // most_cluster_blocks() of the device
};

// The most blocks of a cluster on a device, which must be the current one; 1 if it has none.
int most_cluster_blocks(int device);

// Bytes of workspace that a forward needs, aligned to 16 bytes, free again once it has run; 0 for a small
// activation.
int64_t forward_workspace(const ForwardCall& call);
// One launch if the activation is small or takes few enough blocks for a cluster, else two.
void forward(const ForwardCall& call, void* workspace, Stream stream);

// The gradient of a penalty, from which that of the slack sums follows.
struct PenaltyGradientCall {
  const void* grad;       // []; null: none
  const void* root;       // [], the penalty; null unless it is a square root
  const double* weights;  // [kLayerSums]
};

struct BackwardCall {
  Scalar scalar;
  const void* grad_output;  // null: zero
  const uint8_t* mask;
  void* grad_x;
  const void *grad_slack_sums, *grad_extrema;  // null: not in the loss
  const void* extrema;
  const int64_t* indices;
  void*
      bias_sums;  // [units], float32 or float64: grad_x before rounding, over each unit; null: not asked for
  Layout layout;
  Options options;
  int multiprocessors;
  PenaltyGradientCall penalty = {};  // in place of grad_slack_sums
};

// As forward_workspace; 0 without a bias, and where a block sees all of a unit.
int64_t backward_workspace(const BackwardCall& call);
// One launch, or two if there is a workspace.
void backward(const BackwardCall& call, void* workspace, Stream stream);

// A linked activation, cat(g(x), g(-x)).
struct LinkedForwardCall {
  // Of x, without a bias, its options those of statistics; slack_sums is null if these are not asked for. The
  // output has twice the units, the mask is [matrix_rows, 2 * mask_columns], or null if x is kept instead.
  ForwardCall of_x;
  LinkedKind kind;
  const void* slopes;  // [2, units], float32, or float64 for float64, aligned to 16 bytes; null: none
};

// As forward_workspace; 0 without statistics.
int64_t linked_forward_workspace(const LinkedForwardCall& call);
void linked_forward(const LinkedForwardCall& call, void* workspace, Stream stream);

struct LinkedBackwardCall {
  // As of LinkedForwardCall; bias_sums are the gradients of the slopes, [2, units], before rounding. Without
  // a grad_output, grad_x and bias_sums must hold zeros.
  BackwardCall of_x;
  LinkedKind kind;
  const void* x;       // null if the mask is enough
  const void* slopes;  // as of LinkedForwardCall
};

int64_t linked_backward_workspace(const LinkedBackwardCall& call);
// One launch, another to merge the workspace if there is one, another for the gradients of extrema.
void linked_backward(const LinkedBackwardCall& call, void* workspace, Stream stream);

constexpr int kPenaltyLayers = 448;  // per launch: their addresses are its arguments

struct PenaltyCall {
  bool float64;
  const void* const* slack_sums;  // [2, kSlackSums] per layer, dense
  int64_t layers;
  const double* weights;  // [kLayerSums]
  bool square_root;
  void* value;    // []
  double* total;  // scratch, if there are more than kPenaltyLayers layers
};

void penalty(const PenaltyCall& call, Stream stream);
// Gradient [2, kSlackSums], the same for every layer.
void penalty_backward(bool float64, const PenaltyGradientCall& penalty, void* by_sum, Stream stream);

}  // namespace cuda
}  // namespace jumpstart
