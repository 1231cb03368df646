#include "deepseek/claims.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <map>
#include <mutex>

namespace deepseek {
namespace {

// A claim is an era and a thread. A fork begins a new era: the child is rid of the claims of
// threads that it does not have.
uint64_t era = 1;

uint32_t this_thread() {
  static std::atomic<uint32_t> last{0};
  static thread_local const uint32_t number = last.fetch_add(1) + 1;
  return number;
}

struct State {
  std::mutex mutex;
  std::condition_variable changed;
  int writers = 0;
  uint32_t tracer = 0;                 // the thread that traces, or waits for writers to end
  int depth = 0;                       // of its traces
  std::map<uint32_t, uint32_t> waits;  // thread -> the thread that it waits for
};

State* current = nullptr;
thread_local int writers_here = 0;
thread_local int readable_depth = 0;

void after_fork_in_child() {
  // Threads that waited are gone, which a condition variable cannot know.
  auto* fresh = new State;
  fresh->writers = writers_here;
  if (current->tracer == this_thread()) {
    fresh->tracer = current->tracer;
    fresh->depth = current->depth;
  }
  current = fresh;
  ++era;
}

State& state() {
  static const bool registered = [] {
    current = new State;
    pthread_atfork([] { current->mutex.lock(); }, [] { current->mutex.unlock(); },
                   after_fork_in_child);
    return true;
  }();
  static_cast<void>(registered);
  return *current;
}

uint64_t my_claim() {
  return era << 32 | this_thread();
}

uint32_t claimant(const Buffer& buffer) {
  const uint64_t claim = buffer.claim();
  return claim >> 32 == era ? static_cast<uint32_t>(claim) : 0;
}

bool excluded(const State& now) {
  return now.tracer != 0 && now.tracer != this_thread();
}

}  // namespace

Claim claim_on(const Buffer& buffer) {
  const uint32_t thread = claimant(buffer);
  if (thread == 0) {
    return Claim::kNone;
  }
  return thread == this_thread() ? Claim::kHere : Claim::kElsewhere;
}

StillWriting::StillWriting()
    : std::runtime_error(
          "a tensor is wanted here that a compiled call, which has not returned yet, is changing\n"
          "  help: signal handlers, finalizers and host functions run in the middle of calls; use "
          "the tensor after the call") {}

// ---- writers -----------------------------------------------------------------------------------

bool Writer::begin() {
  State& now = state();
  const std::lock_guard lock(now.mutex);
  // A trace waits for a writer that has begun, so what that one calls must not wait for the trace.
  if (excluded(now) && writers_here == 0) {
    return false;
  }
  ++now.writers;
  ++writers_here;
  begun_ = true;
  return true;
}

void Writer::claim(Buffer& buffer) {
  if (claim_on(buffer) != Claim::kNone) {
    if (std::find(claimed_.begin(), claimed_.end(), &buffer) != claimed_.end()) {
      return;  // two tensors that the call changes may show one buffer
    }
    throw StillWriting();
  }
  claimed_.push_back(&buffer);
  buffer.set_claim(my_claim());
}

void Writer::finish() noexcept {
  if (!begun_) {
    return;
  }
  begun_ = false;
  State& now = state();
  {
    const std::lock_guard lock(now.mutex);
    for (Buffer* buffer : claimed_) {
      buffer->set_claim(0);
    }
    --now.writers;
    --writers_here;
  }
  now.changed.notify_all();
  claimed_.clear();
}

bool writing_here() {
  return writers_here > 0;
}

// ---- traces ------------------------------------------------------------------------------------

bool begin_trace(std::chrono::milliseconds patience) {
  State& now = state();
  std::unique_lock lock(now.mutex);
  const auto others_write = [&] { return now.writers > writers_here; };
  if (!now.changed.wait_for(lock, patience, [&] { return !excluded(now); })) {
    return false;
  }
  now.tracer = this_thread();
  ++now.depth;
  if (now.changed.wait_for(lock, patience, [&] { return !others_write(); })) {
    return true;
  }
  --now.depth;  // but the tracer stays, so that no writer begins until the next attempt
  return false;
}

void end_trace() {
  State& now = state();
  {
    const std::lock_guard lock(now.mutex);
    if (now.tracer != this_thread()) {
      return;
    }
    now.depth = std::max(now.depth - 1, 0);
    if (now.depth > 0) {
      return;
    }
    now.tracer = 0;
  }
  now.changed.notify_all();
}

// ---- waiting -----------------------------------------------------------------------------------

bool wait_for_claim(const Buffer& buffer, std::chrono::milliseconds patience) {
  State& now = state();
  std::unique_lock lock(now.mutex);
  const uint32_t thread = claimant(buffer);
  if (thread == 0) {
    return true;
  }
  now.waits[this_thread()] = thread;
  const bool free = now.changed.wait_for(lock, patience, [&] { return claimant(buffer) == 0; });
  now.waits.erase(this_thread());
  return free;
}

bool wait_for_trace(std::chrono::milliseconds patience) {
  State& now = state();
  std::unique_lock lock(now.mutex);
  // A trace that waits for a writer has not begun.
  return now.changed.wait_for(lock, patience, [&] { return !excluded(now) || writers_here > 0; });
}

bool waits_for_us(const Buffer& buffer) {
  State& now = state();
  const std::lock_guard lock(now.mutex);
  uint32_t thread = claimant(buffer);
  for (size_t step = 0; thread != 0 && step <= now.waits.size(); ++step) {
    if (thread == this_thread()) {
      return true;
    }
    const auto next = now.waits.find(thread);
    thread = next == now.waits.end() ? 0 : next->second;
  }
  return false;
}

ReadableHere::ReadableHere() {
  ++readable_depth;
}

ReadableHere::~ReadableHere() {
  --readable_depth;
}

bool readable_here() {
  return readable_depth > 0;
}

}  // namespace deepseek
