// The autograd nodes of eager code: the counterparts of those in autograd.cpp and penalty.cpp.

#pragma once

#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/autograd/variable.h>

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "jumpstart_activation.h"
#include "options.h"
#include "penalty_gradient.h"
#include "saved.h"

namespace jumpstart {

// An intrusive_ptr in newer versions of PyTorch.
using NodePointer = decltype(torch::autograd::Edge::function);

// Pointer is a template parameter so that if constexpr discards the branch for the other version of PyTorch.
template <typename T, typename Pointer = NodePointer>
Pointer own(T* node) {
  if constexpr (std::is_same_v<Pointer, std::shared_ptr<torch::autograd::Node>>) {
    return Pointer(node, [](T* owned) { deleteNode(owned); });  // no recursion
  } else {
    return Pointer::unsafe_steal_from_new(node);
  }
}

// What its backward gives to a penalty, in one place for all its layers: the edges between the nodes order
// them and carry nothing.
class SharedGradient {
 public:
  struct Entry {
    const PenaltyGradient penalty;

    explicit Entry(PenaltyGradient gradient) : penalty(std::move(gradient)) {}
    // For layers whose backward cannot take the penalty's; computed once.
    const at::Tensor& of_sums();

   private:
    at::Tensor of_sums_;
  };

  // Of the backward that runs now, until it ends; several may run at once on a retained graph.
  void set(PenaltyGradient gradient);
  std::shared_ptr<Entry> get();  // null if this backward did not reach the penalty

 private:
  std::mutex mutex_;
  // The backward owns the gradient: one that fails would leave it here, and with it what it derives from.
  std::vector<std::pair<int, std::weak_ptr<Entry>>> by_backward_;
};

// Of the output, and of slack sums and extrema once these are exposed.
struct JumpstartActivationBackward : torch::autograd::Node {
  SavedAs<torch::autograd::SavedVariable> saved;
  Options options;
  std::shared_ptr<SharedGradient> penalty;  // set by a penalty that does not use the slack sums' edge

  // Makes results of the forward differentiable. The extrema must be another tensor than the one saved.
  void expose(at::Tensor& slack_sums, at::Tensor& extrema);
  std::mutex& mutex() { return mutex_; }

  torch::autograd::variable_list apply(torch::autograd::variable_list&& grads) override;
  void release_variables() override;
  std::string name() const override { return "JumpstartActivationBackward"; }
};

struct PenaltyBackward : torch::autograd::Node {
  std::optional<torch::autograd::SavedVariable> value;  // if it is a square root
  std::vector<double> weights;
  std::shared_ptr<SharedGradient> shared;  // if the layers read their gradient there

  torch::autograd::variable_list apply(torch::autograd::variable_list&& grads) override;
  void release_variables() override;
  std::string name() const override { return "PenaltyBackward"; }
};

}  // namespace jumpstart
