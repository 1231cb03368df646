#include "deepseek/cpu.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>

namespace deepseek {
namespace {

// The caches that the first processor sees. The C library's figures are wrong under some
// hypervisors, so the system's own description is preferred.
void read_caches(CpuFeatures& cpu) {
  cpu.l1d = std::max(0L, sysconf(_SC_LEVEL1_DCACHE_SIZE));
  cpu.l2 = std::max(0L, sysconf(_SC_LEVEL2_CACHE_SIZE));
  cpu.l3 = std::max(0L, sysconf(_SC_LEVEL3_CACHE_SIZE));
  const auto read = [](int index, const char* what) {
    std::ifstream file("/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(index) + "/" +
                       what);
    std::string text;
    file >> text;
    return text;
  };
  for (int index = 0; index < 8; ++index) {
    const std::string level = read(index, "level");
    const std::string size = read(index, "size");  // such as 32K
    if (level.empty() || size.empty() || read(index, "type") == "Instruction") {
      continue;
    }
    const int64_t unit = size.back() == 'M' ? 1 << 20 : size.back() == 'K' ? 1 << 10 : 1;
    const int64_t bytes = std::stoll(size) * unit;
    (level == "1" ? cpu.l1d : level == "2" ? cpu.l2 : cpu.l3) = bytes;
  }
}

}  // namespace

bool CpuFeatures::has(const std::string& flag) const {
  return std::find(flags.begin(), flags.end(), flag) != flags.end();
}

CpuFeatures cpu_features() {
  CpuFeatures cpu;
  __builtin_cpu_init();
  cpu.level = __builtin_cpu_supports("x86-64-v4")   ? "v4"
              : __builtin_cpu_supports("x86-64-v3") ? "v3"
              : __builtin_cpu_supports("x86-64-v2") ? "v2"
                                                    : "v1";
  const auto flag = [&](const char* name, int supported) {
    if (supported != 0) {
      cpu.flags.emplace_back(name);
    }
  };
  // The compiler wants literals here.
  flag("sse4.2", __builtin_cpu_supports("sse4.2"));
  flag("f16c", __builtin_cpu_supports("f16c"));
  flag("fma", __builtin_cpu_supports("fma"));
  flag("avx", __builtin_cpu_supports("avx"));
  flag("avx2", __builtin_cpu_supports("avx2"));
  flag("avx512f", __builtin_cpu_supports("avx512f"));
  flag("avx512bw", __builtin_cpu_supports("avx512bw"));
  flag("avx512dq", __builtin_cpu_supports("avx512dq"));
  flag("avx512vl", __builtin_cpu_supports("avx512vl"));
  flag("avx512vnni", __builtin_cpu_supports("avx512vnni"));
  flag("avx512bf16", __builtin_cpu_supports("avx512bf16"));
  flag("avx512fp16", __builtin_cpu_supports("avx512fp16"));
  flag("avxvnni", __builtin_cpu_supports("avxvnni"));

  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.starts_with("model name")) {
      cpu.name = line.substr(std::min(line.find(": ") + 2, line.size()));
      break;
    }
  }
  read_caches(cpu);
  return cpu;
}

}  // namespace deepseek
