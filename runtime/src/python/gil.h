// Letting the interpreter go and taking it back, also where it is shutting down: a thread that
// Python would end in the middle of C++ frames sleeps instead until the process is gone.
#pragma once

#include <pybind11/pybind11.h>

namespace deepseek::python {

class WithoutGil {
 public:
  WithoutGil() : state_(PyEval_SaveThread()) {}
  ~WithoutGil();
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;

 private:
  PyThreadState* state_;
};

// For a thread that Python knows, or one that it does not.
class WithGil {
 public:
  WithGil();
  ~WithGil() { PyGILState_Release(state_); }
  WithGil(const WithGil&) = delete;
  WithGil& operator=(const WithGil&) = delete;

 private:
  PyGILState_STATE state_;
};

// No garbage collection, whose finalizers are anybody's code, while this thread has the GIL.
class NoCollection {
 public:
  NoCollection() : was_on_(PyGC_Disable() != 0) {}
  ~NoCollection() {
    if (was_on_) {
      PyGC_Enable();
    }
  }
  NoCollection(const NoCollection&) = delete;
  NoCollection& operator=(const NoCollection&) = delete;

 private:
  bool was_on_;
};

// Lets others run until `attempt` succeeds, which has some patience; Ctrl-C is looked for between.
template <typename Attempt>
void wait_until(Attempt attempt) {
  while (true) {
    bool done = false;
    {
      const WithoutGil release;
      done = attempt();
    }
    if (done) {
      return;
    }
    if (PyErr_CheckSignals() != 0) {
      throw pybind11::error_already_set();
    }
  }
}

}  // namespace deepseek::python
