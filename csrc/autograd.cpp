// The operator's autograd in C++: the counterpart of what ops/jumpstart_activation.py registers for the other
// backends.

#include "autograd.h"

#include <torch/csrc/autograd/custom_function.h>

#include "dispatcher.h"

namespace jumpstart {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

void keep(AutogradContext* ctx, const Saved& saved, const Options& options) {
  ctx->save_for_backward({saved.mask, saved.extrema, saved.indices});
  auto& data = ctx->saved_data;
  data["size"] = c10::SymIntArrayRef(saved.size);
  data["channels_last"] = saved.channels_last;
  data["dtype"] = static_cast<int64_t>(saved.dtype);
  data["with_grad_bias"] = saved.with_grad_bias;
  data["activation"] = static_cast<int64_t>(options.activation);
  data["parameter"] = options.parameter;
  data["unit_dim"] = options.unit_dim;
  data["position_points"] = options.position_points;
  data["margin"] = options.margin;
  data["extrema_kind"] = static_cast<int64_t>(options.extrema_kind);
}

Saved kept(AutogradContext* ctx) {
  const auto tensors = ctx->get_saved_variables();
  const auto size = ctx->saved_data["size"].toSymIntVector();
  return {tensors[0],
          tensors[1],
          tensors[2],
          c10::SymDimVector(size.begin(), size.end()),
          ctx->saved_data["channels_last"].toBool(),
          static_cast<at::ScalarType>(ctx->saved_data["dtype"].toInt()),
          ctx->saved_data["with_grad_bias"].toBool()};
}

Options kept_options(AutogradContext* ctx) {
  auto& data = ctx->saved_data;
  return {static_cast<ActivationKind>(data["activation"].toInt()),
          data["parameter"].toDouble(),
          data["unit_dim"].toInt(),
          data["position_points"].toBool(),
          data["margin"].toDouble(),
          static_cast<ExtremaKind>(data["extrema_kind"].toInt())};
}

struct JumpstartActivation : torch::autograd::Function<JumpstartActivation> {
  static variable_list forward(AutogradContext* ctx, const Tensor& x, const std::optional<Tensor>& with_bias,
                               const Options& options) {
    const Tensor bias = with_bias.value_or(Tensor());
    at::AutoDispatchBelowADInplaceOrView below;
    const ForwardResult result = call_forward(x, bias, options);
    ctx->set_materialize_grads(false);
    variable_list without_gradient{result.mask, result.indices};
    if (options.activation == kStatisticsAlone) without_gradient.push_back(result.output);
    ctx->mark_non_differentiable(without_gradient);
    keep(ctx, save_for_backward(x, bias, result, options), options);
    return {result.output, result.mask, result.slack_sums, result.extrema, result.indices};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const Gradients gradients{grads[0], grads[2], grads[3]};
    if (!gradients.any()) return variable_list(3);
    auto [grad_x, grad_bias] = run_backward(gradients, kept(ctx), kept_options(ctx));
    return {std::move(grad_x), std::move(grad_bias), Tensor()};
  }
};

}  // namespace

ForwardResult forward_autograd(const Tensor& x, const Tensor& bias, const Options& options) {
  auto outputs = JumpstartActivation::apply(x, optional(bias), options);
  return {outputs[0], outputs[1], outputs[2], outputs[3], outputs[4]};
}

ForwardResult call_forward(const Tensor& x, const Tensor& bias, const Options& o) {
  static const auto op = native_overload("jumpstart_activation", flat_forward<forward_cpu>);
  auto [output, mask, slack_sums, extrema, indices] =
      op.call(x, optional(bias), kActivationNames[o.activation], o.parameter, o.unit_dim, o.position_points,
              o.margin, kExtremaNames[o.extrema_kind]);
  return {std::move(output), std::move(mask), std::move(slack_sums), std::move(extrema), std::move(indices)};
}

ForwardResult call_inplace(const Tensor& x, const Tensor& bias, const Options& o) {
  static const auto op = native_overload("jumpstart_activation_", flat_inplace<forward_inplace_cpu>);
  auto [mask, slack_sums, extrema, indices] =
      op.call(x, optional(bias), kActivationNames[o.activation], o.parameter, o.unit_dim, o.position_points,
              o.margin, kExtremaNames[o.extrema_kind]);
  return {x, std::move(mask), std::move(slack_sums), std::move(extrema), std::move(indices)};
}

Saved save_for_backward(const Tensor& x, const Tensor& bias, const ForwardResult& result,
                        const Options& options) {
  const auto size = x.sym_sizes();
  return {result.mask,
          result.extrema,
          result.indices,
          c10::SymDimVector(size.begin(), size.end()),
          runs_channels_last(x, options.unit_dim),
          x.scalar_type(),
          bias.defined() && bias.requires_grad()};
}

InputGradients run_backward(const Gradients& gradients, const Saved& saved, const Options& o) {
  static const auto op = native_overload("jumpstart_activation_backward", flat_backward<backward_cpu>);
  const auto run = [&]() -> InputGradients {
    auto [grad_x, grad_bias] =
        op.call(optional(gradients.output), optional(gradients.slack_sums), optional(gradients.extrema),
                saved.mask, saved.extrema, saved.indices, saved.size, saved.channels_last, saved.dtype,
                saved.with_grad_bias, kActivationNames[o.activation], o.parameter, o.unit_dim,
                o.position_points, o.margin, kExtremaNames[o.extrema_kind]);
    return {std::move(grad_x), std::move(grad_bias)};
  };
  if (at::GradMode::is_enabled()) return run();
  at::AutoDispatchBelowADInplaceOrView below;
  return run();
}

}  // namespace jumpstart
