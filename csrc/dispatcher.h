// Access to the operators' native overloads through PyTorch's dispatcher.

#pragma once

#include <ATen/core/dispatch/Dispatcher.h>

#include <optional>
#include <string>

namespace jumpstart {

// The native overload of an operator, typed like the kernel passed in, which is not called here.
template <typename Schema>
c10::TypedOperatorHandle<Schema> native_overload(const char* name, Schema*) {
  return c10::Dispatcher::singleton()
      .findSchemaOrThrow((std::string("jumpstart_kernels::") + name).c_str(), "native")
      .typed<Schema>();
}

// A tensor as an optional argument; an undefined one is left out.
inline std::optional<at::Tensor> optional(const at::Tensor& tensor) {
  return tensor.defined() ? std::optional<at::Tensor>(tensor) : std::nullopt;
}

}  // namespace jumpstart
