// What the processor can do and how large its caches are.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace deepseek {

struct CpuFeatures {
  std::string level;  // "v1" to "v4", the x86-64 level
  std::string name;
  std::vector<std::string> flags;
  int64_t l1d = 0;
  int64_t l2 = 0;
  int64_t l3 = 0;

  bool has(const std::string& flag) const;
};

CpuFeatures cpu_features();

}  // namespace deepseek
