#include "cuda_emulator.h"

#include <setjmp.h>
#include <signal.h>
#include <ucontext.h>

#include <algorithm>
#include <deque>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

cuda_emulator::Index threadIdx, blockIdx, gridDim;

namespace cuda_emulator {
namespace {

constexpr size_t kStack = 256 * 1024;
constexpr int kLanes = 32;

enum class State { ready, at_block, at_warp, at_cluster, done };

struct Fiber {
  unsigned block = 0;
  State state = State::ready;
  int line = 0;
  bool started = false;
  jmp_buf here;
  ucontext_t first;
};
struct Warp {
  uint64_t brought[kLanes], met[kLanes];
};

// Of the next launches, how many of the first blocks run and how many of the last.
struct Ends {
  int64_t first, last;
};

std::mt19937 order;
std::deque<Ends> limits;
bool launches = true;  // or do nothing
const std::function<void()>* kernel;
std::vector<Fiber> fibers;  // [blocks of a cluster, threads]
std::vector<Warp> warps;    // [blocks of a cluster, warps]
int threads_of_block;
std::vector<char> stacks;
jmp_buf scheduler;
int current;
std::string failure;

__attribute__((noinline)) void leave(State state, int line) {
  Fiber& own = fibers[static_cast<size_t>(current)];
  own.state = state;
  own.line = line;
  if (_setjmp(own.here) == 0) _longjmp(scheduler, 1);
}

void start() {
  (*kernel)();
  leave(State::done, 0);
}

// Never inlined: a jump comes back here.
__attribute__((noinline)) void resume(int chosen) {
  current = chosen;
  if (_setjmp(scheduler) != 0) return;
  Fiber& fiber = fibers[static_cast<size_t>(chosen)];
  blockIdx.x = fiber.block;
  threadIdx.x = static_cast<unsigned>(chosen % threads_of_block);
  if (fiber.started) _longjmp(fiber.here, 1);
  fiber.started = true;
  setcontext(&fiber.first);
}

__attribute__((noinline)) void prepare(size_t fiber) {
  ucontext_t& context = fibers[fiber].first;
  getcontext(&context);
  context.uc_stack.ss_sp = stacks.data() + fiber * kStack;
  context.uc_stack.ss_size = kStack;
  context.uc_link = nullptr;
  makecontext(&context, start, 0);
}

// Where fibers [begin, end) all wait in one line, lets them go on.
bool release(size_t begin, size_t end, State state) {
  for (size_t i = begin; i < end; ++i) {
    if (fibers[i].state != state || fibers[i].line != fibers[begin].line) return false;
  }
  for (size_t i = begin; i < end; ++i) fibers[i].state = State::ready;
  return true;
}

// Runs the block of these fibers until none can go on.
void run_block(size_t begin, size_t end) {
  std::vector<int> turns;
  for (size_t i = begin; i < end; ++i) turns.push_back(static_cast<int>(i));
  std::shuffle(turns.begin(), turns.end(), order);
  // Some warps go on only where no other can, which are then as far ahead of them as a barrier allows.
  const auto late = static_cast<uint32_t>(order() % 4 ? order() : 0);
  const auto is_late = [&](int fiber) {
    return (late >> (fiber - static_cast<int>(begin)) / kLanes % 32 & 1) != 0;
  };
  bool all = false;
  for (bool moved = true; moved || !all;) {
    all = !moved;
    moved = false;
    for (const int fiber : turns) {
      if (fibers[static_cast<size_t>(fiber)].state != State::ready || (is_late(fiber) && !all)) continue;
      resume(fiber);
      moved = true;
    }
    for (size_t first = begin; first < end; first += kLanes) {
      if (release(first, std::min(first + kLanes, end), State::at_warp)) {
        Warp& warp = warps[first / kLanes];
        std::copy_n(warp.brought, kLanes, warp.met);
        moved = true;
      }
    }
    moved |= release(begin, end, State::at_block);
  }
}

void run_cluster(std::vector<unsigned> blocks) {
  const auto threads = static_cast<size_t>(threads_of_block);
  fibers.assign(blocks.size() * threads, Fiber{});
  warps.assign((fibers.size() + kLanes - 1) / kLanes, Warp{});
  stacks.resize(fibers.size() * kStack);
  for (size_t i = 0; i < fibers.size(); ++i) {
    fibers[i].block = blocks[i / threads];
    prepare(i);
  }
  do {
    for (size_t begin = 0; begin < fibers.size(); begin += threads) run_block(begin, begin + threads);
  } while (release(0, fibers.size(), State::at_cluster));
  for (size_t i = 0; i < fibers.size(); ++i) {
    const Fiber& fiber = fibers[i];
    if (fiber.state == State::done) continue;
    const char* other = fiber.state == State::at_warp    ? "warp"
                        : fiber.state == State::at_block ? "block"
                                                         : "cluster";
    throw std::runtime_error("thread " + std::to_string(i % threads) + " of block " +
                             std::to_string(fiber.block) + " waits in line " + std::to_string(fiber.line) +
                             " for its " + other + ", which does not come there");
  }
}

sigjmp_buf out_of_bounds;
void on_fault(int) { siglongjmp(out_of_bounds, 1); }

}  // namespace

const char* guarded(const std::function<void()>& call) {
  static std::vector<char> fault_stack(64 * 1024);
  const stack_t stack{fault_stack.data(), 0, fault_stack.size()};
  stack_t old_stack;
  struct sigaction action{}, old_segv, old_bus;
  action.sa_handler = on_fault;
  action.sa_flags = SA_ONSTACK;
  sigaltstack(&stack, &old_stack);
  sigaction(SIGSEGV, &action, &old_segv);
  sigaction(SIGBUS, &action, &old_bus);
  failure.clear();
  if (sigsetjmp(out_of_bounds, 1) == 0) {
    try {
      call();
    } catch (const std::exception& error) {
      failure = error.what();
    }
  } else {
    failure = "thread " + std::to_string(threadIdx.x) + " of block " + std::to_string(blockIdx.x) +
              " accesses memory out of bounds";
  }
  limits.clear();
  sigaction(SIGSEGV, &old_segv, nullptr);
  sigaction(SIGBUS, &old_bus, nullptr);
  sigaltstack(&old_stack, nullptr);
  return failure.empty() ? nullptr : failure.c_str();
}

void seed(unsigned value) { order.seed(value); }

void limit(int64_t first, int64_t last) { limits.push_back({first, last}); }

WithoutLaunches::WithoutLaunches() { launches = false; }
WithoutLaunches::~WithoutLaunches() { launches = true; }

void run(int64_t blocks, int threads, const std::function<void()>& body, int64_t cluster) {
  if (!launches) return;
  kernel = &body;
  threads_of_block = threads;
  gridDim.x = static_cast<unsigned>(blocks);
  Ends ends{blocks, 0};
  if (!limits.empty()) {
    ends = limits.front();
    limits.pop_front();
  }
  std::vector<unsigned> turns;
  for (int64_t i = 0; i < std::min(ends.first, blocks); ++i) turns.push_back(static_cast<unsigned>(i));
  for (int64_t i = std::max(ends.first, blocks - ends.last); i < blocks; ++i) {
    turns.push_back(static_cast<unsigned>(i));
  }
  if (cluster > 16 || (cluster & (cluster - 1)) != 0) {
    throw std::runtime_error("a cluster of " + std::to_string(cluster) + " blocks");
  }
  if (cluster > 1 && cluster != blocks) throw std::runtime_error("more than one cluster is not emulated");
  std::shuffle(turns.begin(), turns.end(), order);
  for (size_t i = 0; i < turns.size(); i += static_cast<size_t>(cluster)) {
    run_cluster({turns.begin() + static_cast<int64_t>(i), turns.begin() + static_cast<int64_t>(i) + cluster});
  }
}

void meet_block(int line) { leave(State::at_block, line); }

void meet_cluster(int line) { leave(State::at_cluster, line); }

bool meet_block_or(bool brought, int line) {
  static bool any;
  any = false;
  meet_block(line);
  if (brought) any = true;
  meet_block(line);
  const bool met = any;
  meet_block(line);  // before it is used again
  return met;
}

int own_lane() { return current % threads_of_block % kLanes; }

const uint64_t* meet_warp(unsigned lanes, uint64_t value, int line) {
  if (lanes != 0xffffffffu) throw std::runtime_error("a warp meets without some of its lanes");
  Warp& warp = warps[static_cast<size_t>(current / kLanes)];
  warp.brought[own_lane()] = value;
  leave(State::at_warp, line);
  return warp.met;
}

}  // namespace cuda_emulator

float __half2float(__half value) {
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16, magnitude = value.bits & 0x7fffu;
  if (magnitude >= 0x7c00u) {
    return cuda_emulator::from_bits<float>(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  }
  const float unsigned_value = magnitude >= 0x400u
                                   ? cuda_emulator::from_bits<float>((magnitude << 13) + 0x38000000u)
                                   : std::ldexp(static_cast<float>(magnitude), -24);
  return sign ? -unsigned_value : unsigned_value;
}

__half __float2half_rn(float value) {
  if (value != value) return {0x7fff};
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const float magnitude = std::fabs(value);
  if (magnitude >= 65520.0f) return {static_cast<uint16_t>(sign | 0x7c00)};
  int exponent;
  std::frexp(magnitude, &exponent);
  exponent = magnitude == 0 ? -14 : std::max(exponent - 1, -14);  // of the leading bit, or of subnormals
  const auto units = static_cast<int>(std::nearbyint(std::ldexp(magnitude, 10 - exponent)));
  return {static_cast<uint16_t>(sign | (((exponent + 14) << 10) + units))};
}

__nv_bfloat16 __float2bfloat16_rn(float value) {
  if (value != value) return {0x7fff};
  const auto bits = static_cast<uint32_t>(cuda_emulator::to_bits(value));
  return {static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1)) >> 16)};
}
