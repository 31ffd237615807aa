#include "blocks.h"

#include <ATen/Context.h>
#include <ATen/ops/empty.h>
#include <c10/core/CPUAllocator.h>

#include <array>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace jumpstart {
namespace {

constexpr size_t kSmallest = 64, kLargest = size_t{4} << 20;  // bytes of a block that is kept
constexpr size_t kMostKept = size_t{32} << 20;                // bytes of all that are
constexpr size_t kSizes = 1 + 4 * 16;                         // four for each doubling, so at most 25 % more

// The index of the smallest size for so many bytes.
size_t index_of(size_t bytes) {
  if (bytes <= kSmallest) return 0;
  const int power = 63 - __builtin_clzll(bytes - 1);  // 2^power < bytes <= 2^(power + 1)
  const size_t quarter = (bytes - 1) >> (power - 2) & 3;
  return 1 + 4 * static_cast<size_t>(power - 6) + quarter;
}

size_t bytes_of(size_t index) {
  if (index == 0) return kSmallest;
  const size_t power = (index - 1) / 4 + 6, quarter = (index - 1) % 4;
  return (size_t{5} + quarter) << (power - 2);
}

class Blocks {
 public:
  at::DataPtr take(size_t index) {
    {
      // Never waits: in a forked process nobody might release the mutex.
      const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
      if (lock && !free_[index].empty()) {
        at::DataPtr block = std::move(free_[index].back());
        free_[index].pop_back();
        kept_ -= bytes_of(index);
        return block;
      }
    }
    return c10::GetCPUAllocator()->allocate(bytes_of(index));
  }

  void give_back(size_t index, at::DataPtr block) {
    const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (!lock || kept_ + bytes_of(index) > kMostKept) return;
    free_[index].push_back(std::move(block));
    kept_ += bytes_of(index);
  }

 private:
  std::mutex mutex_;
  std::array<std::vector<at::DataPtr>, kSizes> free_;
  size_t kept_ = 0;
};

Blocks& blocks() {
  static auto* all = new Blocks();  // never destroyed: a tensor may outlive it
  return *all;
}

struct Lent {
  size_t index;
  at::DataPtr block;
};

void give_back(void* context) {
  const std::unique_ptr<Lent> lent(static_cast<Lent*>(context));
  blocks().give_back(lent->index, std::move(lent->block));
}

}  // namespace

at::DataPtr take_block(size_t bytes) {
  if (bytes > kLargest) return c10::GetCPUAllocator()->allocate(bytes);
  const size_t index = index_of(bytes);
  auto lent = std::make_unique<Lent>(Lent{index, blocks().take(index)});
  void* const memory = lent->block.get();
  return {memory, lent.release(), give_back, at::kCPU};
}

bool fills_memory() {
  const auto& context = at::globalContext();
  return context.deterministicFillUninitializedMemory() && context.deterministicAlgorithms();
}

at::Tensor empty_block(at::IntArrayRef size, at::ScalarType dtype) {
  if (fills_memory()) return at::empty(size, at::dtype(dtype));
  size_t bytes = at::elementSize(dtype);
  for (const int64_t length : size) bytes *= static_cast<size_t>(length);
  c10::Storage storage(c10::Storage::use_byte_size_t(), bytes, take_block(bytes), nullptr,
                       /*resizable=*/false);
  auto tensor = at::detail::make_tensor<c10::TensorImpl>(
      std::move(storage), c10::DispatchKeySet(c10::DispatchKey::CPU), c10::scalarTypeToTypeMeta(dtype));
  tensor.unsafeGetTensorImpl()->set_sizes_contiguous(size);
  return tensor;
}

}  // namespace jumpstart
