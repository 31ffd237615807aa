// The operator's kernels by device, as the dispatcher calls them; meaning and shapes in kernels/reference.py.

#pragma once

#include <ATen/ATen.h>

#include <optional>
#include <tuple>

#include "layout.h"

namespace jumpstart {

// Output, mask, slack sums, extrema and indices.
using Outputs = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;
// The same less the output.
using InplaceOutputs = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

Outputs forward_cpu(const at::Tensor& x, int64_t unit_dim, bool position_points, double margin,
                    bool apply_relu, bool all_indices);

// Overwrites a dense x. No autograd.
InplaceOutputs forward_inplace_cpu(at::Tensor x, int64_t unit_dim, bool position_points, double margin);

at::Tensor backward_cpu(const std::optional<at::Tensor>& grad_output,
                        const std::optional<at::Tensor>& grad_slack_sums,
                        const std::optional<at::Tensor>& grad_extrema, const at::Tensor& mask,
                        const at::Tensor& extrema, const at::Tensor& indices, at::IntArrayRef size,
                        bool channels_last, at::ScalarType dtype, int64_t unit_dim, double margin);

// What every device's forward starts with. Raises for a dtype that the operator does not take.
Scalar scalar_of(at::ScalarType dtype);
at::Tensor allocate_mask(const at::Tensor& x, const Layout& layout);
// Without a mask, an empty one. Of an empty x all is filled in: there is nothing to run.
InplaceOutputs allocate_outputs(const at::Tensor& x, const Layout& layout, bool position_points,
                                bool with_mask);

// The twins of kernels/layout.py.
bool is_dense(const at::Tensor& x, int64_t unit_dim);
bool runs_channels_last(const at::Tensor& x, int64_t unit_dim);
at::Tensor empty_output(const at::Tensor& x);
Layout make_layout(at::IntArrayRef size, int64_t unit_dim, bool channels_last);
at::MemoryFormat memory_format(size_t dim, bool channels_last);

}  // namespace jumpstart
