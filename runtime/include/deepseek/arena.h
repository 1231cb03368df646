// Packing of blocks with known lifetimes into one arena.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace deepseek {

inline constexpr int64_t kArenaAlignment = 64;

struct Packing {
  std::vector<int64_t> offsets;
  int64_t total = 0;
};

// Block i has sizes[i] bytes and lives during the steps first[i]..last[i], both inclusive.
Packing pack_arena(std::span<const int64_t> sizes, std::span<const int64_t> first,
                   std::span<const int64_t> last, int64_t alignment = kArenaAlignment);

// The largest sum of live (aligned) bytes over all steps: no packing is smaller.
int64_t live_lower_bound(std::span<const int64_t> sizes, std::span<const int64_t> first,
                         std::span<const int64_t> last, int64_t alignment = kArenaAlignment);

}  // namespace deepseek
