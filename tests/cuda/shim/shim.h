// CUDA text on a CPU: one fiber for each thread of a block, blocks one after another.
//
// A fiber runs until it waits for others: at __syncthreads, at __syncwarp or in a shuffle. When all
// wait, those whose partners have arrived go on. A barrier that some threads of the block do not
// reach, threads at different barriers, and a shuffle that lacks lanes end the launch with a
// message instead of a hang. `order` says in which order threads run: results must not depend on
// it.
#pragma once

#include <math.h>
#include <stdint.h>

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

// The block that runs.
struct Block {
  uint3 index, grid, threads;
  Fiber* fibers;
  Fiber* current;
};

extern Block block;

// The current thread lets others run until those it waits for have come.
void wait(At at, int line);

// Runs a kernel; `order` 0: threads from first to last, 1: from last to first, else shuffled by it.
// Returns what went wrong, or null.
const char* launch(unsigned blocks, unsigned x, unsigned y, unsigned order, void (*kernel)(void*),
                   void* argument);

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

inline unsigned lane() {
  return block.current->number % WARP;
}

template <class F>
const char* launched(unsigned blocks, unsigned x, unsigned y, unsigned order, F kernel) {
  return launch(blocks, x, y, order, [](void* f) { (*(F*)f)(); }, &kernel);
}

}  // namespace shim

#define threadIdx (shim::block.current->thread)
#define blockIdx (shim::block.index)
#define blockDim (shim::block.threads)
#define gridDim (shim::block.grid)

#define __syncthreads() shim::wait(shim::At::BLOCK, __LINE__)
#define __syncwarp() shim::wait(shim::At::WARP, __LINE__)
#define __shfl_sync(mask, x, source) decltype(x)(shim::shuffle(x, source, __LINE__))
#define __shfl_down_sync(mask, x, distance) \
  decltype(x)(shim::shuffle(                \
      x, shim::lane() + distance < shim::WARP ? shim::lane() + distance : shim::lane(), __LINE__))

inline uint32_t __umulhi(uint32_t a, uint32_t b) {
  return uint32_t(uint64_t(a) * b >> 32);
}

template <class T>
T atomicAdd(T* at, T x) {
  const T before = *at;
  *at = before + x;
  return before;
}
template <class T>
T atomicCAS(T* at, T expected, T wanted) {
  const T before = *at;
  if (before == expected)
    *at = wanted;
  return before;
}

// What the prelude's instructions do.
namespace twin {

inline uint16_t float16_bits(float x) {
  return __builtin_bit_cast(uint16_t, _Float16(x));
}
inline uint16_t float16_bits(double x) {
  return __builtin_bit_cast(uint16_t, _Float16(x));
}
inline float float_of(uint16_t bits) {
  return float(__builtin_bit_cast(_Float16, bits));
}

inline uint16_t bfloat16_bits(float x) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, x);
  if (x != x)
    return uint16_t(bits >> 16 | 0x40);
  return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

}  // namespace twin
