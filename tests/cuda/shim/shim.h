// CUDA text on a CPU: one fiber for each thread of a block, blocks one after another.
//
// A fiber runs until it waits for others: at __syncthreads, at __syncwarp or in a shuffle. When all
// wait, those whose partners have arrived go on. A barrier that some threads of the block do not
// reach, threads at different barriers, and a shuffle that lacks lanes end the launch with a message
// instead of a hang. `order` says in which order threads run: results must not depend on it.
#pragma once

#include <math.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__ static  // one block at a time
#define __launch_bounds__(...)

struct uint3 {
  unsigned x, y, z;
};

namespace shim {

constexpr unsigned WARP = 32;
constexpr size_t STACK_BYTES = 64 << 10;

enum class At { RUNNING, BLOCK, WARP, DONE };

struct Fiber {
  void* stack;
  uint3 thread;
  unsigned number;
  At at;
  int line;
  uint64_t word;  // what it brings to a shuffle
};

struct Block {
  uint3 index, grid, threads;
  std::vector<Fiber> fibers;
  std::vector<unsigned> order;
  std::unique_ptr<char[]> stacks;
  size_t stack_count = 0;
  void* scheduler = nullptr;
  Fiber* current = nullptr;
  void (*entry)(void*) = nullptr;
  void* argument = nullptr;
  std::string error;
};

inline Block block;

extern "C" void shim_switch(void** from, void* to);
asm(R"(
.pushsection .text
.weak shim_switch
.type shim_switch, @function
shim_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size shim_switch, .-shim_switch
.popsection
)");

inline void wait(At at, int line) {
  Fiber* fiber = block.current;
  fiber->at = at;
  fiber->line = line;
  shim_switch(&fiber->stack, block.scheduler);
}

inline void run_fiber() {
  block.entry(block.argument);
  for (;;) wait(At::DONE, 0);
}

inline void prepare(Fiber& fiber, char* stack) {
  void** top = (void**)((uintptr_t)(stack + STACK_BYTES) & ~uintptr_t(63));
  *--top = nullptr;  // where nobody returns to
  *--top = (void*)run_fiber;
  for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
  fiber.stack = top;
  fiber.at = At::RUNNING;
}

inline std::string where(const Fiber& fiber) {
  switch (fiber.at) {
    case At::BLOCK:
      return "waits at __syncthreads in line " + std::to_string(fiber.line);
    case At::WARP:
      return "waits for its warp in line " + std::to_string(fiber.line);
    case At::DONE:
      return "has ended";
    default:
      return "runs";
  }
}

// Two threads that should wait together do not.
inline void fail(const char* what, const Fiber& a, const Fiber& b) {
  block.error = std::string(what) + ": thread " + std::to_string(a.number) + " " + where(a) +
                ", thread " + std::to_string(b.number) + " " + where(b);
}

// The lanes of a warp that wait for each other go on together; true if they did.
inline bool release_warp(unsigned first) {
  auto& fibers = block.fibers;
  const unsigned end = std::min<unsigned>(first + WARP, fibers.size());
  const Fiber* waiting = nullptr;
  for (unsigned i = first; i < end; ++i) {
    if (fibers[i].at == At::WARP) waiting = &fibers[i];
  }
  if (waiting == nullptr) return false;
  for (unsigned i = first; i < end; ++i) {
    if (fibers[i].at != At::WARP || fibers[i].line != waiting->line) {
      fail("missing lane", *waiting, fibers[i]);
      return false;
    }
  }
  for (unsigned i = first; i < end; ++i) fibers[i].at = At::RUNNING;
  return true;
}

// All threads of the block go on together; true if they did.
inline bool release_block() {
  auto& fibers = block.fibers;
  const Fiber* waiting = nullptr;
  for (const Fiber& fiber : fibers) {
    if (fiber.at == At::BLOCK) waiting = &fiber;
  }
  if (waiting == nullptr) return false;
  for (const Fiber& fiber : fibers) {
    if (fiber.at != At::BLOCK || fiber.line != waiting->line) {
      fail("divergent barrier", *waiting, fiber);
      return false;
    }
  }
  for (Fiber& fiber : fibers) fiber.at = At::RUNNING;
  return true;
}

inline void run_block() {
  for (;;) {
    for (unsigned i : block.order) {
      Fiber& fiber = block.fibers[i];
      if (fiber.at != At::RUNNING) continue;
      block.current = &fiber;
      shim_switch(&block.scheduler, fiber.stack);
    }
    bool released = false;
    for (unsigned i = 0; i < block.fibers.size(); i += WARP) released |= release_warp(i);
    if (!block.error.empty()) return;
    if (!released && !release_block()) return;
    if (!block.error.empty()) return;
  }
}

// Runs a kernel; `order` 0: threads from first to last, 1: from last to first, else shuffled by it.
// Returns what went wrong, or null.
template <class F>
const char* launch(unsigned blocks, unsigned x, unsigned y, unsigned order, F kernel) {
  const unsigned threads = x * y;
  block.error.clear();
  block.grid = {blocks, 1, 1};
  block.threads = {x, y, 1};
  block.fibers.resize(threads);
  block.order.resize(threads);
  std::iota(block.order.begin(), block.order.end(), 0);
  if (order == 1) std::reverse(block.order.begin(), block.order.end());
  if (order > 1) {
    std::shuffle(block.order.begin(), block.order.end(), std::mt19937(order));
  }
  if (block.stack_count < threads) {
    block.stacks.reset(new char[threads * STACK_BYTES]);
    block.stack_count = threads;
  }
  block.entry = [](void* f) { (*(F*)f)(); };
  block.argument = &kernel;
  for (unsigned i = 0; i < blocks && block.error.empty(); ++i) {
    block.index = {i, 0, 0};
    for (unsigned t = 0; t < threads; ++t) {
      Fiber& fiber = block.fibers[t];
      fiber.thread = {t % x, t / x, 0};
      fiber.number = t;
      prepare(fiber, block.stacks.get() + t * STACK_BYTES);
    }
    run_block();
  }
  return block.error.empty() ? nullptr : block.error.c_str();
}

// Every lane brings a word and takes that of another.
inline uint64_t shuffle(uint64_t word, unsigned source, int line) {
  Fiber* fiber = block.current;
  fiber->word = word;
  wait(At::WARP, line);
  const unsigned first = fiber->number / WARP * WARP;
  const uint64_t taken = block.fibers[first + source % WARP].word;
  wait(At::WARP, line);
  return taken;
}

inline unsigned lane() { return block.current->number % WARP; }

}  // namespace shim

#define threadIdx (shim::block.current->thread)
#define blockIdx (shim::block.index)
#define blockDim (shim::block.threads)
#define gridDim (shim::block.grid)

#define __syncthreads() shim::wait(shim::At::BLOCK, __LINE__)
#define __syncwarp() shim::wait(shim::At::WARP, __LINE__)
#define __shfl_sync(mask, x, source) decltype(x)(shim::shuffle(x, source, __LINE__))
#define __shfl_down_sync(mask, x, distance)                                           \
  decltype(x)(shim::shuffle(                                                          \
      x, shim::lane() + distance < shim::WARP ? shim::lane() + distance : shim::lane(), __LINE__))

inline uint32_t __umulhi(uint32_t a, uint32_t b) { return uint32_t(uint64_t(a) * b >> 32); }

template <class T>
T atomicAdd(T* at, T x) {
  const T before = *at;
  *at = before + x;
  return before;
}
template <class T>
T atomicCAS(T* at, T expected, T wanted) {
  const T before = *at;
  if (before == expected) *at = wanted;
  return before;
}

// What the prelude's instructions do.
namespace twin {

inline uint16_t float16_bits(float x) { return __builtin_bit_cast(uint16_t, _Float16(x)); }
inline uint16_t float16_bits(double x) { return __builtin_bit_cast(uint16_t, _Float16(x)); }
inline float float_of(uint16_t bits) { return float(__builtin_bit_cast(_Float16, bits)); }

inline uint16_t bfloat16_bits(float x) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, x);
  if (x != x) return uint16_t(bits >> 16 | 0x40);
  return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

}  // namespace twin
