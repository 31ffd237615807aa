// The host's interface to the CUDA kernels: raw pointers in, launches on a stream. Free of PyTorch.

#pragma once

#include <cstdint>
#include <functional>

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

// Gives a call so many bytes of workspace, aligned to 16 bytes, which are free again once its kernels have
// run. Called before the first launch, once or, if none is needed, not at all.
using Allocate = std::function<void*(int64_t bytes)>;

// One launch if the activation is small or takes few enough blocks for a cluster, else two. A small one needs
// no workspace.
void forward(const ForwardCall& call, const Allocate& allocate, Stream stream);

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

// One launch, or two with a workspace: for a bias, unless a block sees all of a unit.
void backward(const BackwardCall& call, const Allocate& allocate, Stream stream);

// A linked activation, cat(g(x), g(-x)).
struct LinkedForwardCall {
  // Of x, without a bias, its options those of statistics; slack_sums is null if these are not asked for. The
  // output has twice the units, the mask is [matrix_rows, 2 * mask_columns], or null if x is kept instead.
  ForwardCall of_x;
  LinkedKind kind;
  const void* slopes;  // [2, units], float32, or float64 for float64, aligned to 16 bytes; null: none
};

// As forward; one launch without statistics, which needs no workspace.
void linked_forward(const LinkedForwardCall& call, const Allocate& allocate, Stream stream);

struct LinkedBackwardCall {
  // As of LinkedForwardCall; bias_sums are the gradients of the slopes, [2, units], before rounding. Without
  // a grad_output, grad_x and bias_sums must hold zeros.
  BackwardCall of_x;
  LinkedKind kind;
  const void* x;       // null if the mask is enough
  const void* slopes;  // as of LinkedForwardCall
};

// One launch, another to merge the workspace if there is one, another for the gradients of extrema.
void linked_backward(const LinkedBackwardCall& call, const Allocate& allocate, Stream stream);

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
