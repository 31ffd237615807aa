// The autograd of the linked activations in C++: the counterpart of what ops/linked_activation.py registers
// for the other backends.

#include <torch/csrc/autograd/custom_function.h>

#include "dispatcher.h"
#include "linked_activation.h"

namespace jumpstart {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

std::string_view extrema_kind(const LinkedOptions& options) {
  return options.with_statistics ? kExtremaNames[options.statistics.extrema_kind] : "none";
}

ForwardResult call_forward(const Tensor& x, const Tensor& weight, const LinkedOptions& o) {
  static const auto op = native_overload("linked_activation", flat_linked_forward<linked_forward_cpu>);
  auto [output, mask, slack_sums, extrema, indices] =
      op.call(x, optional(weight), kLinkedNames[o.kind], 0, o.statistics.unit_dim,
              o.statistics.position_points, o.statistics.margin, extrema_kind(o));
  return {std::move(output), std::move(mask), std::move(slack_sums), std::move(extrema), std::move(indices)};
}

LinkedInputGradients run_backward(const Gradients& gradients, const LinkedSaved& saved,
                                  const LinkedOptions& o) {
  static const auto op =
      native_overload("linked_activation_backward", flat_linked_backward<linked_backward_cpu>);
  const auto run = [&]() -> LinkedInputGradients {
    auto [grad_x, grad_weight] =
        op.call(optional(gradients.output), optional(gradients.slack_sums), optional(gradients.extrema),
                optional(saved.x), optional(saved.weight), saved.mask, saved.extrema, saved.indices,
                saved.size, saved.channels_last, saved.dtype, saved.with_grad_weight, kLinkedNames[o.kind], 0,
                o.statistics.unit_dim, o.statistics.position_points, o.statistics.margin, extrema_kind(o));
    return {std::move(grad_x), std::move(grad_weight)};
  };
  if (at::GradMode::is_enabled()) return run();
  at::AutoDispatchBelowADInplaceOrView below;
  return run();
}

struct LinkedActivation : torch::autograd::Function<LinkedActivation> {
  static variable_list forward(AutogradContext* ctx, const Tensor& x,
                               const std::optional<Tensor>& with_weight, const LinkedOptions& options) {
    const Tensor weight = with_weight.value_or(Tensor());
    at::AutoDispatchBelowADInplaceOrView below;
    const ForwardResult result = call_forward(x, weight, options);
    ctx->set_materialize_grads(false);
    variable_list without_gradient{result.mask, result.indices};
    if (!options.with_statistics) {
      without_gradient.push_back(result.slack_sums);
      without_gradient.push_back(result.extrema);
    }
    ctx->mark_non_differentiable(without_gradient);
    ctx->save_for_backward(
        {is_from_sign(options.kind) ? Tensor() : x, weight, result.mask, result.extrema, result.indices});
    auto& data = ctx->saved_data;
    data["size"] = x.sym_sizes();
    data["channels_last"] = runs_channels_last(x, options.statistics.unit_dim);
    data["dtype"] = static_cast<int64_t>(x.scalar_type());
    data["with_grad_weight"] = weight.defined() && weight.requires_grad();
    data["kind"] = static_cast<int64_t>(options.kind);
    data["with_statistics"] = options.with_statistics;
    data["unit_dim"] = options.statistics.unit_dim;
    data["position_points"] = options.statistics.position_points;
    data["margin"] = options.statistics.margin;
    data["extrema_kind"] = static_cast<int64_t>(options.statistics.extrema_kind);
    return {result.output, result.mask, result.slack_sums, result.extrema, result.indices};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const Gradients gradients{grads[0], grads[2], grads[3]};
    if (!gradients.any()) return variable_list(3);
    const auto tensors = ctx->get_saved_variables();
    auto& data = ctx->saved_data;
    const auto size = data["size"].toSymIntVector();
    const LinkedSaved saved{tensors[0],
                            tensors[1],
                            tensors[2],
                            tensors[3],
                            tensors[4],
                            c10::SymDimVector(size.begin(), size.end()),
                            data["channels_last"].toBool(),
                            static_cast<at::ScalarType>(data["dtype"].toInt()),
                            data["with_grad_weight"].toBool()};
    const LinkedOptions options{
        static_cast<LinkedKind>(data["kind"].toInt()),
        data["with_statistics"].toBool(),
        {kStatisticsAlone, 0, data["unit_dim"].toInt(), data["position_points"].toBool(),
         data["margin"].toDouble(), static_cast<ExtremaKind>(data["extrema_kind"].toInt())}};
    auto [grad_x, grad_weight] = run_backward(gradients, saved, options);
    return {std::move(grad_x), std::move(grad_weight), Tensor()};
  }
};

}  // namespace

ForwardResult linked_forward_autograd(const Tensor& x, const Tensor& weight, const LinkedOptions& options) {
  auto outputs = LinkedActivation::apply(x, optional(weight), options);
  return {outputs[0], outputs[1], outputs[2], outputs[3], outputs[4]};
}

}  // namespace jumpstart
