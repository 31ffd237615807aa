// The autograd node in C++: the twin of what ops/jumpstart_relu.py registers for the other backends.

#include "autograd.h"

#include <torch/csrc/autograd/custom_function.h>

namespace jumpstart {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

using BackwardSchema = Tensor(const std::optional<Tensor>&, const std::optional<Tensor>&,
                              const std::optional<Tensor>&, const Tensor&, const Tensor&, const Tensor&,
                              c10::SymIntArrayRef, bool, at::ScalarType, int64_t, double);

const auto& backward_op() {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("jumpstart_kernels::jumpstart_relu_backward", "native")
                             .typed<BackwardSchema>();
  return op;
}

std::optional<Tensor> optional(const Tensor& tensor) {
  return tensor.defined() ? std::optional<Tensor>(tensor) : std::nullopt;
}

struct JumpstartReLU : torch::autograd::Function<JumpstartReLU> {
  static variable_list forward(AutogradContext* ctx, const Tensor& x, int64_t unit_dim, bool position_points,
                               double margin, bool apply_relu, bool all_indices) {
    at::AutoDispatchBelowADInplaceOrView below;
    auto [output, mask, slack_sums, extrema, indices] =
        forward_op().call(x, unit_dim, position_points, margin, apply_relu, all_indices);
    ctx->set_materialize_grads(false);
    ctx->mark_non_differentiable(apply_relu ? variable_list{mask, indices}
                                            : variable_list{output, mask, indices});
    ctx->save_for_backward({mask, extrema, indices});
    ctx->saved_data["size"] = x.sym_sizes();
    ctx->saved_data["channels_last"] = runs_channels_last(x, unit_dim);
    ctx->saved_data["dtype"] = static_cast<int64_t>(x.scalar_type());
    ctx->saved_data["unit_dim"] = unit_dim;
    ctx->saved_data["margin"] = margin;
    return {output, mask, slack_sums, extrema, indices};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const Tensor &grad_output = grads[0], &grad_slack_sums = grads[2], &grad_extrema = grads[3];
    variable_list result(6);
    if (!grad_output.defined() && !grad_slack_sums.defined() && !grad_extrema.defined()) return result;
    const auto saved = ctx->get_saved_variables();
    const auto size = ctx->saved_data["size"].toSymIntVector();
    result[0] = run_backward(grad_output, grad_slack_sums, grad_extrema, saved[0], saved[1], saved[2], size,
                             ctx->saved_data["channels_last"].toBool(),
                             static_cast<at::ScalarType>(ctx->saved_data["dtype"].toInt()),
                             ctx->saved_data["unit_dim"].toInt(), ctx->saved_data["margin"].toDouble());
    return result;
  }
};

}  // namespace

const c10::TypedOperatorHandle<ForwardSchema>& forward_op() {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("jumpstart_kernels::jumpstart_relu", "native")
                             .typed<ForwardSchema>();
  return op;
}

Tensor run_backward(const Tensor& grad_output, const Tensor& grad_slack_sums, const Tensor& grad_extrema,
                    const Tensor& mask, const Tensor& extrema, const Tensor& indices,
                    c10::SymIntArrayRef size, bool channels_last, at::ScalarType dtype, int64_t unit_dim,
                    double margin) {
  const auto run = [&] {
    return backward_op().call(optional(grad_output), optional(grad_slack_sums), optional(grad_extrema), mask,
                              extrema, indices, size, channels_last, dtype, unit_dim, margin);
  };
  if (at::GradMode::is_enabled()) return run();
  at::AutoDispatchBelowADInplaceOrView below;
  return run();
}

Outputs forward_autograd(const Tensor& x, int64_t unit_dim, bool position_points, double margin,
                         bool apply_relu, bool all_indices) {
  auto outputs = JumpstartReLU::apply(x, unit_dim, position_points, margin, apply_relu, all_indices);
  return {outputs[0], outputs[1], outputs[2], outputs[3], outputs[4]};
}

}  // namespace jumpstart
