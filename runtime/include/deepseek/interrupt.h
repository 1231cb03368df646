// How a run that blocks looks for Ctrl-C.
#pragma once

namespace deepseek {

// Asked while nothing is lost by stopping; may throw to end the run.
struct InterruptCheck {
  void (*check)(void* context) = nullptr;
  void* context = nullptr;
};

}  // namespace deepseek
