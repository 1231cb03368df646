// Claims: which calls are changing what, for the time that the GIL is away.
//
// A call that gives tensors new values is a Writer and claims the buffers it may write over. Others
// that want one wait, so none sees half of an update and no update is lost. A trace shows
// placeholders in place of values, so it excludes the writers of all other threads.
#pragma once

#include <chrono>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "deepseek/buffer.h"

namespace deepseek {

// Who claims a buffer: nobody, a call of this thread that still runs, or one of another thread.
enum class Claim : uint8_t { kNone, kHere, kElsewhere };

Claim claim_on(const Buffer& buffer);

// Somebody wants what a call further up this thread, or one that waits for this thread, changes.
class StillWriting : public std::runtime_error {
 public:
  StillWriting();
};

// One call that changes tensors. The buffers must outlive it: whether one may be written over is
// decided by counting who holds it.
class Writer {
 public:
  Writer() = default;
  ~Writer() { finish(); }
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;

  // False while another thread traces, or is about to.
  bool begin();
  void claim(Buffer& buffer);  // throws StillWriting where a call further up has claimed it
  void finish() noexcept;

 private:
  bool begun_ = false;
  std::vector<Buffer*> claimed_;
};

// Whether a Writer of this thread has begun: code run by a signal handler or a finalizer.
bool writing_here();

// Excludes all Writers that begin on other threads, and waits for those that have begun. False
// after `patience`: to be called again, or given up with end_trace. Nests on one thread; another
// thread's trace is waited for.
bool begin_trace(std::chrono::milliseconds patience);
void end_trace();

// How long to wait before looking for Ctrl-C.
constexpr std::chrono::milliseconds kPatience{50};

// These wait for `patience` at most; true when it has happened.
bool wait_for_claim(const Buffer& buffer, std::chrono::milliseconds patience);
bool wait_for_trace(std::chrono::milliseconds patience);

// Whether waiting for the buffer could last for ever: whoever claims it waits for this thread.
bool waits_for_us(const Buffer& buffer);

// Between steps of a Program that has written over nothing yet: what this thread claims is still
// the old value, and may be read.
class ReadableHere {
 public:
  ReadableHere();
  ~ReadableHere();
  ReadableHere(const ReadableHere&) = delete;
  ReadableHere& operator=(const ReadableHere&) = delete;
};

bool readable_here();

}  // namespace deepseek
