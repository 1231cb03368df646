// Runs a Program: takes buffers, gives buffers.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "deepseek/buffer.h"
#include "deepseek/interrupt.h"
#include "deepseek/program.h"

namespace deepseek {

struct RunArguments {
  std::span<const std::shared_ptr<Buffer>> inputs;
  std::span<const int64_t> symbols;
  std::span<const char> donate;  // empty, or one flag per input
  InterruptCheck interrupt;      // asked between steps, before the first donated write
};

// Outputs in order of declaration. An output that took over a donated input is that very buffer.
// All checks and allocations, and every interrupt, come before the first write to a donated buffer.
std::vector<std::shared_ptr<Buffer>> run(const Program& program, const RunArguments& arguments);

}  // namespace deepseek
