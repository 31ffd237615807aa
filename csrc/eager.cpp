#include "eager.h"

#include <ATen/record_function.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "autograd.h"
#include "device_functions.h"
#include "nodes.h"
#include "penalty.h"
#include "record.h"

namespace jumpstart {
namespace {

using at::Tensor;

// pybind11's parsing and release of the interpreter take longer than a thin layer.
class WithoutInterpreter {
 public:
  WithoutInterpreter() : state_(PyEval_SaveThread()) {}
  ~WithoutInterpreter() { PyEval_RestoreThread(state_); }
  WithoutInterpreter(const WithoutInterpreter&) = delete;
  WithoutInterpreter& operator=(const WithoutInterpreter&) = delete;

 private:
  PyThreadState* state_;
};

struct Layer {
  Options options;
  bool inplace;
};

// The forward's kernels, below autograd.
ForwardResult run_forward(const Tensor& x, const Tensor& bias, const Layer& layer) {
  at::AutoDispatchBelowADInplaceOrView below;
  const DeviceFunctions* const functions = functions_for(x);
  if (functions == nullptr) {
    return layer.inplace ? call_inplace(x, bias, layer.options) : call_forward(x, bias, layer.options);
  }
  if (layer.inplace) {
    RECORD_FUNCTION("jumpstart_kernels::jumpstart_activation_", std::vector<c10::IValue>({x, bias}));
    return functions->forward_inplace(x, bias, layer.options);
  }
  RECORD_FUNCTION("jumpstart_kernels::jumpstart_activation", std::vector<c10::IValue>({x, bias}));
  return functions->forward(x, bias, layer.options);
}

// An undefined bias stands for none.
std::pair<Tensor, Record> forward(const Tensor& x, const Tensor& bias, const Layer& layer) {
  ForwardResult result = run_forward(x, bias, layer);
  const int64_t units = x.size(layer.options.unit_dim), points = result.extrema.size(1) - units;
  Record record{result.slack_sums,      result.extrema,       {},   units,
                x.numel() ? points : 0, layer.options.margin, false};
  if (layer.inplace) torch::autograd::impl::bump_version(x);
  const bool with_grad_bias = bias.defined() && bias.requires_grad();
  if (at::GradMode::is_enabled() && (x.requires_grad() || with_grad_bias)) {
    auto* node = new JumpstartActivationBackward();
    record.node = own(node);
    node->set_next_edges(bias.defined() ? torch::autograd::collect_next_edges(x, bias)
                                        : torch::autograd::collect_next_edges(x));
    node->options = layer.options;
    Saved saved = save_for_backward(x, bias, result, layer.options);
    using torch::autograd::SavedVariable;
    node->saved = {SavedVariable(saved.mask, false),
                   SavedVariable(saved.extrema, false),
                   SavedVariable(saved.indices, false),
                   std::move(saved.size),
                   saved.channels_last,
                   saved.dtype,
                   saved.with_grad_bias};
    const torch::autograd::Edge edge{record.node, node->add_input_metadata(result.output)};
    if (layer.inplace) {
      torch::autograd::impl::rebase_history(result.output, edge);
    } else {
      torch::autograd::impl::set_gradient_edge(result.output, edge);
    }
  }
  return {std::move(result.output), std::move(record)};
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

template <typename Node>
void connect(const Tensor& value, Node* node, torch::autograd::edge_list edges) {
  const NodePointer owner = own(node);
  node->set_next_edges(std::move(edges));
  torch::autograd::impl::set_gradient_edge(value, {owner, node->add_input_metadata(value)});
}

// The penalty's value, and its node unless nothing is differentiable; its edges are not set.
std::pair<Tensor, PenaltyBackward*> penalty(const std::vector<Tensor>& slack_sums,
                                            const std::vector<double>& weights, bool square_root,
                                            bool differentiable) {
  Tensor value = [&] {
    at::AutoDispatchBelowADInplaceOrView below;
    const DeviceFunctions* const functions = functions_for(slack_sums.front());
    const auto is_other = [&](const Tensor& sums) { return functions_for(sums) != functions; };
    if (functions == nullptr || std::any_of(slack_sums.begin(), slack_sums.end(), is_other)) {
      return call_penalty(slack_sums, weights, square_root);
    }
    RECORD_FUNCTION("jumpstart_kernels::penalty", std::vector<c10::IValue>({slack_sums}));
    return functions->penalty(slack_sums, weights, square_root);
  }();
  if (!at::GradMode::is_enabled() || !differentiable) return {value, nullptr};
  auto* node = new PenaltyBackward();
  node->weights = weights;
  return {value, node};
}

// All layers read their gradient in one place.
Tensor penalty_of_records(const std::vector<Record*>& records, const std::vector<double>& weights,
                          bool square_root) {
  std::vector<Tensor> slack_sums;
  torch::autograd::edge_list edges;
  for (const Record* record : records) {
    slack_sums.push_back(record->slack_sums);
    if (record->node) edges.emplace_back(record->node, 0);
  }
  auto [value, node] = penalty(slack_sums, weights, square_root, !edges.empty());
  if (node == nullptr) return value;
  node->shared = std::make_shared<SharedGradient>();
  for (const Record* record : records) {
    if (record->node) record->layer()->penalty = node->shared;
  }
  connect(value, node, std::move(edges));
  if (square_root) node->value = torch::autograd::SavedVariable(value, true);
  return value;
}

Tensor penalty_of_sums(const std::vector<Tensor>& slack_sums, const std::vector<double>& weights,
                       bool square_root) {
  const bool differentiable = std::any_of(slack_sums.begin(), slack_sums.end(),
                                          [](const Tensor& sums) { return sums.requires_grad(); });
  auto [value, node] = penalty(slack_sums, weights, square_root, differentiable);
  if (node == nullptr) return value;
  connect(value, node, torch::autograd::collect_next_edges(slack_sums));
  if (square_root) node->value = torch::autograd::SavedVariable(value, true);
  return value;
}

// A place for the gradient takes one device, on which nodes run one after the other, of a GPU one stream, one
// penalty, and nobody who has seen the slack sums and may ask for their gradient.
bool can_share(const std::vector<Record*>& records) {
  const Tensor& first = records.front()->slack_sums;
  const at::Device device = first.device();
  std::optional<c10::Stream> stream;
  if (!device.is_cpu()) stream = c10::impl::getDeviceGuardImpl(device.type())->getStream(device);
  return std::all_of(records.begin(), records.end(), [&](const Record* record) {
    const Tensor& sums = record->slack_sums;
    return functions_for(sums) != nullptr && sums.device() == device &&
           sums.scalar_type() == first.scalar_type() && !record->exposed &&
           !(record->node && (record->layer()->penalty || (stream && record->node->stream() != stream)));
  });
}

std::string_view text(PyObject* object) {
  Py_ssize_t size = 0;
  const char* characters = PyUnicode_AsUTF8AndSize(object, &size);
  if (characters == nullptr) throw pybind11::error_already_set();
  return {characters, static_cast<size_t>(size)};
}

double number(PyObject* object) {
  const double value = PyFloat_AsDouble(object);
  if (value == -1 && PyErr_Occurred()) throw pybind11::error_already_set();
  return value;
}

bool flag(PyObject* object) { return object == Py_True; }

PyObject* jumpstart_activation(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(count == 9, "jumpstart_activation takes 9 arguments, got ", count);
  PyObject *const object = arguments[0], *const of_bias = arguments[1];
  if (!THPVariable_CheckExact(object)) Py_RETURN_NONE;
  const Tensor& x = THPVariable_Unpack(object);
  arguments += 2;
  int64_t unit_dim = PyLong_AsLongLong(arguments[2]);
  if (unit_dim == -1 && PyErr_Occurred()) throw pybind11::error_already_set();
  if (unit_dim < 0) unit_dim += x.dim();
  const bool position_points = flag(arguments[3]), inplace = flag(arguments[5]);
  if (!is_plain(x) || !is_supported(x, unit_dim, position_points)) Py_RETURN_NONE;
  if (inplace && !can_overwrite(x, unit_dim)) Py_RETURN_NONE;
  Tensor bias;
  if (of_bias != Py_None) {
    if (!THPVariable_CheckExact(of_bias)) Py_RETURN_NONE;
    bias = THPVariable_Unpack(of_bias);
    if (!is_plain(bias) || bias.is_neg() || !goes_with(bias, x, unit_dim)) Py_RETURN_NONE;
  }
  const Layer layer{make_options(text(arguments[0]), number(arguments[1]), unit_dim, position_points,
                                 number(arguments[4]), text(arguments[6])),
                    inplace};
  if (layer.options.activation == kStatisticsAlone) Py_RETURN_NONE;
  auto [output, record] = [&] {
    const WithoutInterpreter released;
    return forward(x, bias, layer);
  }();
  const auto of_output = pybind11::reinterpret_steal<pybind11::object>(
      inplace ? Py_NewRef(object) : THPVariable_Wrap(std::move(output)));
  return PyTuple_Pack(2, of_output.ptr(), wrap(std::move(record)).ptr());
  END_HANDLE_TH_ERRORS
}

PyObject* penalty(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(count == 3, "penalty takes 3 arguments, got ", count);
  TORCH_CHECK_TYPE(PyList_Check(arguments[0]), "records must be a list");
  const auto items = pybind11::reinterpret_borrow<pybind11::list>(arguments[0]);
  std::vector<Record*> records;
  for (const auto& item : items) {
    Record* const record = record_of(item.ptr());
    if (record != nullptr) records.push_back(record);
  }
  if (records.empty() || records.size() != items.size()) Py_RETURN_NONE;
  const auto weights = pybind11::cast<std::vector<double>>(pybind11::handle(arguments[1]));
  const bool square_root = flag(arguments[2]);
  Tensor value;
  if (can_share(records)) {
    const WithoutInterpreter released;
    value = penalty_of_records(records, weights, square_root);
  } else {
    std::vector<Tensor> slack_sums;
    for (Record* record : records) {
      record->expose();
      slack_sums.push_back(record->slack_sums);
      const Tensor &first = slack_sums.front(), &sums = slack_sums.back();
      if (!is_plain(sums) || sums.scalar_type() != first.scalar_type() || sums.device() != first.device()) {
        Py_RETURN_NONE;
      }
    }
    const WithoutInterpreter released;
    value = penalty_of_sums(slack_sums, weights, square_root);
  }
  return THPVariable_Wrap(std::move(value));
  END_HANDLE_TH_ERRORS
}

template <PyObject* (*function)(PyObject*, PyObject* const*, Py_ssize_t)>
PyMethodDef method(const char* name) {
  return {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function)), METH_FASTCALL,
          nullptr};
}

}  // namespace

void define_eager(pybind11::module& module) {
  static PyMethodDef methods[] = {method<jumpstart_activation>("jumpstart_activation"),
                                  method<penalty>("penalty"),
                                  {nullptr, nullptr, 0, nullptr}};
  if (PyModule_AddFunctions(module.ptr(), methods) != 0) throw pybind11::error_already_set();
}

}  // namespace jumpstart
