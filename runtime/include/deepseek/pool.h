// The caching pool that all memory comes from: aligned blocks, size classes, statistics, a limit.
//
// Freed blocks are kept for reuse, large ones too: page faults of fresh memory cost more than most
// kernels. Every live block carries a label, so that a report can say who holds what.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <new>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace deepseek {

class OutOfMemory : public std::bad_alloc {
 public:
  explicit OutOfMemory(std::string message) : message_(std::move(message)) {}
  const char* what() const noexcept override { return message_.c_str(); }

 private:
  std::string message_;
};

struct PoolStats {
  size_t in_use = 0;    // bytes asked for by live blocks
  size_t reserved = 0;  // bytes held from the system, live and cached
  size_t cached = 0;    // bytes of free blocks kept for reuse
  size_t peak = 0;      // largest in_use
  uint64_t allocations = 0;
  uint64_t cache_hits = 0;
  size_t live_blocks = 0;
  std::optional<size_t> limit;
  size_t physical = 0;  // memory of the machine or of its control group
};

// A block in use; linked into its pool's list while it lives, so it must not move.
struct LiveBlock {
  void* data = nullptr;
  size_t nbytes = 0;
  size_t capacity = 0;
  std::string label;
  LiveBlock* previous = nullptr;
  LiveBlock* next = nullptr;
};

class Pool {
 public:
  static constexpr size_t kAlignment = 64;
  static constexpr size_t kPage = 4096;
  static constexpr size_t kLarge = size_t{256} << 10;  // from here on blocks are mapped by pages
  static constexpr size_t kHuge = size_t{2} << 20;     // size of a huge page

  static Pool& global();

  Pool();
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  // Fills block.data and block.capacity for nbytes; throws OutOfMemory.
  void acquire(LiveBlock& block, size_t nbytes, std::string label);
  void release(LiveBlock& block) noexcept;
  std::string label_of(const LiveBlock& block);
  void set_label(LiveBlock& block, std::string label);

  PoolStats stats();
  std::vector<std::pair<std::string, size_t>> live_blocks();  // largest first
  void set_limit(std::optional<size_t> nbytes);
  size_t empty_cache();
  void reset_peak();

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
  size_t effective_limit() const;
  std::string describe_failure(size_t nbytes) const;

  std::mutex mutex_;
  std::map<size_t, std::vector<FreeBlock>> free_;  // by capacity
  LiveBlock live_;                                 // head of the ring of live blocks
  PoolStats stats_;
  uint64_t clock_ = 0;
};

}  // namespace deepseek
