// Memory on the CPU for what a forward keeps besides its output: recycled, since the heap is shared with the
// large tensors of the network. There a small block would split the memory that an output or gradient has
// left, so that the next one no longer fits and its pages are new to the process.

#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>

namespace jumpstart {

// At least so many bytes, aligned like PyTorch's tensors. Freed blocks are kept for later ones, up to a
// bound.
at::DataPtr take_block(size_t bytes);

// Whether at::empty is to fill what it allocates, so that nobody may do without it.
bool fills_memory();

// An uninitialized contiguous tensor on the CPU.
at::Tensor empty_block(at::IntArrayRef size, at::ScalarType dtype);

}  // namespace jumpstart
