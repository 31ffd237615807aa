// The operator on the host: its arguments and results as named structs, the steps that all devices share, and
// adapters to the dispatcher, which passes everything one by one. See ops/arguments.py for meaning and
// shapes.

#pragma once

#include <ATen/ATen.h>

#include <optional>
#include <string_view>
#include <tuple>
#include <utility>

#include "layout.h"
#include "options.h"
#include "penalty_gradient.h"
#include "saved.h"

namespace jumpstart {

// Results of the forward.
struct ForwardResult {
  at::Tensor output, mask, slack_sums, extrema, indices;
};

// Gradients of the forward's differentiable results; undefined if not needed for the loss.
struct Gradients {
  at::Tensor output, slack_sums, extrema;
  const PenaltyGradient* penalty = nullptr;  // in place of that of slack_sums, which follows from it

  bool any() const { return output.defined() || extrema.defined() || any_of_sums(); }
  bool any_of_sums() const { return slack_sums.defined() || penalty != nullptr; }
};

// Results of the backward; that of the bias is undefined unless it is asked for (Saved).
struct InputGradients {
  at::Tensor x, bias;
};

// An undefined bias stands for none.
ForwardResult forward_cpu(const at::Tensor& x, const at::Tensor& bias, const Options& options);
// Overwrites x, which must be dense, with the output. No autograd.
ForwardResult forward_inplace_cpu(const at::Tensor& x, const at::Tensor& bias, const Options& options);
InputGradients backward_cpu(const Gradients& gradients, const Saved& saved, const Options& options);

// Of what a forward keeps besides its output, in one allocation if it is small, which takes less time. What
// an operator returns must not share memory.
enum class Memory { separate, together };

// The same on a GPU, in a build with CUDA.
template <Memory memory>
ForwardResult forward_cuda(const at::Tensor& x, const at::Tensor& bias, const Options& options);
template <Memory memory>
ForwardResult forward_inplace_cuda(const at::Tensor& x, const at::Tensor& bias, const Options& options);
InputGradients backward_cuda(const Gradients& gradients, const Saved& saved, const Options& options);
// From PyTorch's allocator, on the current device.
at::Tensor empty_cuda(at::IntArrayRef size, at::ScalarType dtype, at::MemoryFormat format);

// Throws if there is no such activation.
Options make_options(std::string_view activation, double parameter, int64_t unit_dim, bool position_points,
                     double margin, std::string_view extrema_kind);

// What all devices do before a forward's kernels run.
struct PreparedForward {
  Layout layout;
  at::Tensor x;       // dense, in the memory order of `layout`
  at::Tensor bias;    // [units], dense; undefined if there is none
  at::Tensor target;  // the order of x: where the kernels write the output; undefined if there is none
  ForwardResult result;

  // If x is empty, there is nothing to run: `result` is filled in.
  bool is_done() const { return x.numel() == 0; }
  // Call once the kernels have run.
  ForwardResult finish();
};

// All results but the output; filled in if x is empty.
ForwardResult allocate_result(const at::Tensor& x, const Layout& layout, bool position_points, bool with_mask,
                              Memory memory = Memory::separate);

// If the kernels do not support the memory order of x, they run on a dense copy of it; `overwrites_copy`:
// they can write their output there too.
PreparedForward prepare_forward(const at::Tensor& x, const at::Tensor& bias, const Options& options,
                                bool overwrites_copy, Memory memory = Memory::separate);
// x must be dense; it is the target.
PreparedForward prepare_inplace(const at::Tensor& x, const at::Tensor& bias, const Options& options,
                                Memory memory = Memory::separate);

// What all devices do before a backward's kernels run.
struct PreparedBackward {
  Layout layout;
  Gradients gradients;   // dense, that of the output in the memory order of `layout`
  at::Tensor grad_x;     // the same order, uninitialized
  at::Tensor bias_sums;  // [units], of the dtype of statistics, uninitialized; undefined if not asked for

  // If x is empty, there is nothing to run.
  bool is_done() const { return grad_x.numel() == 0; }
  // Call once the kernels have run.
  InputGradients finish() const;
};

// Those of a forward, [2, units + points].
struct SavedExtrema {
  const at::Tensor &values, &places;
};

// Throws if a gradient is not on the device of what the forward has saved: autograd lets hooks move them from
// GPU to GPU.
void check_devices(const Gradients& gradients, const at::Tensor& saved);

PreparedBackward prepare_backward(const Gradients& gradients, const Saved& saved, const Options& options);

// Throws if the operator does not support the dtype.
Scalar scalar_of(at::ScalarType dtype);

// Counterparts of the functions in ops/layout.py.
bool is_dense(const at::Tensor& x, int64_t unit_dim);
bool runs_channels_last(const at::Tensor& x, int64_t unit_dim);
at::Tensor empty_output(const at::Tensor& x);
// On the device of another tensor, which is the current one.
at::Tensor empty_beside(const at::Tensor& other, at::IntArrayRef size, at::ScalarType dtype,
                        at::MemoryFormat format = at::MemoryFormat::Contiguous);
Layout make_layout(at::IntArrayRef size, int64_t unit_dim, bool channels_last);
at::MemoryFormat memory_format(size_t dim, bool channels_last);

// Whether the operator accepts a bias for x.
bool goes_with(const at::Tensor& bias, const at::Tensor& x, int64_t unit_dim);

// What the schemas return: ForwardResult, in place without the output; InputGradients.
using Outputs = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;
using InplaceOutputs = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor>;
using BackwardOutputs = std::tuple<at::Tensor, at::Tensor>;

// Adapt the functions of a device to the signatures of the schemas.
template <ForwardResult (*forward)(const at::Tensor&, const at::Tensor&, const Options&)>
Outputs flat_forward(const at::Tensor& x, const std::optional<at::Tensor>& bias, std::string_view activation,
                     double parameter, int64_t unit_dim, bool position_points, double margin,
                     std::string_view extrema_kind) {
  ForwardResult result =
      forward(x, bias.value_or(at::Tensor()),
              make_options(activation, parameter, unit_dim, position_points, margin, extrema_kind));
  return {std::move(result.output), std::move(result.mask), std::move(result.slack_sums),
          std::move(result.extrema), std::move(result.indices)};
}

template <ForwardResult (*forward)(const at::Tensor&, const at::Tensor&, const Options&)>
InplaceOutputs flat_inplace(at::Tensor x, const std::optional<at::Tensor>& bias, std::string_view activation,
                            double parameter, int64_t unit_dim, bool position_points, double margin,
                            std::string_view extrema_kind) {
  ForwardResult result =
      forward(x, bias.value_or(at::Tensor()),
              make_options(activation, parameter, unit_dim, position_points, margin, extrema_kind));
  return {std::move(result.mask), std::move(result.slack_sums), std::move(result.extrema),
          std::move(result.indices)};
}

template <InputGradients (*backward)(const Gradients&, const Saved&, const Options&)>
BackwardOutputs flat_backward(const std::optional<at::Tensor>& grad_output,
                              const std::optional<at::Tensor>& grad_slack_sums,
                              const std::optional<at::Tensor>& grad_extrema, const at::Tensor& mask,
                              const at::Tensor& extrema, const at::Tensor& indices, c10::SymIntArrayRef size,
                              bool channels_last, at::ScalarType dtype, bool with_grad_bias,
                              std::string_view activation, double parameter, int64_t unit_dim,
                              bool position_points, double margin, std::string_view extrema_kind) {
  const auto tensor = [](const std::optional<at::Tensor>& grad) { return grad.value_or(at::Tensor()); };
  auto [grad_x, grad_bias] =
      backward({tensor(grad_output), tensor(grad_slack_sums), tensor(grad_extrema)},
               {mask, extrema, indices, c10::SymDimVector(size.begin(), size.end()), channels_last, dtype,
                with_grad_bias},
               make_options(activation, parameter, unit_dim, position_points, margin, extrema_kind));
  return {std::move(grad_x), std::move(grad_bias)};
}

}  // namespace jumpstart
