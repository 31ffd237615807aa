// Access to the operators' native overloads through PyTorch's dispatcher.

#pragma once

#include <ATen/core/dispatch/Dispatcher.h>

#include <string>

namespace jumpstart {

// The native overload of an operator, typed like the kernel passed in, which is not called here.
template <typename Schema>
c10::TypedOperatorHandle<Schema> native_overload(const char* name, Schema*) {
  return c10::Dispatcher::singleton()
      .findSchemaOrThrow((std::string("jumpstart_kernels::") + name).c_str(), "native")
      .typed<Schema>();
}

}  // namespace jumpstart
