// The scheduler of the shim: which fiber runs next, and what stops a launch.
#include "shim.h"

#include <algorithm>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

extern "C" void shim_switch(void** from, void* to);
asm(R"(
.pushsection .text
.globl shim_switch
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

namespace shim {

Block block;

namespace {

std::vector<Fiber> fibers;
std::vector<unsigned> turns;
std::unique_ptr<char[]> stacks;
size_t stack_count = 0;
void* scheduler = nullptr;
void (*entry)(void*) = nullptr;
void* entry_argument = nullptr;
std::string error;

void run_fiber() {
  entry(entry_argument);
  for (;;)
    wait(At::DONE, 0);
}

void prepare(Fiber& fiber, char* stack) {
  void** top = (void**)((uintptr_t)(stack + STACK_BYTES) & ~uintptr_t(63));
  *--top = nullptr;  // where nobody returns to
  *--top = (void*)run_fiber;
  for (int saved = 0; saved < 6; ++saved)
    *--top = nullptr;
  fiber.stack = top;
  fiber.at = At::RUNNING;
}

std::string where(const Fiber& fiber) {
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
void fail(const char* what, const Fiber& a, const Fiber& b) {
  error = std::string(what) + ": thread " + std::to_string(a.number) + " " + where(a) +
          ", thread " + std::to_string(b.number) + " " + where(b);
}

// The lanes of a warp that wait for each other go on together; true if they did.
bool release_warp(unsigned first) {
  const unsigned end = std::min<unsigned>(first + WARP, fibers.size());
  const Fiber* waiting = nullptr;
  for (unsigned i = first; i < end; ++i) {
    if (fibers[i].at == At::WARP)
      waiting = &fibers[i];
  }
  if (waiting == nullptr)
    return false;
  for (unsigned i = first; i < end; ++i) {
    if (fibers[i].at != At::WARP || fibers[i].line != waiting->line) {
      fail("missing lane", *waiting, fibers[i]);
      return false;
    }
  }
  for (unsigned i = first; i < end; ++i)
    fibers[i].at = At::RUNNING;
  return true;
}

// All threads of the block go on together; true if they did.
bool release_block() {
  const Fiber* waiting = nullptr;
  for (const Fiber& fiber : fibers) {
    if (fiber.at == At::BLOCK)
      waiting = &fiber;
  }
  if (waiting == nullptr)
    return false;
  for (const Fiber& fiber : fibers) {
    if (fiber.at != At::BLOCK || fiber.line != waiting->line) {
      fail("divergent barrier", *waiting, fiber);
      return false;
    }
  }
  for (Fiber& fiber : fibers)
    fiber.at = At::RUNNING;
  return true;
}

void run_block() {
  for (;;) {
    for (unsigned i : turns) {
      Fiber& fiber = fibers[i];
      if (fiber.at != At::RUNNING)
        continue;
      block.current = &fiber;
      shim_switch(&scheduler, fiber.stack);
    }
    bool released = false;
    for (unsigned i = 0; i < fibers.size(); i += WARP)
      released |= release_warp(i);
    if (!error.empty())
      return;
    if (!released && !release_block())
      return;
    if (!error.empty())
      return;
  }
}

}  // namespace

void wait(At at, int line) {
  Fiber* fiber = block.current;
  fiber->at = at;
  fiber->line = line;
  shim_switch(&fiber->stack, scheduler);
}

const char* launch(unsigned blocks, unsigned x, unsigned y, unsigned order, void (*kernel)(void*),
                   void* argument) {
  const unsigned threads = x * y;
  error.clear();
  fibers.resize(threads);
  turns.resize(threads);
  std::iota(turns.begin(), turns.end(), 0);
  if (order == 1)
    std::reverse(turns.begin(), turns.end());
  if (order > 1)
    std::shuffle(turns.begin(), turns.end(), std::mt19937(order));
  if (stack_count < threads) {
    stacks.reset(new char[threads * STACK_BYTES]);
    stack_count = threads;
  }
  entry = kernel;
  entry_argument = argument;
  block.grid = {blocks, 1, 1};
  block.threads = {x, y, 1};
  block.fibers = fibers.data();
  for (unsigned i = 0; i < blocks && error.empty(); ++i) {
    block.index = {i, 0, 0};
    for (unsigned t = 0; t < threads; ++t) {
      fibers[t].thread = {t % x, t / x, 0};
      fibers[t].number = t;
      prepare(fibers[t], stacks.get() + t * STACK_BYTES);
    }
    run_block();
  }
  return error.empty() ? nullptr : error.c_str();
}

}  // namespace shim
