#include "eager.h"

#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include "autograd.h"
#include "penalty.h"

namespace jumpstart {
namespace {

using at::Tensor;
using torch::autograd::SavedVariable;
using torch::autograd::variable_list;

using NodePointer =
    decltype(torch::autograd::Edge::function);  // an intrusive_ptr in newer versions of PyTorch

// Pointer is a template parameter so that if constexpr discards the branch for the other version of PyTorch.
template <typename T, typename Pointer = NodePointer>
Pointer own(T* node) {
  if constexpr (std::is_same_v<Pointer, std::shared_ptr<torch::autograd::Node>>) {
    return Pointer(node, [](T* owned) { deleteNode(owned); });  // no recursion
  } else {
    return Pointer::unsafe_steal_from_new(node);
  }
}

// The node of autograd.cpp, for output, slack sums and extrema. The extrema are an output because the second
// derivative goes through them.
struct JumpstartActivationBackward : torch::autograd::Node {
  SavedAs<SavedVariable> saved;
  Options options;

  variable_list apply(variable_list&& grads) override {
    const Gradients gradients{std::move(grads[0]), std::move(grads[1]), std::move(grads[2])};
    if (!gradients.any()) return {Tensor()};
    return {run_backward(gradients,
                         {saved.mask.unpack(), saved.extrema.unpack(getptr()), saved.indices.unpack(),
                          saved.size, saved.channels_last, saved.dtype},
                         options)};
  }

  void release_variables() override {
    saved.mask.reset_data();
    saved.extrema.reset_data();
    saved.indices.reset_data();
  }

  std::string name() const override { return "JumpstartActivationBackward"; }
};

// The node of penalty.cpp.
struct PenaltyBackward : torch::autograd::Node {
  std::optional<SavedVariable> value;  // if it is a square root
  std::vector<double> weights;

  variable_list apply(variable_list&& grads) override {
    return run_penalty_backward(grads[0],
                                value ? std::optional<Tensor>(value->unpack(getptr())) : std::nullopt,
                                weights, num_outputs());
  }

  void release_variables() override {
    if (value) value->reset_data();
  }

  std::string name() const override { return "PenaltyBackward"; }
};

ForwardResult forward(const Tensor& x, const Options& options, bool inplace) {
  ForwardResult result = [&] {
    at::AutoDispatchBelowADInplaceOrView below;
    return inplace ? call_inplace(x, options) : call_forward(x, options);
  }();
  if (inplace) torch::autograd::impl::bump_version(x);
  if (!at::GradMode::is_enabled() || !x.requires_grad()) return result;
  auto* node = new JumpstartActivationBackward();
  const NodePointer owner = own(node);
  node->set_next_edges(torch::autograd::collect_next_edges(x));
  node->options = options;
  const Saved saved = save_for_backward(x, result, options);
  const torch::autograd::Edge edge{owner, node->add_input_metadata(result.output)};
  if (inplace) {
    torch::autograd::impl::rebase_history(result.output, edge);
  } else {
    torch::autograd::impl::set_gradient_edge(result.output, edge);
  }
  for (const Tensor* statistic : {&result.slack_sums, &result.extrema}) {
    torch::autograd::impl::set_gradient_edge(*statistic, {owner, node->add_input_metadata(*statistic)});
  }
  node->saved = {SavedVariable(saved.mask, false),
                 SavedVariable(saved.extrema, true),
                 SavedVariable(saved.indices, false),
                 saved.size,
                 saved.channels_last,
                 saved.dtype};
  return result;
}

// Whether only autograd comes between the call and the kernel: no mode, tracer, transform or subclass.
bool is_plain(const Tensor& x) {
  const auto local = c10::impl::tls_local_dispatch_key_set();
  const auto keys = (x.key_set() | local.included_) - local.excluded_ - c10::autocast_dispatch_keyset;
  const auto first = keys.highestPriorityTypeId();
  return (first == c10::DispatchKey::AutogradCPU || first == c10::DispatchKey::AutogradCUDA) &&
         !x._fw_grad(0).defined();
}

// Tensors of fewer than two dimensions have no units: the module handles them.
bool is_supported(const Tensor& x, int64_t unit_dim, bool position_points) {
  const auto dtype = x.scalar_type();
  return x.layout() == at::kStrided && x.dim() > 1 &&
         (dtype == at::kFloat || dtype == at::kBFloat16 || dtype == at::kHalf || dtype == at::kDouble) &&
         unit_dim < x.dim() && (unit_dim > 0 || (unit_dim == 0 && position_points));
}

// Excludes views and leaves, which need more care with autograd, and lazily negated values.
bool can_overwrite(const Tensor& x, int64_t unit_dim) {
  return is_dense(x, unit_dim) && !x.is_view() && !x.is_inference() && !x.is_neg() &&
         !(x.is_leaf() && x.requires_grad());
}

Tensor penalty(const std::vector<Tensor>& slack_sums, const std::vector<double>& weights, bool square_root) {
  Tensor value = [&] {
    at::AutoDispatchBelowADInplaceOrView below;
    return call_penalty(slack_sums, weights, square_root);
  }();
  const auto differentiable = [](const Tensor& sums) { return sums.requires_grad(); };
  if (at::GradMode::is_enabled() && std::any_of(slack_sums.begin(), slack_sums.end(), differentiable)) {
    auto* node = new PenaltyBackward();
    const NodePointer owner = own(node);
    node->set_next_edges(torch::autograd::collect_next_edges(slack_sums));
    torch::autograd::impl::set_gradient_edge(value, {owner, node->add_input_metadata(value)});
    node->weights = weights;
    if (square_root) node->value = SavedVariable(value, true);
  }
  return value;
}

}  // namespace

pybind11::object jumpstart_activation_eager(pybind11::handle object, std::string_view activation,
                                            double parameter, int64_t unit_dim, bool position_points,
                                            double margin, bool inplace, std::string_view extrema_kind) {
  if (!THPVariable_CheckExact(object.ptr())) return pybind11::none();
  const Tensor& x = THPVariable_Unpack(object.ptr());
  if (unit_dim < 0) unit_dim += x.dim();
  if (!is_plain(x) || !is_supported(x, unit_dim, position_points)) return pybind11::none();
  if (inplace && !can_overwrite(x, unit_dim)) return pybind11::none();
  const Options options =
      make_options(activation, parameter, unit_dim, position_points, margin, extrema_kind);
  if (options.activation == kStatisticsAlone) return pybind11::none();
  ForwardResult result;
  {
    pybind11::gil_scoped_release release;
    result = forward(x, options, inplace);
  }
  const int64_t units = x.size(unit_dim), points = result.extrema.size(1) - units;
  const auto wrap = [](Tensor& tensor) {
    return pybind11::reinterpret_steal<pybind11::object>(THPVariable_Wrap(std::move(tensor)));
  };
  return pybind11::make_tuple(
      inplace ? pybind11::reinterpret_borrow<pybind11::object>(object) : wrap(result.output),
      wrap(result.slack_sums), wrap(result.extrema), units, x.numel() ? points : 0);
}

pybind11::object penalty_eager(const pybind11::list& list, const std::vector<double>& weights,
                               bool square_root) {
  std::vector<Tensor> slack_sums;
  slack_sums.reserve(list.size());
  for (const auto& item : list) {
    if (!THPVariable_CheckExact(item.ptr())) return pybind11::none();
    slack_sums.push_back(THPVariable_Unpack(item.ptr()));
    if (!is_plain(slack_sums.back())) return pybind11::none();
  }
  Tensor value;
  {
    pybind11::gil_scoped_release release;
    value = penalty(slack_sums, weights, square_root);
  }
  return pybind11::reinterpret_steal<pybind11::object>(THPVariable_Wrap(value));
}

}  // namespace jumpstart
