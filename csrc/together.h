// Several tensors in one allocation, which takes less time than one for each: on a GPU, thin layers wait for
// the host.

#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <initializer_list>

namespace jumpstart {

struct Part {
  at::Tensor& tensor;
  at::ScalarType dtype;
  int64_t size[2];
};

// Allocates uninitialized tensors beside another one; returns false, and does nothing, if they are too large
// for being kept as long as any of them is used, or are to be filled. To autograd they are not views of each
// other; PyTorch's allocator knows which streams use them, by their common storage.
bool allocate_together(const at::Tensor& other, std::initializer_list<Part> parts);

}  // namespace jumpstart
