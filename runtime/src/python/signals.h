// Looks for Ctrl-C while a Program runs.
#pragma once

#include <pybind11/pybind11.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>

#include "deepseek/claims.h"
#include "deepseek/executor.h"
#include "gil.h"

namespace deepseek::python {

// Now and then: taking the GIL at each step would cost more than small steps do.
class SignalCheck {
 public:
  InterruptCheck hook() { return {&SignalCheck::check, this}; }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr auto kInterval = std::chrono::milliseconds(50);

  static void check(void* context) {
    auto* self = static_cast<SignalCheck*>(context);
    const auto now = Clock::now();
    if (now < self->next_) {
      return;
    }
    self->next_ = now + kInterval;
    if (getpid() != syscall(SYS_gettid)) {
      return;  // signals are for the main thread
    }
    const WithGil acquire;
    const ReadableHere readable;
    if (PyErr_CheckSignals() != 0) {
      throw pybind11::error_already_set();
    }
  }

  Clock::time_point next_ = Clock::now() + kInterval;
};

}  // namespace deepseek::python
