// Devices of CUDA: properties, the primary context, streams and events, and what becomes of errors.
//
// A device is made when it is first used, and kept for the life of the process. All work goes to a
// stream; each thread has a current one for each device, at first the device's default.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "deepseek/cuda_driver.h"
#include "deepseek/memory.h"

namespace deepseek::cuda {

class Device;
class StreamPool;

struct Properties {
  std::string name;
  int major = 0;
  int minor = 0;
  size_t total_memory = 0;
  int multiprocessors = 0;
  int warp_size = 0;
  int max_threads_per_block = 0;
  int max_threads_per_multiprocessor = 0;
  int shared_per_block = 0;
  int shared_per_block_opt_in = 0;
  int shared_per_multiprocessor = 0;
  int registers_per_multiprocessor = 0;
  int l2_bytes = 0;
  bool integrated = false;
  std::string uuid;
};

// A queue of work of one device. Those that users let go are used again, since blocks of memory
// belong to streams.
class Stream {
 public:
  Stream(Device& device, int priority);
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  Device& device() const { return device_; }
  StreamHandle handle() const { return handle_; }
  int priority() const { return priority_; }
  void synchronize() const;
  bool done() const;
  void wait(const Stream& other) const;  // for all that is on the other one now

 private:
  Device& device_;
  int priority_;
  StreamHandle handle_ = nullptr;
};

// A mark in a stream.
class Event {
 public:
  Event(Device& device, bool timing);
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  Device& device() const { return device_; }
  EventHandle handle() const { return handle_; }
  bool recorded() const { return recorded_; }
  void record(const Stream& stream);
  void wait_on(const Stream& stream) const;
  void synchronize() const;
  bool done() const;
  float milliseconds_until(const Event& end) const;

 private:
  Device& device_;
  EventHandle handle_ = nullptr;
  bool timing_;
  bool recorded_ = false;
};

class Device {
 public:
  // How many there are; throws Error where there is no driver.
  static int count();
  // Throws Error where there is no such device, or its context cannot be made.
  static Device& get(int index);
  static Properties properties_of(int index);

  explicit Device(int index);
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  int index() const { return index_; }
  const Properties& properties() const { return properties_; }
  ContextHandle context() const { return context_; }
  std::string name() const { return "cuda:" + std::to_string(index_); }

  // Makes this the thread's device for the driver. Throws the error that lost it, once it is lost.
  void activate();
  bool try_activate() noexcept;  // for what cleans up
  bool lost() const { return lost_.load(std::memory_order_acquire); }
  // Throws Error for anything but success; a fatal one loses the device. `doing` names what asked.
  void check(Result result, const char* function, const std::string& doing = {}) {
    if (result != kSuccess) {
      fail(result, function, doing);
    }
  }

  StreamPool& memory() { return *memory_; }
  StreamPool& pinned() { return *pinned_; }  // of the host, for copies
  size_t free_memory();                      // of the device, whoever holds the rest

  Stream& default_stream() { return *default_; }
  Stream& current_stream();
  void set_current_stream(Stream* stream);  // nullptr: the default
  // One that nobody else has, until the last owner is gone.
  std::shared_ptr<Stream> new_stream(int priority = 0);
  void synchronize();

  // Work of `other` may read what this device holds, and the other way round, without the host.
  bool can_access(Device& other);

  // What is launched from now on, for errors that are only found later.
  void note_program(const std::shared_ptr<const std::string>& name);

 private:
  [[noreturn]] void fail(Result result, const char* function, const std::string& doing);

  const int index_;
  Properties properties_;
  ContextHandle context_ = nullptr;
  std::unique_ptr<StreamPool> memory_;
  std::unique_ptr<StreamPool> pinned_;
  std::unique_ptr<Stream> default_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Stream>> streams_;  // all but the default
  std::vector<Stream*> idle_;
  std::mutex errors_mutex_;
  std::array<std::shared_ptr<const std::string>, 4> latest_;  // programs, the last one first
  std::mutex peers_mutex_;
  std::vector<int> peers_;  // that this context may read
  std::atomic<bool> lost_{false};
  Result lost_code_ = kSuccess;
  std::string lost_text_;
};

}  // namespace deepseek::cuda
