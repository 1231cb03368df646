// Runs a Program on its device: launches on the thread's current stream, memory there, copies at
// the edges. A binding that comes again is captured as a CUDA graph, and launched as one from then
// on.
#pragma once

#include <atomic>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "deepseek/cuda_code.h"
#include "deepseek/cuda_memory.h"
#include "deepseek/executor.h"

namespace deepseek::cuda {

struct Settings {
  std::atomic<bool> synchronous{false};  // wait for each step, so that its own error is seen
  std::atomic<bool> graphs{true};
};
Settings& settings();

// One binding of a program as a graph. Sizes and grids are fixed; addresses may change.
struct Captured {
  struct Launch {
    GraphNode node;
    std::vector<void*> buffers;  // as the graph has them
  };
  struct Copy {
    const char* from;
    const char* to;
  };

  explicit Captured(Device& device) : device(device) {}
  ~Captured() { reset(); }
  Captured(const Captured&) = delete;
  Captured& operator=(const Captured&) = delete;
  void reset() noexcept;

  Device& device;
  std::mutex mutex;  // the addresses are changed before a launch
  uint64_t calls = 0;
  GraphHandle graph = nullptr;
  GraphExec exec = nullptr;
  std::vector<Launch> launches;
  std::vector<Copy> copies;
};

// What a device keeps for a program: its constants there, and the graphs made of it.
class ProgramState {
 public:
  explicit ProgramState(Device& device) : device_(device) {}

  Device& device() const { return device_; }
  // A constant's copy on the device.
  const Buffer& constant(size_t slot, const Buffer& host);
  // The graph for a binding, made or not; none where the steps cannot be captured.
  std::shared_ptr<Captured> graph_of(const Program& program,
                                     const std::shared_ptr<const Binding>& binding);

 private:
  static constexpr size_t kMaxGraphs = 16;

  struct Entry {
    std::shared_ptr<const Binding> binding;
    std::shared_ptr<Captured> graph;
  };

  Device& device_;
  std::mutex mutex_;
  std::map<size_t, std::shared_ptr<Buffer>> constants_;
  std::list<Entry> graphs_;  // most recently used first
};

std::vector<std::shared_ptr<Buffer>> run(const Program& program, const RunArguments& arguments);

}  // namespace deepseek::cuda
