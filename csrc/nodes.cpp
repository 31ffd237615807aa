#include "nodes.h"

#include <ATen/record_function.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/graph_task.h>

#include <algorithm>

#include "autograd.h"
#include "device_functions.h"
#include "dispatcher.h"
#include "penalty.h"
#include "slack.h"

namespace jumpstart {

using at::Tensor;
using torch::autograd::variable_list;

namespace {

// [2, kSlackSums], the same for every layer.
Tensor gradient_of_sums(const PenaltyGradient& penalty) {
  const auto& [grad, root, weights] = penalty;
  const DeviceFunctions* const functions =
      at::GradMode::is_enabled() ? nullptr : functions_for({&grad, &root});
  if (functions == nullptr) return run_penalty_backward(grad, optional(root), weights);
  at::AutoDispatchBelowADInplaceOrView below;
  RECORD_FUNCTION("jumpstart_kernels::penalty_backward", std::vector<c10::IValue>({grad}));
  return functions->penalty_backward(grad, optional(root), weights);
}

}  // namespace

void SharedGradient::set(PenaltyGradient gradient) {
  const int backward = torch::autograd::get_current_graph_task_id();
  auto owned = std::make_shared<Entry>(std::move(gradient));
  std::weak_ptr<Entry> seen = owned;
  // Called when all nodes have run. A thread of autograd may own the backward for longer than who has called
  // it waits, and cannot release a tensor that Python knows once Python has ended.
  torch::autograd::Engine::get_default_engine().queue_callback(
      [owned = std::move(owned)]() mutable { owned.reset(); });
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto is_over = [](const auto& entry) { return entry.second.expired(); };
  by_backward_.erase(std::remove_if(by_backward_.begin(), by_backward_.end(), is_over), by_backward_.end());
  by_backward_.emplace_back(backward, std::move(seen));
}

std::shared_ptr<SharedGradient::Entry> SharedGradient::get() {
  const int backward = torch::autograd::get_current_graph_task_id();
  const std::lock_guard<std::mutex> lock(mutex_);
  for (const auto& [other, gradient] : by_backward_) {
    if (other != backward) continue;
    if (auto owned = gradient.lock()) return owned;
  }
  return nullptr;
}

const Tensor& SharedGradient::Entry::of_sums() {
  if (!of_sums_.defined()) of_sums_ = gradient_of_sums(penalty);
  return of_sums_;
}

void JumpstartActivationBackward::expose(Tensor& slack_sums, Tensor& extrema) {
  const auto self = getptr();
  if (num_inputs() == 1) {
    add_input_metadata(slack_sums);
    add_input_metadata(extrema);
  }
  torch::autograd::impl::set_gradient_edge(slack_sums, {self, 1});
  torch::autograd::impl::set_gradient_edge(extrema, {self, 2});
}

// As PyTorch's nodes: several threads may go backward through one graph.
variable_list JumpstartActivationBackward::apply(variable_list&& grads) {
  const std::lock_guard<std::mutex> lock(mutex_);
  Gradients gradients{std::move(grads[0]), {}, {}};
  if (grads.size() > 1) gradients.slack_sums = std::move(grads[1]), gradients.extrema = std::move(grads[2]);
  const auto of_penalty = penalty ? penalty->get() : nullptr;
  if (!of_penalty && !gradients.any()) return variable_list(num_outputs());
  Saved unpacked{saved.mask.unpack(), saved.extrema.unpack(), saved.indices.unpack(),
                 saved.size,          saved.channels_last,    saved.dtype,
                 saved.with_grad_bias};
  const auto listed = [&](InputGradients&& found) -> variable_list {
    if (num_outputs() == 1) return {std::move(found.x)};
    return {std::move(found.x), std::move(found.bias)};
  };
  const Tensor none;
  const DeviceFunctions* const functions =
      at::GradMode::is_enabled()
          ? nullptr
          : functions_for({&unpacked.mask, &unpacked.extrema, &unpacked.indices, &gradients.output,
                           &gradients.slack_sums, &gradients.extrema,
                           of_penalty ? &of_penalty->penalty.grad : &none,
                           of_penalty ? &of_penalty->penalty.root : &none});
  if (of_penalty && functions != nullptr && !gradients.slack_sums.defined()) {
    gradients.penalty = &of_penalty->penalty;
  } else if (of_penalty) {
    const Tensor& shared = of_penalty->of_sums();
    gradients.slack_sums = gradients.slack_sums.defined() ? gradients.slack_sums + shared : shared;
  }
  if (functions != nullptr) {
    at::AutoDispatchBelowADInplaceOrView below;
    RECORD_FUNCTION("jumpstart_kernels::jumpstart_activation_backward",
                    std::vector<c10::IValue>({gradients.output}));
    return listed(functions->backward(gradients, unpacked, options));
  }
  if (at::GradMode::is_enabled()) {  // the second derivative goes through the extrema
    Tensor slack_sums = at::empty({2, kSlackSums}, unpacked.extrema.options());
    unpacked.extrema = unpacked.extrema.variable_data();
    expose(slack_sums, unpacked.extrema);
  }
  return listed(run_backward(gradients, unpacked, options));
}

void JumpstartActivationBackward::release_variables() {
  const std::lock_guard<std::mutex> lock(mutex_);
  saved.mask.reset_data();
  saved.extrema.reset_data();
  saved.indices.reset_data();
}

variable_list PenaltyBackward::apply(variable_list&& grads) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!grads[0].defined()) return variable_list(num_outputs());
  PenaltyGradient gradient{std::move(grads[0]), value ? value->unpack(getptr()) : Tensor(), weights};
  if (!shared) return variable_list(num_outputs(), gradient_of_sums(gradient));  // the same for every layer
  shared->set(std::move(gradient));
  return variable_list(num_outputs());
}

void PenaltyBackward::release_variables() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (value) value->reset_data();
}

}  // namespace jumpstart
