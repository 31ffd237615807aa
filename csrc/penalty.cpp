#include "penalty.h"

#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

#include "blocks.h"
#include "dispatcher.h"
#include "slack.h"

namespace jumpstart {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct Penalty : torch::autograd::Function<Penalty> {
  static Tensor forward(AutogradContext* ctx, at::TensorList slack_sums, const std::vector<double>& weights,
                        bool square_root) {
    at::AutoDispatchBelowADInplaceOrView below;
    Tensor value = call_penalty(slack_sums, weights, square_root);
    ctx->set_materialize_grads(false);
    if (square_root) ctx->save_for_backward({value});
    ctx->saved_data["layers"] = static_cast<int64_t>(slack_sums.size());
    ctx->saved_data["weights"] = weights;
    return value;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const auto value = saved.empty() ? std::nullopt : std::optional<Tensor>(saved[0]);
    variable_list result(static_cast<size_t>(ctx->saved_data["layers"].toInt()));
    if (grads[0].defined()) {
      const Tensor gradient =
          run_penalty_backward(grads[0], value, ctx->saved_data["weights"].toDoubleVector());
      std::fill(result.begin(), result.end(), gradient);  // the same for every layer
    }
    result.resize(result.size() + 2);  // none for weights and square_root
    return result;
  }
};

template <typename stat_t>
double weigh(const Tensor& slack_sums, at::ArrayRef<double> weights) {
  const Tensor dense = slack_sums.contiguous();
  const auto* sums = dense.const_data_ptr<stat_t>();
  double value = 0;
  for (int64_t i = 0; i < kLayerSums; ++i) {
    // A sum of weight 0 does not count, even if it is not finite.
    if (weights[static_cast<size_t>(i)] != 0) value += weights[static_cast<size_t>(i)] * sums[i];
  }
  return value;
}

}  // namespace

Tensor call_penalty(at::TensorList slack_sums, at::ArrayRef<double> weights, bool square_root) {
  static const auto op = native_overload("penalty", penalty_cpu);
  return op.call(slack_sums, weights, square_root);
}

Tensor run_penalty_backward(const Tensor& grad, const std::optional<Tensor>& value,
                            at::ArrayRef<double> weights) {
  static const auto op = native_overload("penalty_backward", penalty_backward_cpu);
  if (at::GradMode::is_enabled()) return op.call(grad, value, weights);
  at::AutoDispatchBelowADInplaceOrView below;
  return op.call(grad, value, weights);
}

void check_penalty(at::TensorList slack_sums, at::ArrayRef<double> weights) {
  TORCH_CHECK_VALUE(!slack_sums.empty(), "slack_sums must hold a layer's, got none");
  TORCH_CHECK_VALUE(weights.size() == kLayerSums, "weights must be ", kLayerSums, " numbers, got ",
                    weights.size());
  const Tensor& first = slack_sums[0];
  for (const Tensor& sums : slack_sums) {
    TORCH_CHECK_VALUE(sums.numel() == kLayerSums && sums.scalar_type() == first.scalar_type() &&
                          sums.device() == first.device(),
                      "slack_sums must be of shape [2, ", kSlackSums, "], one dtype and one device, got ",
                      sums.sizes(), " of ", sums.scalar_type(), " on ", sums.device());
  }
}

Tensor penalty_cpu(at::TensorList slack_sums, at::ArrayRef<double> weights, bool square_root) {
  check_penalty(slack_sums, weights);
  double value = 0;
  for (const Tensor& sums : slack_sums) {
    value += sums.scalar_type() == at::kDouble ? weigh<double>(sums, weights) : weigh<float>(sums, weights);
  }
  value = square_root ? std::sqrt(value) : value;
  Tensor result = empty_block({}, slack_sums[0].scalar_type());
  if (result.scalar_type() == at::kDouble) {
    *result.mutable_data_ptr<double>() = value;
  } else {
    *result.mutable_data_ptr<float>() = static_cast<float>(value);
  }
  return result;
}

Tensor penalty_backward_cpu(const Tensor& grad, const std::optional<Tensor>& value,
                            at::ArrayRef<double> weights) {
  const double factor =
      penalty_factor(grad.item<double>(), value.has_value(), value.has_value() ? value->item<double>() : 0);
  Tensor by_sum = empty_block({2, kSlackSums}, grad.scalar_type());
  const auto fill = [&](auto* to) {
    using stat_t = std::remove_pointer_t<decltype(to)>;
    for (const double weight : weights) *to++ = static_cast<stat_t>(factor * weight);
  };
  if (grad.scalar_type() == at::kDouble) {
    fill(by_sum.mutable_data_ptr<double>());
  } else {
    fill(by_sum.mutable_data_ptr<float>());
  }
  return by_sum;
}

Tensor penalty_autograd(at::TensorList slack_sums, at::ArrayRef<double> weights, bool square_root) {
  return Penalty::apply(slack_sums, weights.vec(), square_root);
}

}  // namespace jumpstart
