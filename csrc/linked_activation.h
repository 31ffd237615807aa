// The operator of linked activations on the host, as jumpstart_activation.h: its arguments and results as
// named structs, the steps that all devices share, and adapters to the dispatcher. See ops/arguments.py for
// meaning and shapes.

#pragma once

#include <ATen/ATen.h>

#include <optional>
#include <string_view>
#include <tuple>
#include <utility>

#include "jumpstart_activation.h"
#include "layout.h"
#include "linked_activations.h"
#include "options.h"

namespace jumpstart {

struct LinkedOptions {
  LinkedKind kind;
  bool with_statistics;
  Options statistics;  // of statistics alone; its unit_dim counts without them too
};

// What the forward saves for its backward; x is undefined if the mask is enough, the weight if there is none.
struct LinkedSaved {
  at::Tensor x, weight, mask, extrema, indices;
  c10::SymDimVector size;  // of x
  bool channels_last;
  at::ScalarType dtype;   // of x, and of the weight
  bool with_grad_weight;  // whether there is a weight that needs a gradient
};

// Results of the backward; that of the weight is undefined unless it is asked for.
struct LinkedInputGradients {
  at::Tensor x, weight;
};

// An undefined weight stands for none.
ForwardResult linked_forward_cpu(const at::Tensor& x, const at::Tensor& weight, const LinkedOptions& options);
LinkedInputGradients linked_backward_cpu(const Gradients& gradients, const LinkedSaved& saved,
                                         const LinkedOptions& options);
ForwardResult linked_forward_autograd(const at::Tensor& x, const at::Tensor& weight,
                                      const LinkedOptions& options);

// Throws if there is no such activation, or kind of extrema.
LinkedOptions make_linked_options(std::string_view activation, int64_t unit_dim, bool position_points,
                                  double margin, std::string_view extrema_kind);

// Whether the mask is all that the backward needs of x; whether there are slopes.
bool is_from_sign(LinkedKind kind);
bool has_weight(LinkedKind kind);

// What all devices do before a forward's kernels run. The output is written in place, since it is dense.
struct PreparedLinkedForward {
  Layout layout;
  at::Tensor x;       // dense, in the memory order of `layout`
  at::Tensor slopes;  // [2, units], dense, of the dtype of statistics; undefined if there are none
  ForwardResult result;

  // If x is empty, there is nothing to run: `result` is filled in.
  bool is_done() const { return x.numel() == 0; }
};

PreparedLinkedForward prepare_linked_forward(const at::Tensor& x, const at::Tensor& weight,
                                             const LinkedOptions& options);

// What all devices do before a backward's kernels run.
struct PreparedLinkedBackward {
  PreparedBackward common;  // its bias_sums are the sums of the slopes' gradients, [2, units]
  at::Tensor x, slopes;     // as of PreparedLinkedForward; x is undefined if the mask is enough

  // Call once the kernels have run.
  LinkedInputGradients finish() const;
};

PreparedLinkedBackward prepare_linked_backward(const Gradients& gradients, const LinkedSaved& saved,
                                               const LinkedOptions& options);

template <ForwardResult (*forward)(const at::Tensor&, const at::Tensor&, const LinkedOptions&)>
Outputs flat_linked_forward(const at::Tensor& x, const std::optional<at::Tensor>& weight,
                            std::string_view activation, double, int64_t unit_dim, bool position_points,
                            double margin, std::string_view extrema_kind) {
  ForwardResult result =
      forward(x, weight.value_or(at::Tensor()),
              make_linked_options(activation, unit_dim, position_points, margin, extrema_kind));
  return {std::move(result.output), std::move(result.mask), std::move(result.slack_sums),
          std::move(result.extrema), std::move(result.indices)};
}

template <LinkedInputGradients (*backward)(const Gradients&, const LinkedSaved&, const LinkedOptions&)>
BackwardOutputs flat_linked_backward(
    const std::optional<at::Tensor>& grad_output, const std::optional<at::Tensor>& grad_slack_sums,
    const std::optional<at::Tensor>& grad_extrema, const std::optional<at::Tensor>& x,
    const std::optional<at::Tensor>& weight, const at::Tensor& mask, const at::Tensor& extrema,
    const at::Tensor& indices, c10::SymIntArrayRef size, bool channels_last, at::ScalarType dtype,
    bool with_grad_weight, std::string_view activation, double, int64_t unit_dim, bool position_points,
    double margin, std::string_view extrema_kind) {
  const auto tensor = [](const std::optional<at::Tensor>& some) { return some.value_or(at::Tensor()); };
  auto [grad_x, grad_weight] =
      backward({tensor(grad_output), tensor(grad_slack_sums), tensor(grad_extrema)},
               {tensor(x), tensor(weight), mask, extrema, indices,
                c10::SymDimVector(size.begin(), size.end()), channels_last, dtype, with_grad_weight},
               make_linked_options(activation, unit_dim, position_points, margin, extrema_kind));
  return {std::move(grad_x), std::move(grad_weight)};
}

}  // namespace jumpstart
