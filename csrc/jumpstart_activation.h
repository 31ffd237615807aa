// The operator on the host: what goes in and comes out by name, what every device does alike, and the border
// to the dispatcher, which passes all of it one by one. Meaning and shapes in ops/arguments.py.

#pragma once

#include <ATen/ATen.h>

#include <optional>
#include <string_view>
#include <tuple>
#include <utility>

#include "layout.h"
#include "options.h"
#include "saved.h"

namespace jumpstart {

// What a forward gives.
struct ForwardResult {
  at::Tensor output, mask, slack_sums, extrema, indices;
};

// Of a forward's differentiable results; undefined for those that are not in the loss.
struct Gradients {
  at::Tensor output, slack_sums, extrema;

  bool any() const { return output.defined() || slack_sums.defined() || extrema.defined(); }
};

ForwardResult forward_cpu(const at::Tensor& x, const Options& options);
// Overwrites a dense x, which is the output. No autograd.
ForwardResult forward_inplace_cpu(const at::Tensor& x, const Options& options);
at::Tensor backward_cpu(const Gradients& gradients, const Saved& saved, const Options& options);

// Raises for an activation that is not known.
Options make_options(std::string_view activation, double parameter, int64_t unit_dim, bool position_points,
                     double margin, bool all_indices);

// A forward of any device, up to its kernels.
struct PreparedForward {
  Layout layout;
  at::Tensor x;       // dense, in the order of `layout`
  at::Tensor target;  // likewise: where the kernels write the output; undefined if there is none
  ForwardResult result;

  // Of an empty x all is filled in.
  bool is_done() const { return x.numel() == 0; }
  // The result, once the kernels have run.
  ForwardResult finish();
};

// Where the kernels do not know the order of F.relu's strides, they run a dense copy of x; and write over it,
// if they can.
PreparedForward prepare_forward(const at::Tensor& x, const Options& options, bool overwrites_copy);
// For a dense x, which is the target.
PreparedForward prepare_inplace(const at::Tensor& x, const Options& options);

// A backward of any device, up to its kernels.
struct PreparedBackward {
  Layout layout;
  Gradients gradients;  // dense, that of the output in the order of `layout`
  at::Tensor grad_x;    // likewise, to be written

  bool is_done() const { return grad_x.numel() == 0; }
};

PreparedBackward prepare_backward(const Gradients& gradients, const Saved& saved, const Options& options);

// Raises for a dtype that the operator does not take.
Scalar scalar_of(at::ScalarType dtype);

// The twins of ops/layout.py.
bool is_dense(const at::Tensor& x, int64_t unit_dim);
bool runs_channels_last(const at::Tensor& x, int64_t unit_dim);
at::Tensor empty_output(const at::Tensor& x);
Layout make_layout(at::IntArrayRef size, int64_t unit_dim, bool channels_last);
at::MemoryFormat memory_format(size_t dim, bool channels_last);

// The results of the schemas: ForwardResult, and in place the same less the output.
using Outputs = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;
using InplaceOutputs = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

// The functions above as the dispatcher calls them.
template <ForwardResult (*forward)(const at::Tensor&, const Options&)>
Outputs flat_forward(const at::Tensor& x, std::string_view activation, double parameter, int64_t unit_dim,
                     bool position_points, double margin, bool all_indices) {
  ForwardResult result =
      forward(x, make_options(activation, parameter, unit_dim, position_points, margin, all_indices));
  return {std::move(result.output), std::move(result.mask), std::move(result.slack_sums),
          std::move(result.extrema), std::move(result.indices)};
}

template <ForwardResult (*forward)(const at::Tensor&, const Options&)>
InplaceOutputs flat_inplace(at::Tensor x, std::string_view activation, double parameter, int64_t unit_dim,
                            bool position_points, double margin, bool all_indices) {
  ForwardResult result =
      forward(x, make_options(activation, parameter, unit_dim, position_points, margin, all_indices));
  return {std::move(result.mask), std::move(result.slack_sums), std::move(result.extrema),
          std::move(result.indices)};
}

template <at::Tensor (*backward)(const Gradients&, const Saved&, const Options&)>
at::Tensor flat_backward(const std::optional<at::Tensor>& grad_output,
                         const std::optional<at::Tensor>& grad_slack_sums,
                         const std::optional<at::Tensor>& grad_extrema, const at::Tensor& mask,
                         const at::Tensor& extrema, const at::Tensor& indices, c10::SymIntArrayRef size,
                         bool channels_last, at::ScalarType dtype, std::string_view activation,
                         double parameter, int64_t unit_dim, bool position_points, double margin,
                         bool all_indices) {
  const auto tensor = [](const std::optional<at::Tensor>& grad) { return grad.value_or(at::Tensor()); };
  return backward({tensor(grad_output), tensor(grad_slack_sums), tensor(grad_extrema)},
                  {mask, extrema, indices, c10::SymDimVector(size.begin(), size.end()), channels_last, dtype},
                  make_options(activation, parameter, unit_dim, position_points, margin, all_indices));
}

}  // namespace jumpstart
