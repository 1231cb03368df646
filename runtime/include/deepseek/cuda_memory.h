// The caching pool of a device, or of the host memory that its copies go through; and the copies.
//
// A block of a device belongs to the stream it was made for: there it may be used again at once,
// since a stream's work is done in order. Where other streams have used it too, and for the host's
// own use, it waits for events.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "deepseek/buffer.h"
#include "deepseek/cuda_device.h"

namespace deepseek::cuda {

class StreamPool final : public Memory {
 public:
  enum class Kind : uint8_t { kDevice, kPinned };

  StreamPool(Device& device, Kind kind);

  void acquire(LiveBlock& block, size_t nbytes, std::string label) override;
  void release(LiveBlock& block) noexcept override;
  size_t empty_cache() override;
  void set_limit(std::optional<size_t> nbytes) override;

  // A stream has work that uses a live block, which is not of that stream.
  void note_use(const void* data, Stream& stream);

 private:
  static constexpr size_t kSmallest = 512;
  static constexpr size_t kLarge = size_t{1} << 20;
  static constexpr size_t kPage = size_t{64} << 10;

  struct Free {
    void* data;
    size_t capacity;
    Stream* stream;                              // none: of the host
    uint64_t stamp;                              // when it was freed, to give the oldest back first
    std::vector<std::unique_ptr<Event>> events;  // it is free when all of them have happened
  };
  using Key = std::pair<Stream*, size_t>;

  bool take(LiveBlock& block, size_t capacity, Stream* stream);
  void collect();
  bool evict_oldest();
  size_t evict_all();
  void* allocate(size_t capacity);
  void give_back(Free block);
  [[noreturn]] void refuse(size_t nbytes);

  Device& of_;
  const Kind kind_;
  std::map<Key, std::vector<Free>> free_;
  std::vector<Free> pending_;
  std::map<const void*, std::vector<Stream*>> users_;  // of live blocks, beside their own stream
  uint64_t clock_ = 0;
};

// Memory of a device, for work on the thread's current stream there.
std::shared_ptr<Buffer> allocate(Device& device, size_t nbytes, std::string label);

// Lets work on `stream` use the buffer, after all that the buffer's own stream has now.
void use_on(const Buffer& buffer, Stream& stream);

// Between host and device, in the order of the stream. Both may use the host's bytes no more, or
// have them there, when they return.
void to_device(Stream& stream, Address to, const char* from, size_t nbytes);
void to_host(Stream& stream, char* to, Address from, size_t nbytes);

// A copy of a buffer in another place: a device, or kHost.
std::shared_ptr<Buffer> copied(const Buffer& buffer, int device);

inline Address address(const void* data) {
  return reinterpret_cast<Address>(data);
}

}  // namespace deepseek::cuda
