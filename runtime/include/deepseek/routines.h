// Runtime routines that an Extern step calls by name. A new one is a row in the table.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace deepseek {

struct RoutineCall {
  std::span<void* const> buffers;
  std::span<const int64_t> sizes;
  char* scratch;  // max_workers blocks, `scratch_stride` bytes apart
  size_t scratch_stride;
  int max_workers;
};

struct Routine {
  std::string_view name;
  // Throws std::invalid_argument when the call cannot work; `nbytes` are the buffers' sizes. All
  // that can be wrong is found here, at bind: a run must not fail halfway.
  void (*check)(std::span<const int64_t> sizes, std::span<const int64_t> nbytes);
  int64_t (*scratch_bytes)(std::span<const int64_t> sizes);  // per thread
  void (*run)(const RoutineCall& call);
};

std::span<const Routine* const> routines();
const Routine* find_routine(std::string_view name);

}  // namespace deepseek
