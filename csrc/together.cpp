#include "together.h"

#include <c10/core/TensorImpl.h>

#include <utility>

#include "blocks.h"
#include "jumpstart_activation.h"

namespace jumpstart {
namespace {

constexpr int64_t kMostBytes = int64_t{64} << 10;
constexpr int64_t kAlignment = 128;  // a line of a GPU's cache

int64_t element_size(const Part& part) { return static_cast<int64_t>(at::elementSize(part.dtype)); }

int64_t bytes_of(const Part& part) {
  const int64_t bytes = part.size[0] * part.size[1] * element_size(part);
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace

bool allocate_together(const at::Tensor& other, std::initializer_list<Part> parts) {
  int64_t total = 0;
  for (const Part& part : parts) total += bytes_of(part);
  if (total > kMostBytes || fills_memory()) return false;
  const at::Tensor block = empty_beside(other, {total}, at::kByte);
  int64_t offset = 0;
  for (const Part& part : parts) {
    part.tensor = at::detail::make_tensor<c10::TensorImpl>(c10::Storage(block.storage()), block.key_set(),
                                                           c10::scalarTypeToTypeMeta(part.dtype));
    part.tensor.unsafeGetTensorImpl()->set_sizes_contiguous(part.size);
    part.tensor.unsafeGetTensorImpl()->set_storage_offset(offset / element_size(part));
    offset += bytes_of(part);
  }
  return true;
}

}  // namespace jumpstart
