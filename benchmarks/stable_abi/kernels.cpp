// The operator and its backward on the CPU, registered through the stable ABI of libtorch. The functions are
// those of csrc, compiled with libtorch.h in place of libtorch's headers.

#include <initializer_list>
#include <limits>
#include <string>
#include <string_view>
#include <tuple>

#include "blocks.h"
#include "cpu/instruction_sets.h"
#include "jumpstart_activation.h"
#include "together.h"

namespace jumpstart {

// csrc/blocks.cpp recycles memory by a storage of its own, which the ABI lacks.
at::DataPtr take_block(size_t bytes) {
  constexpr size_t kAlignment = 64;
  return at::DataPtr(std::aligned_alloc(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment));
}

at::Tensor empty_block(at::IntArrayRef size, at::ScalarType dtype) {
  return at::empty(size, {dtype, {aoti_torch_device_type_cpu(), 0}});
}

// No operator's results are.
bool allocate_together(const at::Tensor&, std::initializer_list<Part>) { return false; }

#ifdef JUMPSTART_ONLY_DEFAULT
const Kernels& kernels_avx2() { return kernels_default(); }
const Kernels& kernels_avx512() { return kernels_default(); }
#endif

// A string of the schema.
struct Text {
  std::string value;
  operator std::string_view() const { return value; }
};

// What holds an argument while its function runs.
template <typename T>
struct Held {
  using type = std::remove_cv_t<std::remove_reference_t<T>>;
};
template <>
struct Held<std::string_view> {
  using type = Text;
};
template <>
struct Held<c10::SymIntArrayRef> {
  using type = std::vector<int64_t>;
};

// TORCH_BOX of a function of csrc: PyTorch's own leaks every string, and copies results.
template <auto function>
struct Boxed;
template <typename... Results, typename... Arguments, std::tuple<Results...> (*function)(Arguments...)>
struct Boxed<function> {
  static void run(StableIValue* stack, uint64_t, uint64_t) {
    const auto arguments = torch::stable::detail::unbox_to_tuple<typename Held<Arguments>::type...>(stack);
    auto results = std::apply(function, arguments);
    std::apply([&](auto&... result) { ((*stack++ = torch::stable::detail::from(result.release())), ...); },
               results);
  }
};

}  // namespace jumpstart

HIDDEN_NAMESPACE_BEGIN(torch, stable, detail)

template <>
struct ToImpl<at::Tensor> {
  static at::Tensor call(StableIValue value, uint64_t, bool) {
    return at::Tensor(to<AtenTensorHandle>(value));
  }
};

template <>
struct ToImpl<jumpstart::Text> {
  static jumpstart::Text call(StableIValue value, uint64_t, bool) {
    const auto handle = to<StringHandle>(value);
    size_t length = 0;
    const char* data = nullptr;
    at::check(torch_string_length(handle, &length));
    at::check(torch_string_c_str(handle, &data));
    jumpstart::Text text{{data, length}};
    at::check(torch_delete_string(handle));
    return text;
  }
};

HIDDEN_NAMESPACE_END(torch, stable, detail)

#define FORWARD                                                                                         \
  "(Tensor x, Tensor? bias, str activation, float parameter, int unit_dim, bool position_points, "      \
  "float margin, str extrema_kind) -> (Tensor output, Tensor mask, Tensor slack_sums, Tensor extrema, " \
  "Tensor indices)"
#define BACKWARD                                                                                          \
  "(Tensor? grad_output, Tensor? grad_slack_sums, Tensor? grad_extrema, Tensor mask, Tensor extrema, "    \
  "Tensor indices, SymInt[] size, bool channels_last, ScalarType dtype, bool with_grad_bias, "            \
  "str activation, float parameter, int unit_dim, bool position_points, float margin, str extrema_kind) " \
  "-> (Tensor grad_x, Tensor grad_bias)"

// Each overload gets its autograd in another way: see operators.py.
STABLE_TORCH_LIBRARY(jumpstart_stable, m) {
  m.def("jumpstart_activation.registered" FORWARD);
  m.def("jumpstart_activation.function" FORWARD);
  m.def("jumpstart_activation_backward" BACKWARD);
}

STABLE_TORCH_LIBRARY_IMPL(jumpstart_stable, CPU, m) {
  using jumpstart::Boxed;
  constexpr auto forward = Boxed<jumpstart::flat_forward<jumpstart::forward_cpu>>::run;
  m.impl("jumpstart_activation.registered", forward);
  m.impl("jumpstart_activation.function", forward);
  m.impl("jumpstart_activation_backward", Boxed<jumpstart::flat_backward<jumpstart::backward_cpu>>::run);
}
