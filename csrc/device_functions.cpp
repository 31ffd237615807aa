#include "device_functions.h"

#include <c10/core/impl/LocalDispatchKeySet.h>

namespace jumpstart {

const DeviceFunctions* functions_for(const at::Tensor& x) {
  static constexpr DeviceFunctions cpu{forward_cpu, forward_inplace_cpu, backward_cpu, penalty_cpu,
                                       penalty_backward_cpu};
#ifdef JUMPSTART_CUDA_VERSION
  static constexpr DeviceFunctions cuda{forward_cuda<Memory::together>,
                                        forward_inplace_cuda<Memory::together>, backward_cuda, penalty_cuda,
                                        penalty_backward_cuda};
#endif
  const auto local = c10::impl::tls_local_dispatch_key_set();
  const auto above =
      c10::autograd_dispatch_keyset | c10::autocast_dispatch_keyset |
      c10::DispatchKeySet({c10::DispatchKey::ADInplaceOrView, c10::DispatchKey::BackendSelect});
  const auto keys = ((x.key_set() | local.included_) - local.excluded_) - above;
  switch (keys.highestPriorityTypeId()) {
    case c10::DispatchKey::CPU: return &cpu;
#ifdef JUMPSTART_CUDA_VERSION
    case c10::DispatchKey::CUDA: return &cuda;
#endif
    default: return nullptr;
  }
}

const DeviceFunctions* functions_for(std::initializer_list<const at::Tensor*> tensors) {
  const DeviceFunctions* common = nullptr;
  for (const at::Tensor* tensor : tensors) {
    if (!tensor->defined()) continue;
    const DeviceFunctions* const own = functions_for(*tensor);
    if (own == nullptr || (common != nullptr && own != common)) return nullptr;
    common = own;
  }
  return common;
}

}  // namespace jumpstart
