// One fiber for each CUDA thread, one block at a time. Between two barriers the fibers of a block
// run one after the other in a seeded random order, so that a missing barrier shows as wrong
// numbers. Fibers never preempt each other: races inside a phase need compute-sanitizer and a GPU.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#if !defined(__x86_64__) || defined(CUCPU_UCONTEXT)
#define CUCPU_USE_UCONTEXT 1
#include <ucontext.h>
#endif

#if !defined(CUCPU_STACK_BYTES)
#define CUCPU_STACK_BYTES (32 * 1024)  // a sanitizer needs more
#endif

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

inline thread_local uint3 threadIdx, blockIdx;
inline thread_local dim3 blockDim, gridDim;

#if !defined(CUCPU_USE_UCONTEXT)
// Saves the registers that a call preserves, and changes the stack.
extern "C" void cucpu_switch(void** save, void* to);
asm(".text\n.weak cucpu_switch\n.type cucpu_switch,@function\ncucpu_switch:\n"
    "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
    "movq %rsp,(%rdi)\nmovq %rsi,%rsp\n"
    "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\nret\n");
#endif

namespace cucpu {

constexpr std::size_t kMaxShared = 227 * 1024, kCanary = 64;

enum class Order { kForward, kReverse, kRandom };
struct Options {
  Order order = Order::kRandom;
  std::uint64_t seed = 1;
};
struct Stats {
  std::uint64_t blocks = 0, switches = 0, barriers = 0;
};
inline Options options;
inline Stats stats;

// A place where a thread of control rests.
#if defined(CUCPU_USE_UCONTEXT)
struct Context {
  ucontext_t state;
  void begin(char* stack, void (*entry)()) {
    getcontext(&state);
    state.uc_stack.ss_sp = stack;
    state.uc_stack.ss_size = CUCPU_STACK_BYTES;
    state.uc_link = nullptr;
    makecontext(&state, entry, 0);
  }
  void leave_for(Context& other) { swapcontext(&state, &other.state); }
};
#else
struct Context {
  void* top = nullptr;
  void begin(char* stack, void (*entry)()) {
    auto** slot = reinterpret_cast<void**>(stack + CUCPU_STACK_BYTES) - 2;
    *slot = reinterpret_cast<void*>(entry);
    for (int i = 0; i < 6; ++i) *--slot = nullptr;
    top = slot;
  }
  void leave_for(Context& other) { cucpu_switch(&top, other.top); }
};
#endif

enum class State : std::uint8_t { kReady, kAtBlockBarrier, kAtWarpBarrier, kDone };

struct Fiber {
  Context context;
  uint3 thread;
  State state;
  int line, source;             // of the barrier; of a shuffle
  unsigned mask, ballot;        // of a warp barrier
  std::uint64_t value, result;  // of a shuffle
};

class Scheduler {
 public:
  void launch(dim3 grid, dim3 block, std::size_t shared_bytes, void (*body)(void*), void* argument);
  unsigned char* shared_memory() { return shared_.data(); }
  int lane() const { return current_ & 31; }
  void wait_for_block(int line) {
    Fiber& fiber = fibers_[current_];
    fiber.state = State::kAtBlockBarrier;
    fiber.line = line;
    fiber.context.leave_for(main_);
  }
  Fiber& wait_for_warp(unsigned mask, std::uint64_t value, int source) {
    Fiber& fiber = fibers_[current_];
    fiber.state = State::kAtWarpBarrier;
    fiber.mask = mask;
    fiber.value = value;
    fiber.source = source;
    fiber.context.leave_for(main_);
    return fiber;
  }
  void run_current() {
    for (;;) {
      body_(argument_);
      fibers_[current_].state = State::kDone;
      fibers_[current_].context.leave_for(main_);
    }
  }

 private:
  [[noreturn]] static void fail(const std::string& what) {
    throw std::runtime_error("cucpu: " + what + " in block (" + std::to_string(blockIdx.x) + ", " +
                             std::to_string(blockIdx.y) + ", " + std::to_string(blockIdx.z) + ")");
  }
  std::uint64_t random() {
    rng_ ^= rng_ << 13;
    rng_ ^= rng_ >> 7;
    rng_ ^= rng_ << 17;
    return rng_;
  }
  template <class T>
  void put_in_order(std::vector<T>& items) {
    if (options.order == Order::kReverse) std::reverse(items.begin(), items.end());
    if (options.order != Order::kRandom) return;
    for (std::size_t i = items.size(); i > 1; --i) std::swap(items[i - 1], items[random() % i]);
  }
  bool is_live(int i) const { return i < num_fibers_ && fibers_[i].state != State::kDone; }
  void run_block(dim3 block, std::size_t shared_bytes);
  void prepare(dim3 block);
  bool release();
  void release_block();
  void release_warp(int warp, int i);

  std::vector<Fiber> fibers_;
  std::vector<int> ready_;
  std::vector<unsigned char> shared_ = std::vector<unsigned char>(kMaxShared + kCanary);
  char* stacks_ = nullptr;
  int num_stacks_ = 0, num_fibers_ = 0, current_ = 0;
  std::uint64_t rng_ = 1;
  Context main_;
  void (*body_)(void*) = nullptr;
  void* argument_ = nullptr;
};

inline thread_local Scheduler scheduler;
inline void fiber_entry() { scheduler.run_current(); }

inline void Scheduler::release_block() {
  int line = -1;
  for (int i = 0; i < num_fibers_; ++i) {
    if (!is_live(i)) fail("__syncthreads() after some threads returned");
    if (line >= 0 && fibers_[i].line != line) fail("threads wait at different __syncthreads()");
    line = fibers_[i].line;
  }
  ++stats.barriers;
  for (int i = 0; i < num_fibers_; ++i) {
    fibers_[i].state = State::kReady;
    ready_.push_back(i);
  }
}

// Releases the lanes that wait with fiber i, if all that its mask names have come.
inline void Scheduler::release_warp(int warp, int i) {
  const unsigned mask = fibers_[i].mask;
  if (!(mask >> (i - warp) & 1)) fail("a *_sync function called by a lane outside its mask");
  unsigned ballot = 0;
  for (int lane = 0; lane < 32; ++lane) {
    if (!(mask >> lane & 1) || warp + lane >= num_fibers_) continue;
    const Fiber& other = fibers_[warp + lane];
    if (other.state == State::kDone) fail("a *_sync mask names a lane that returned");
    if (other.state != State::kAtWarpBarrier || other.mask != mask) return;
    if (other.value) ballot |= 1u << lane;
  }
  for (int lane = 0; lane < 32; ++lane) {
    if (!(mask >> lane & 1) || warp + lane >= num_fibers_) continue;
    Fiber& other = fibers_[warp + lane];
    const int source = other.source;
    const bool has_source = source >= 0 && (mask >> source & 1) && is_live(warp + source);
    other.result = has_source ? fibers_[warp + source].value : ~std::uint64_t{0};
    other.ballot = ballot;
    ready_.push_back(warp + lane);
  }
  for (const int released : ready_) fibers_[released].state = State::kReady;
}

// Fills ready_ with the fibers whose barrier is complete. False: every fiber is done.
inline bool Scheduler::release() {
  ready_.clear();
  int live = 0, at_block_barrier = 0;
  for (int i = 0; i < num_fibers_; ++i) {
    live += is_live(i);
    at_block_barrier += fibers_[i].state == State::kAtBlockBarrier;
  }
  if (live == 0) return false;
  if (at_block_barrier == live) {
    release_block();
    return true;
  }
  for (int i = 0; i < num_fibers_; ++i) {
    if (fibers_[i].state == State::kAtWarpBarrier) release_warp(i / 32 * 32, i);
  }
  if (ready_.empty()) fail("deadlock: some threads never come to a barrier");
  return true;
}

inline void Scheduler::prepare(dim3 block) {
  const unsigned count = block.x * block.y * block.z;
  if (count < 1 || count > 1024) fail("a launch of " + std::to_string(count) + " threads");
  num_fibers_ = static_cast<int>(count);
  if (num_fibers_ > num_stacks_) {
    if (stacks_) munmap(stacks_, std::size_t{CUCPU_STACK_BYTES} * num_stacks_);
    num_stacks_ = num_fibers_;
    void* memory = mmap(nullptr, std::size_t{CUCPU_STACK_BYTES} * num_stacks_,
                        PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    stacks_ = static_cast<char*>(memory);
    fibers_.resize(num_fibers_);
  }
  ready_.clear();
  for (int i = 0; i < num_fibers_; ++i) {
    const auto thread = static_cast<unsigned>(i);
    fibers_[i].thread = {thread % block.x, thread / block.x % block.y,
                         thread / (block.x * block.y)};
    fibers_[i].state = State::kReady;
    fibers_[i].context.begin(stacks_ + std::size_t{CUCPU_STACK_BYTES} * i, fiber_entry);
    ready_.push_back(i);
  }
}

inline void Scheduler::run_block(dim3 block, std::size_t shared_bytes) {
  if (shared_bytes > kMaxShared) fail("too much shared memory");
  std::memset(shared_.data(), 0xFF, shared_bytes);  // every float is NaN until it is written
  std::memset(shared_.data() + shared_bytes, 0xA5, kCanary);
  prepare(block);
  do {
    put_in_order(ready_);
    for (const int i : ready_) {
      current_ = i;
      threadIdx = fibers_[i].thread;
      ++stats.switches;
      main_.leave_for(fibers_[i].context);
    }
  } while (release());
  for (std::size_t i = 0; i < kCanary; ++i) {
    if (shared_[shared_bytes + i] != 0xA5) fail("dynamic shared memory overrun");
  }
  ++stats.blocks;
}

inline void Scheduler::launch(dim3 grid, dim3 block, std::size_t shared_bytes, void (*body)(void*),
                              void* argument) {
  gridDim = grid;
  blockDim = block;
  body_ = body;
  argument_ = argument;
  rng_ = options.seed * 0x9E3779B97F4A7C15ull | 1;
  std::vector<std::uint32_t> blocks(std::size_t{grid.x} * grid.y * grid.z);
  for (std::size_t i = 0; i < blocks.size(); ++i) blocks[i] = static_cast<std::uint32_t>(i);
  put_in_order(blocks);
  for (const std::uint32_t b : blocks) {
    blockIdx = {b % grid.x, b / grid.x % grid.y, b / (grid.x * grid.y)};
    run_block(block, shared_bytes);
  }
}

template <class T>
T shuffle(unsigned mask, T value, int source) {
  static_assert(sizeof(T) <= 8);
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = scheduler.wait_for_warp(mask, bits, source).result;
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace cucpu
