// Buffer: untyped memory owned by one object. No two buffers share memory.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <string>

#include "deepseek/memory.h"

namespace deepseek {

class Buffer {
 public:
  // In the machine's own memory.
  static std::shared_ptr<Buffer> allocate(size_t nbytes, std::string label = {});

  Buffer(Memory& memory, size_t nbytes, std::string label);
  ~Buffer();
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  // An address of the device's, where it is not the machine's memory.
  char* data() const { return static_cast<char*>(block_.data); }
  int device() const { return memory_.device(); }
  void* stream() const { return block_.stream; }
  size_t nbytes() const { return block_.nbytes; }
  std::string label() const { return memory_.label_of(block_); }
  void set_label(std::string label) { memory_.set_label(block_, std::move(label)); }

  // Live views handed out; while there are any the buffer must not be written in place.
  int exports() const { return exports_.load(std::memory_order_relaxed); }
  void add_export() { exports_.fetch_add(1, std::memory_order_relaxed); }
  void drop_export() { exports_.fetch_sub(1, std::memory_order_relaxed); }

  // Whose call is about to replace this, in place or not, while others may run: see claims.h.
  uint64_t claim() const { return claim_.load(std::memory_order_acquire); }
  void set_claim(uint64_t claim) { claim_.store(claim, std::memory_order_release); }

  // A number that no other buffer has or had, and that changes when a Program takes this memory
  // over for a new value: what was computed from the buffer is right while the number is the same.
  uint64_t version() const { return version_.load(std::memory_order_relaxed); }
  void note_write() { version_.store(next_version(), std::memory_order_relaxed); }

 private:
  static uint64_t next_version() {
    static std::atomic<uint64_t> last{0};
    return last.fetch_add(1, std::memory_order_relaxed) + 1;
  }

  Memory& memory_;
  LiveBlock block_;
  std::atomic<int> exports_{0};
  std::atomic<uint64_t> claim_{0};
  std::atomic<uint64_t> version_{next_version()};
};

}  // namespace deepseek
