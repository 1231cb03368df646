#include "gil.h"

#include <cxxabi.h>
#include <unistd.h>

namespace deepseek::python {
namespace {

// Python ends threads that want the GIL while it shuts down by unwinding their stacks, which would
// run destructors that need the GIL.
template <typename Take>
auto take_or_sleep(Take take) {
  try {
    return take();
  } catch (abi::__forced_unwind&) {
    while (true) {
      pause();
    }
  }
}

}  // namespace

WithoutGil::~WithoutGil() {
  take_or_sleep([this] { PyEval_RestoreThread(state_); });
}

WithGil::WithGil() : state_(take_or_sleep([] { return PyGILState_Ensure(); })) {}

}  // namespace deepseek::python
