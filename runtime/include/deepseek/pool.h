// The caching pool of the machine's memory: aligned blocks, size classes, statistics, a limit.
//
// Freed blocks are kept for reuse, large ones too: page faults of fresh memory cost more than most
// kernels. Every live block carries a label, so that a report can say who holds what.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "deepseek/memory.h"

namespace deepseek {

class Pool final : public Memory {
 public:
  static constexpr size_t kAlignment = 64;
  static constexpr size_t kPage = 4096;
  static constexpr size_t kLarge = size_t{256} << 10;  // from here on blocks are mapped by pages
  static constexpr size_t kHuge = size_t{2} << 20;     // size of a huge page

  static Pool& global();

  Pool();
  ~Pool() override;

  void acquire(LiveBlock& block, size_t nbytes, std::string label) override;
  void release(LiveBlock& block) noexcept override;
  size_t empty_cache() override;
  void set_limit(std::optional<size_t> nbytes) override;

  static size_t capacity_for(size_t nbytes);

  // For fork: the child must find the pool in one piece.
  void lock() { mutex_.lock(); }
  void unlock() { mutex_.unlock(); }

 private:
  struct FreeBlock {
    void* data;
    uint64_t stamp;  // when it was freed, to give the oldest back first
  };

  bool take_cached(LiveBlock& block, size_t capacity);
  bool evict_oldest();

  std::map<size_t, std::vector<FreeBlock>> free_;  // by capacity
  uint64_t clock_ = 0;
};

}  // namespace deepseek
