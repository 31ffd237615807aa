// Registers the kernels with the dispatcher, under the schemas of jumpstart_kernels/ops, and defines the
// module.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/library.h>

#include "autograd.h"
#include "cpu/instruction_sets.h"
#include "eager.h"
#include "jumpstart_activation.h"
#include "linked_activation.h"
#include "penalty.h"
#include "record.h"
#ifdef JUMPSTART_CUDA_VERSION
#include "cuda/plan.h"
#endif

TORCH_LIBRARY_IMPL(jumpstart_kernels, CPU, m) {
  m.impl("jumpstart_activation.native", jumpstart::flat_forward<jumpstart::forward_cpu>);
  m.impl("jumpstart_activation_.native", jumpstart::flat_inplace<jumpstart::forward_inplace_cpu>);
  m.impl("jumpstart_activation_backward.native", jumpstart::flat_backward<jumpstart::backward_cpu>);
  m.impl("linked_activation.native", jumpstart::flat_linked_forward<jumpstart::linked_forward_cpu>);
  m.impl("linked_activation_backward.native",
         jumpstart::flat_linked_backward<jumpstart::linked_backward_cpu>);
  m.impl("penalty.native", jumpstart::penalty_cpu);
  m.impl("penalty_backward.native", jumpstart::penalty_backward_cpu);
}

TORCH_LIBRARY_IMPL(jumpstart_kernels, Autograd, m) {
  m.impl("jumpstart_activation.native", jumpstart::flat_forward<jumpstart::forward_autograd>);
  m.impl("linked_activation.native", jumpstart::flat_linked_forward<jumpstart::linked_forward_autograd>);
  m.impl("penalty.native", jumpstart::penalty_autograd);
}

PYBIND11_MODULE(_native, m) {
  m.doc() = "Compiled kernels of jumpstart_kernels; importing registers them with PyTorch.";
  jumpstart::define_record(m);
  jumpstart::define_eager(m);
  pybind11::list activations;  // in the order of ActivationKind
  for (const auto name : jumpstart::kActivationNames) activations.append(name);
  m.attr("activations") = activations;
  m.def("instruction_sets", &jumpstart::instruction_sets);
  m.def("instruction_set", &jumpstart::instruction_set);
  m.def("use_instruction_set", &jumpstart::use_instruction_set);
#ifdef _OPENMP
  m.attr("openmp") = true;
#else
  m.attr("openmp") = false;
#endif
#ifdef JUMPSTART_CUDA_VERSION
  m.attr("cuda_version") = JUMPSTART_CUDA_VERSION;
  using jumpstart::cuda::PlanParameters;
  pybind11::class_<PlanParameters>(m, "PlanParameters")
      .def_readwrite("forward_waves", &PlanParameters::forward_waves)
      .def_readwrite("forward_steps", &PlanParameters::forward_steps)
      .def_readwrite("forward_end_steps", &PlanParameters::forward_end_steps)
      .def_readwrite("chunk_pieces", &PlanParameters::chunk_pieces)
      .def_readwrite("merge_partials", &PlanParameters::merge_partials)
      .def_readwrite("backward_steps", &PlanParameters::backward_steps)
      .def_readwrite("bias_backward_steps", &PlanParameters::bias_backward_steps)
      .def_readwrite("small_bytes", &PlanParameters::small_bytes)
      .def_readwrite("most_blocks", &PlanParameters::most_blocks)
      .def_readwrite("cluster_blocks", &PlanParameters::cluster_blocks)
      .def_readwrite("cluster_steps", &PlanParameters::cluster_steps);
  m.def("plan_parameters", &jumpstart::cuda::plan_parameters, pybind11::return_value_policy::reference);
#else
  m.attr("cuda_version") = pybind11::none();
#endif
}
