#include "eager.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <tuple>
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

using NodePointer = decltype(torch::autograd::Edge::function);  // intrusive in newer versions of PyTorch

// Pointer is a template parameter for if constexpr to leave out the version of the other PyTorch.
template <typename T, typename Pointer = NodePointer>
Pointer own(T* node) {
  if constexpr (std::is_same_v<Pointer, std::shared_ptr<torch::autograd::Node>>) {
    return Pointer(node, [](T* owned) { deleteNode(owned); });  // no recursion
  } else {
    return Pointer::unsafe_steal_from_new(node);
  }
}

// What autograd.cpp's node does, for output, slack sums and extrema. The last are an output, though nobody
// takes their gradient: the second derivative goes through them.
struct JumpstartReLUBackward : torch::autograd::Node {
  SavedVariable mask, extrema, indices;
  c10::DimVector size;
  bool channels_last;
  at::ScalarType dtype;
  int64_t unit_dim;
  double margin;

  variable_list apply(variable_list&& grads) override {
    const Tensor &grad_output = grads[0], &grad_slack_sums = grads[1], &grad_extrema = grads[2];
    if (!grad_output.defined() && !grad_slack_sums.defined() && !grad_extrema.defined()) return {Tensor()};
    const Tensor saved_mask = mask.unpack(), saved_extrema = extrema.unpack(getptr()),
                 saved_indices = indices.unpack();
    return {run_backward(grad_output, grad_slack_sums, grad_extrema, saved_mask, saved_extrema, saved_indices,
                         c10::fromIntArrayRefSlow(size), channels_last, dtype, unit_dim, margin)};
  }

  void release_variables() override {
    mask.reset_data();
    extrema.reset_data();
    indices.reset_data();
  }

  std::string name() const override { return "JumpstartReLUBackward"; }
};

// Likewise what penalty.cpp's node does.
struct PenaltyBackward : torch::autograd::Node {
  SavedVariable value;  // if it is a square root
  bool square_root;
  std::vector<double> weights;

  variable_list apply(variable_list&& grads) override {
    variable_list result(num_outputs());
    if (!grads[0].defined()) return result;
    const Tensor by_sum = run_penalty_backward(
        grads[0], square_root ? std::optional<Tensor>(value.unpack(getptr())) : std::nullopt, weights);
    std::fill(result.begin(), result.end(), by_sum);
    return result;
  }

  void release_variables() override { value.reset_data(); }

  std::string name() const override { return "PenaltyBackward"; }
};

const auto& inplace_op() {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("jumpstart_kernels::jumpstart_relu_", "native")
                             .typed<InplaceOutputs(Tensor, int64_t, bool, double)>();
  return op;
}

Outputs run_forward(const Tensor& x, int64_t unit_dim, bool position_points, double margin, bool inplace) {
  at::AutoDispatchBelowADInplaceOrView below;
  if (!inplace) return forward_op().call(x, unit_dim, position_points, margin, true, false);
  return std::tuple_cat(std::tuple<Tensor>(x), inplace_op().call(x, unit_dim, position_points, margin));
}

// Output, slack sums and extrema.
std::tuple<Tensor, Tensor, Tensor> forward(const Tensor& x, int64_t unit_dim, bool position_points,
                                           double margin, bool inplace) {
  auto [output, mask, slack_sums, extrema, indices] =
      run_forward(x, unit_dim, position_points, margin, inplace);
  if (inplace) torch::autograd::impl::bump_version(x);
  if (at::GradMode::is_enabled() && x.requires_grad()) {
    auto* node = new JumpstartReLUBackward();
    const NodePointer owner = own(node);
    node->set_next_edges(torch::autograd::collect_next_edges(x));
    node->size = x.sizes();
    node->channels_last = runs_channels_last(x, unit_dim);
    node->dtype = x.scalar_type();
    node->unit_dim = unit_dim;
    node->margin = margin;
    const torch::autograd::Edge edge{owner, node->add_input_metadata(output)};
    if (inplace) {
      torch::autograd::impl::rebase_history(output, edge);
    } else {
      torch::autograd::impl::set_gradient_edge(output, edge);
    }
    for (const Tensor* statistic : {&slack_sums, &extrema}) {
      torch::autograd::impl::set_gradient_edge(*statistic, {owner, node->add_input_metadata(*statistic)});
    }
    node->mask = SavedVariable(mask, false);
    node->extrema = SavedVariable(extrema, true);
    node->indices = SavedVariable(indices, false);
  }
  return {output, slack_sums, extrema};
}

// Whether autograd is all that stands between a call and the kernel: no mode, tracing, transform or subclass.
bool is_plain(const Tensor& x) {
  const auto local = c10::impl::tls_local_dispatch_key_set();
  const auto keys = (x.key_set() | local.included_) - local.excluded_ - c10::autocast_dispatch_keyset;
  const auto first = keys.highestPriorityTypeId();
  return (first == c10::DispatchKey::AutogradCPU || first == c10::DispatchKey::AutogradCUDA) &&
         !x._fw_grad(0).defined();
}

// A tensor of one dimension has no units: a module passes it on as it is.
bool is_supported(const Tensor& x, int64_t unit_dim, bool position_points) {
  const auto dtype = x.scalar_type();
  return x.layout() == at::kStrided && x.dim() > 1 &&
         (dtype == at::kFloat || dtype == at::kBFloat16 || dtype == at::kHalf || dtype == at::kDouble) &&
         unit_dim < x.dim() && (unit_dim > 0 || (unit_dim == 0 && position_points));
}

// Neither a view nor a leaf, which autograd wants handled with more care than here, nor values whose sign is
// still to be turned.
bool can_overwrite(const Tensor& x, int64_t unit_dim) {
  return is_dense(x, unit_dim) && !x.is_view() && !x.is_inference() && !x.is_neg() &&
         !(x.is_leaf() && x.requires_grad());
}

Tensor penalty(const std::vector<Tensor>& slack_sums, const std::vector<double>& weights, bool square_root) {
  Tensor value = [&] {
    at::AutoDispatchBelowADInplaceOrView below;
    return penalty_op().call(slack_sums, weights, square_root);
  }();
  const auto differentiable = [](const Tensor& sums) { return sums.requires_grad(); };
  if (at::GradMode::is_enabled() && std::any_of(slack_sums.begin(), slack_sums.end(), differentiable)) {
    auto* node = new PenaltyBackward();
    const NodePointer owner = own(node);
    node->set_next_edges(torch::autograd::collect_next_edges(slack_sums));
    torch::autograd::impl::set_gradient_edge(value, {owner, node->add_input_metadata(value)});
    node->square_root = square_root;
    node->weights = weights;
    if (square_root) node->value = SavedVariable(value, true);
  }
  return value;
}

}  // namespace

pybind11::object jumpstart_relu_eager(pybind11::handle object, int64_t unit_dim, bool position_points,
                                      double margin, bool inplace) {
  if (!THPVariable_CheckExact(object.ptr())) return pybind11::none();
  const Tensor& x = THPVariable_Unpack(object.ptr());
  if (unit_dim < 0) unit_dim += x.dim();
  if (!is_plain(x) || !is_supported(x, unit_dim, position_points)) return pybind11::none();
  if (inplace && !can_overwrite(x, unit_dim)) return pybind11::none();
  Tensor output, slack_sums, extrema;
  {
    pybind11::gil_scoped_release release;
    std::tie(output, slack_sums, extrema) = forward(x, unit_dim, position_points, margin, inplace);
  }
  const int64_t units = x.size(unit_dim), points = extrema.size(1) - units;
  return pybind11::make_tuple(inplace
                                  ? pybind11::reinterpret_borrow<pybind11::object>(object)
                                  : pybind11::reinterpret_steal<pybind11::object>(THPVariable_Wrap(output)),
                              pybind11::reinterpret_steal<pybind11::object>(THPVariable_Wrap(slack_sums)),
                              pybind11::reinterpret_steal<pybind11::object>(THPVariable_Wrap(extrema)), units,
                              x.numel() ? points : 0);
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
