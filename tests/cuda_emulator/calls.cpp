// What Python calls of the emulator, and of the kernels that it runs.

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <iterator>

#include "activations.h"
#include "cuda/kernels.h"
#include "cuda/plan.h"
#include "cuda_emulator.h"
#include "linked_activations.h"

namespace {

// Kernels with the faults that the emulator is there to find.
void read_behind(const uint8_t* memory, size_t page) {
  volatile uint8_t value = memory[page];
  (void)value;
}
void part_at_barrier() {
  if (threadIdx.x < 7) __syncthreads();
}
void part_at_cluster() {
  if (blockIdx.x == 0) jumpstart::cuda::meet_cluster();
}
void part_in_warp() {
  if (threadIdx.x % 2) {
    __any_sync(0xffffffffu, 1);
  } else {
    __any_sync(0xffffffffu, 1);
  }
}

// Bytes that a call asks for.
template <typename Run>
int64_t ask_for_workspace(const Run& run) {
  const cuda_emulator::WithoutLaunches without_launches;
  int64_t asked = 0;
  run([&](int64_t bytes) -> void* {
    asked = bytes;
    return nullptr;
  });
  return asked;
}
struct Given {
  void* workspace;
  void* operator()(int64_t) const { return workspace; }
};

}  // namespace

struct EmulatorPlan {
  int64_t launches, blocks, work, tiles, unit_blocks, point_blocks;
  int64_t extent;  // the most rows or columns that a place is counted in
  int64_t backward_blocks, backward_work, backward_tiles, backward_extent;
};

// What Python calls. Each returns null, or what went wrong.
extern "C" {

void emulator_seed(unsigned seed) { cuda_emulator::seed(seed); }

// Of the launch that comes after those that have a limit already, runs so many blocks at either end.
void emulator_limit(int64_t first, int64_t last) { cuda_emulator::limit(first, last); }

void emulator_plan(const jumpstart::Layout* layout, bool position_points, int vector, int multiprocessors,
                   int cluster_blocks, EmulatorPlan* to) {
  const auto f =
      jumpstart::cuda::plan_forward(*layout, position_points, vector, 4, multiprocessors, cluster_blocks);
  const auto b = jumpstart::cuda::plan_backward(*layout, vector, multiprocessors, false);
  const auto& t = f.tiling;
  const bool planes = f.kernel == jumpstart::cuda::ForwardKernel::planes;
  *to = {f.in_cluster || f.kernel == jumpstart::cuda::ForwardKernel::small ? 1 : 2,
         f.blocks,
         planes ? f.chunks.work() : t.work(),
         planes ? 1 : t.tiles,
         f.merge.units.blocks(),
         f.merge.points.blocks(),
         planes ? f.chunks.chunk_columns : std::max<int64_t>(t.region_rows, t.tile_columns),
         b.blocks,
         b.tiling.work(),
         b.tiling.tiles,
         std::max<int64_t>(b.tiling.region_rows, b.tiling.tile_columns)};
}

jumpstart::cuda::PlanParameters* emulator_plan_parameters() { return &jumpstart::cuda::plan_parameters(); }

// An activation by its name, or -1.
int emulator_activation(const char* name) {
  const auto* found =
      std::find(std::begin(jumpstart::kActivationNames), std::end(jumpstart::kActivationNames), name);
  if (found == std::end(jumpstart::kActivationNames)) return -1;
  return static_cast<int>(found - std::begin(jumpstart::kActivationNames));
}

// The same of a linked activation.
int emulator_linked_activation(const char* name) {
  const auto* found = std::find(std::begin(jumpstart::kLinkedNames), std::end(jumpstart::kLinkedNames), name);
  if (found == std::end(jumpstart::kLinkedNames)) return -1;
  return static_cast<int>(found - std::begin(jumpstart::kLinkedNames));
}

// Memory with no access before its first page and behind its last.
void* emulator_allocate(size_t pages) {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  void* memory = mmap(nullptr, (pages + 2) * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return nullptr;
  void* inside = static_cast<char*>(memory) + page;
  mprotect(inside, pages * page, PROT_READ | PROT_WRITE);
  return inside;
}
void emulator_free(void* inside, size_t pages) {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  munmap(static_cast<char*>(inside) - page, (pages + 2) * page);
}
size_t emulator_page() { return static_cast<size_t>(sysconf(_SC_PAGESIZE)); }

int64_t emulator_forward_workspace(const jumpstart::cuda::ForwardCall* call) {
  return ask_for_workspace([&](const auto& ask) { jumpstart::cuda::forward(*call, ask, nullptr); });
}
const char* emulator_forward(const jumpstart::cuda::ForwardCall* call, void* workspace) {
  return cuda_emulator::guarded([&] { jumpstart::cuda::forward(*call, Given{workspace}, nullptr); });
}
int64_t emulator_backward_workspace(const jumpstart::cuda::BackwardCall* call) {
  return ask_for_workspace([&](const auto& ask) { jumpstart::cuda::backward(*call, ask, nullptr); });
}
const char* emulator_backward(const jumpstart::cuda::BackwardCall* call, void* workspace) {
  return cuda_emulator::guarded([&] { jumpstart::cuda::backward(*call, Given{workspace}, nullptr); });
}
int64_t emulator_linked_forward_workspace(const jumpstart::cuda::LinkedForwardCall* call) {
  return ask_for_workspace([&](const auto& ask) { jumpstart::cuda::linked_forward(*call, ask, nullptr); });
}
const char* emulator_linked_forward(const jumpstart::cuda::LinkedForwardCall* call, void* workspace) {
  return cuda_emulator::guarded([&] { jumpstart::cuda::linked_forward(*call, Given{workspace}, nullptr); });
}
int64_t emulator_linked_backward_workspace(const jumpstart::cuda::LinkedBackwardCall* call) {
  return ask_for_workspace([&](const auto& ask) { jumpstart::cuda::linked_backward(*call, ask, nullptr); });
}
const char* emulator_linked_backward(const jumpstart::cuda::LinkedBackwardCall* call, void* workspace) {
  return cuda_emulator::guarded([&] { jumpstart::cuda::linked_backward(*call, Given{workspace}, nullptr); });
}
const char* emulator_penalty(const jumpstart::cuda::PenaltyCall* call) {
  return cuda_emulator::guarded([&] { jumpstart::cuda::penalty(*call, nullptr); });
}
const char* emulator_penalty_backward(bool float64, const jumpstart::cuda::PenaltyGradientCall* penalty,
                                      void* by_sum) {
  return cuda_emulator::guarded(
      [&] { jumpstart::cuda::penalty_backward(float64, *penalty, by_sum, nullptr); });
}

const char* emulator_fault(int which, const uint8_t* memory, size_t page) {
  return cuda_emulator::guarded([&] {
    cuda_emulator::run(
        2, 64,
        [&] {
          if (which == 0) read_behind(memory, page);
          if (which == 1) part_at_barrier();
          if (which == 2) part_in_warp();
          if (which == 3) part_at_cluster();
        },
        which == 3 ? 2 : 1);
  });
}

}  // extern "C"
