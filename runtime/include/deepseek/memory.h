// Memory: where the bytes of Buffers come from, and the books on who holds what of it.
//
// The machine's own is a Pool; a device has one of its own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <new>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace deepseek {

// The number of the machine's own memory; devices count from 0.
constexpr int kHost = -1;

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
  size_t peak_reserved = 0;
  uint64_t allocations = 0;
  uint64_t cache_hits = 0;
  uint64_t retries = 0;   // allocations that first had to give back what was cached
  uint64_t failures = 0;  // allocations refused
  size_t live_blocks = 0;
  std::optional<size_t> limit;
  size_t physical = 0;  // memory of the machine, of its control group, or of the device
};

// A block in use; linked into its memory's list while it lives, so it must not move.
struct LiveBlock {
  void* data = nullptr;
  size_t nbytes = 0;
  size_t capacity = 0;
  void* stream = nullptr;  // of a device's block: whose work it was made for
  std::string label;
  LiveBlock* previous = nullptr;
  LiveBlock* next = nullptr;
};

class Memory {
 public:
  explicit Memory(int device);
  virtual ~Memory() = default;
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  // Fills block.data and block.capacity for nbytes; throws OutOfMemory.
  virtual void acquire(LiveBlock& block, size_t nbytes, std::string label) = 0;
  virtual void release(LiveBlock& block) noexcept = 0;
  virtual size_t empty_cache() = 0;  // gives free blocks back; how many bytes
  virtual void set_limit(std::optional<size_t> nbytes) = 0;

  int device() const { return device_; }
  std::string label_of(const LiveBlock& block);
  void set_label(LiveBlock& block, std::string label);
  PoolStats stats();
  std::vector<std::pair<std::string, size_t>> live_blocks();  // largest first
  void reset_peak();

  // Eight classes to a doubling: at most an eighth is lost to rounding. Large ones are whole pages.
  static size_t size_class(size_t nbytes, size_t smallest, size_t large, size_t page);

 protected:
  void enter(LiveBlock& block, size_t nbytes, std::string label);
  void leave(LiveBlock& block) noexcept;
  size_t effective_limit() const;
  std::string describe_failure(size_t nbytes) const;

  std::mutex mutex_;
  PoolStats stats_;

 private:
  const int device_;
  LiveBlock live_;  // head of the ring of live blocks
};

// "1.5 GiB".
std::string human(size_t bytes);

}  // namespace deepseek
