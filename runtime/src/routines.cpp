#include "deepseek/routines.h"

#include "deepseek/sort.h"

namespace deepseek {
namespace {

constexpr const Routine* kTable[] = {&kSort};

}  // namespace

std::span<const Routine* const> routines() {
  return kTable;
}

const Routine* find_routine(std::string_view name) {
  for (const Routine* routine : kTable) {
    if (routine->name == name) {
      return routine;
    }
  }
  return nullptr;
}

}  // namespace deepseek
