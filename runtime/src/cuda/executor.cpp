#include <cstring>

#include "../execution.h"
#include "deepseek/cuda_executor.h"
#include "deepseek/pool.h"
#include "deepseek/thread_pool.h"

namespace deepseek::cuda {
namespace {

// A call on a device. Steps are queued on a stream, and done some time after the call.
class DeviceExecution : Execution {
 public:
  DeviceExecution(const Program& program, const RunArguments& arguments)
      : Execution(program, arguments, program.state().device().memory()),
        api_(driver()),
        device_(program.state().device()),
        stream_(device_.current_stream()),
        queue_(stream_.handle()),
        synchronous_(settings().synchronous || profile_) {
    device_.activate();
    check_inputs();
    place_inputs();
    // On another stream than its own, memory may still be read there.
    make_outputs([this](const Buffer& input) { return input.stream() == &stream_; });
    place_temps();
    place_constants();
    if (binding_->device_scratch_bytes > 0) {
      scratch_ = allocate(static_cast<size_t>(binding_->device_scratch_bytes),
                          "scratch of " + program_.name());
    }
  }

  std::vector<std::shared_ptr<Buffer>> run() {
    device_.note_program(program_.shared_name());
    std::shared_ptr<Captured> graph;
    if (settings().graphs && !synchronous_) {
      graph = program_.state().graph_of(program_, binding_);
    }
    if (graph) {
      run_graph(*graph);
    } else {
      run_steps(program_.steps());
    }
    program_.counters().runs.fetch_add(1, std::memory_order_relaxed);
    return std::move(outputs_);
  }

 private:
  // What the walk does with a launch: queue it, note it as part of a graph, or hold it against one.
  enum class Mode : uint8_t { kQueue, kCapture, kUpdate };

  // ---- before the first step ----

  void place_inputs() {
    for (size_t i = 0; i < arguments_.inputs.size(); ++i) {
      const Buffer& input = *arguments_.inputs[i];
      if (input.device() != kHost) {
        use_on(input, stream_);
        continue;
      }
      uploads_.push_back(allocate(input.nbytes(), input.label()));
      to_device(stream_, address(uploads_.back()->data()), input.data(), input.nbytes());
      data_[static_cast<size_t>(program_.inputs()[i])] = uploads_.back()->data();
    }
  }

  void place_constants() {
    for (size_t i = 0; i < program_.slots().size(); ++i) {
      const Slot& slot = program_.slots()[i];
      if (slot.kind == SlotKind::kConstant) {
        const Buffer& copy = program_.state().constant(i, *slot.constant);
        use_on(copy, stream_);
        data_[i] = copy.data();
      }
    }
  }

  // ---- graphs ----

  void run_graph(Captured& graph) {
    std::lock_guard lock(graph.mutex);
    if (++graph.calls == 1) {  // perhaps the only one
      run_steps(program_.steps());
      return;
    }
    graph_ = &graph;
    if (graph.exec != nullptr) {
      mode_ = Mode::kUpdate;
      run_steps(program_.steps());
      if (outdated_) {
        graph.reset();
      }
    }
    if (graph.exec == nullptr) {
      capture();
    }
    check(api_.graph_launch(graph.exec, queue_), "cuGraphLaunch");
    program_.counters().replays.fetch_add(1, std::memory_order_relaxed);
  }

  // On a stream of its own: what other threads queue meanwhile is not to become part of the graph.
  void capture() {
    const std::shared_ptr<Stream> apart = device_.new_stream();
    check(api_.capture_begin(apart->handle(), kCaptureThreadLocal), "cuStreamBeginCapture");
    queue_ = apart->handle();
    mode_ = Mode::kCapture;
    try {
      run_steps(program_.steps());
    } catch (...) {
      GraphHandle broken = nullptr;
      if (api_.capture_end(queue_, &broken) == kSuccess && broken != nullptr) {
        api_.graph_destroy(broken);
      }
      graph_->reset();
      throw;
    }
    queue_ = stream_.handle();
    check(api_.capture_end(apart->handle(), &graph_->graph), "cuStreamEndCapture");
    const Result made = api_.graph_instantiate(&graph_->exec, graph_->graph, 0);
    if (made != kSuccess) {
      graph_->reset();
      check(made, "cuGraphInstantiate");
    }
    program_.counters().captures.fetch_add(1, std::memory_order_relaxed);
  }

  GraphNode captured_last() {
    int status = 0;
    const GraphNode* last = nullptr;
    size_t count = 0;
    check(api_.capture_info(queue_, &status, nullptr, nullptr, &last, &count),
          "cuStreamGetCaptureInfo");
    if (count != 1) {
      throw Error(0, program_.name() +
                         ": the capture of a CUDA graph was disturbed\n"
                         "  help: DS_CUDA_CAPTURE=0 does without graphs");
    }
    return last[0];
  }

  // ---- the walk ----

  void run_steps(const Steps& steps) {
    for (const Step& step : steps) {
      step_ = &step;
      if (mode_ == Mode::kQueue) {
        before(step);
      }
      const int64_t start = profile_ ? monotonic_ns() : 0;
      std::visit([&](const auto& what) { execute(what); }, step.what);
      if (synchronous_) {
        step_ = &step;
        check(api_.stream_synchronize(queue_), "cuStreamSynchronize");
      }
      if (profile_) {
        record_step({program_.shared_name(), step.number, start, monotonic_ns()});
      }
    }
  }

  void check(Result result, const char* function) {
    if (result != kSuccess) {
      device_.check(result, function, synchronous_ ? describe_step() : "");
    }
  }

  std::string describe_step() const {
    std::string text = std::string(kind_name(*step_)) + " of '" + step_->label + "', step " +
                       std::to_string(step_->number) + " of " + program_.name() + ",";
    const auto* launch = std::get_if<DeviceLaunchStep>(&step_->what);
    if (launch != nullptr && !launch->kernel->where.empty()) {
      text += " recorded at " + launch->kernel->where + ",";
    }
    return text;
  }

  void execute(const DeviceLaunchStep& launch) {
    const auto shared = static_cast<unsigned>(value(launch.shared));
    if (mode_ != Mode::kUpdate) {
      launch.kernel->allow_shared(static_cast<int>(shared));
    }
    for (const LaunchRow& row : launch.rows) {
      if (value(row.grid) > 0) {
        launch_row(launch, row, shared);
      }
    }
  }

  void launch_row(const DeviceLaunchStep& launch, const LaunchRow& row, unsigned shared) {
    const Kernel& kernel = *launch.kernel;
    program_.counters().launches.fetch_add(1, std::memory_order_relaxed);
    buffers_.clear();
    for (const Argument& argument : row.buffers) {
      buffers_.push_back(resolve(argument));
    }
    buffers_.push_back(scratch_ ? scratch_->data() : nullptr);
    if (mode_ == Mode::kUpdate && graph_->launches[launched_].buffers == buffers_) {
      ++launched_;
      return;
    }
    parameters_.clear();
    for (size_t i = 0; i < row.buffers.size(); ++i) {
      parameters_.push_back(&buffers_[i]);
    }
    for (const int64_t& size : sizes(row.sizes_at, row.sizes.size())) {
      parameters_.push_back(const_cast<int64_t*>(&size));
    }
    if (launch.scratch >= 0) {
      parameters_.push_back(&buffers_.back());
    }
    const auto grid = static_cast<unsigned>(value(row.grid));
    if (mode_ == Mode::kUpdate) {
      Captured::Launch& known = graph_->launches[launched_++];
      const KernelNode node{kernel.function,
                            {grid, 1, 1},
                            {kernel.block[0], kernel.block[1], 1},
                            shared,
                            parameters_.data(),
                            nullptr,
                            nullptr,
                            nullptr};
      check(api_.graph_set_kernel(graph_->exec, known.node, &node),
            "cuGraphExecKernelNodeSetParams");
      known.buffers = buffers_;
      return;
    }
    const Result result = api_.launch(kernel.function, grid, 1, 1, kernel.block[0], kernel.block[1],
                                      1, shared, queue_, parameters_.data(), nullptr);
    if (result != kSuccess) {
      device_.check(result, "cuLaunchKernel", describe_step());
    }
    if (mode_ == Mode::kCapture) {
      graph_->launches.push_back({captured_last(), buffers_});
    }
  }

  void execute(const CopyStep& copy) {
    program_.counters().copies.fetch_add(1, std::memory_order_relaxed);
    char* to = resolve(copy.dst);
    const char* from = resolve(copy.src);
    if (mode_ == Mode::kUpdate) {
      const Captured::Copy& known = graph_->copies[copied_++];
      outdated_ = outdated_ || known.from != from || known.to != to;
      return;
    }
    const auto nbytes = static_cast<size_t>(value(copy.nbytes));
    if (mode_ == Mode::kCapture) {
      graph_->copies.push_back({from, to});
    }
    if (nbytes == 0 || from == to) {
      return;
    }
    if (to < from + nbytes && from < to + nbytes) {  // they overlap
      const auto between = allocate(nbytes, "copy in " + program_.name());
      copy_on_device(between->data(), from, nbytes);
      copy_on_device(to, between->data(), nbytes);
    } else {
      copy_on_device(to, from, nbytes);
    }
  }

  void copy_on_device(char* to, const char* from, size_t nbytes) {
    check(api_.copy_on_device(address(to), address(from), nbytes, queue_), "cuMemcpyDtoDAsync");
  }

  void execute(const SyncStep&) {}  // later steps are on the same stream

  // ---- steps that the host runs, on copies ----

  struct HostView {
    Argument argument;
    std::shared_ptr<Buffer> copy;
    char* data;  // on the device
  };

  std::vector<HostView> to_views(const std::vector<Argument>& arguments) {
    std::vector<HostView> views;
    for (const Argument& argument : arguments) {
      char* data = resolve(argument);
      auto copy = Buffer::allocate(nbytes_from(argument, data), slot_of(argument).label);
      to_host(stream_, copy->data(), address(data), copy->nbytes());
      views.push_back({argument, std::move(copy), data});
    }
    return views;
  }

  void return_views(const std::vector<HostView>& views) {
    for (const HostView& view : views) {
      if (writable(slot_of(view.argument))) {
        to_device(stream_, address(view.data), view.copy->data(), view.copy->nbytes());
      }
    }
  }

  void execute(const HostStep& host) {
    program_.counters().hosts.fetch_add(1, std::memory_order_relaxed);
    const std::vector<HostView> views = to_views(host.buffers);
    std::vector<HostArgument> arguments;
    for (const HostView& view : views) {
      arguments.push_back(
          {view.copy, view.copy->data(), view.copy->nbytes(), writable(slot_of(view.argument))});
    }
    host.function(arguments, sizes(host.sizes_at, host.sizes.size()));
    return_views(views);
  }

  void execute(const ExternStep& call) {
    program_.counters().externs.fetch_add(1, std::memory_order_relaxed);
    const std::vector<HostView> views = to_views(call.buffers);
    std::vector<void*> pointers;
    for (const HostView& view : views) {
      pointers.push_back(view.copy->data());
    }
    // Large blocks begin on a page, as routines expect of their scratch.
    const int workers = ThreadPool::global().num_threads();
    const size_t stride =
        (static_cast<size_t>(binding_->scratch_bytes) + Pool::kPage - 1) & ~(Pool::kPage - 1);
    const auto scratch =
        Buffer::allocate(std::max(stride * static_cast<size_t>(workers), Pool::kLarge), "scratch");
    call.routine->run(
        {pointers, sizes(call.sizes_at, call.sizes.size()), scratch->data(), stride, workers});
    return_views(views);
  }

  void execute(const CollectiveStep& call) {
    const auto [group, message] = collective(call);
    std::vector<Argument> arguments;
    for (const auto& argument : {call.given, call.taken}) {
      if (argument) {
        arguments.push_back(*argument);
      }
    }
    const std::vector<HostView> views = to_views(arguments);
    group->run(message, call.given ? views.front().copy->data() : nullptr,
               call.taken ? views.back().copy->data() : nullptr, arguments_.interrupt);
    return_views(views);
  }

  void execute(const LaunchStep&) {
    throw std::logic_error(program_.name() + ": a processor's kernel in a program of a device");
  }

  // ---- control ----

  template <typename T>
  T read(const Argument& argument) {
    T found{};
    to_host(stream_, reinterpret_cast<char*>(&found), address(resolve(argument)), sizeof found);
    return found;
  }

  void execute(const IfStep& branch) {
    run_steps(read<char>(branch.predicate) != 0 ? branch.then : branch.otherwise);
  }

  void execute(const WhileStep& loop) {
    while (true) {
      run_steps(loop.condition);
      if (read<char>(loop.predicate) == 0) {
        return;
      }
      run_steps(loop.body);
    }
  }

  void execute(const ForStep& loop) {
    int64_t count = value(loop.count);
    if (loop.count_slot) {
      count = std::min(count, read<int64_t>(*loop.count_slot));
    }
    int64_t& index = loop_index_[static_cast<size_t>(loop.loop)];
    for (index = 0; index < count; ++index) {
      run_steps(loop.body);
    }
  }

  const Driver& api_;
  Device& device_;
  Stream& stream_;
  StreamHandle queue_;  // where steps go: the stream, or the one that is captured
  const bool synchronous_;
  Mode mode_ = Mode::kQueue;
  Captured* graph_ = nullptr;
  size_t launched_ = 0;  // how many of the graph's launches and copies were held against it
  size_t copied_ = 0;
  bool outdated_ = false;
  const Step* step_ = nullptr;
  std::shared_ptr<Buffer> scratch_;
  std::vector<std::shared_ptr<Buffer>> uploads_;  // of inputs that the host holds
  std::vector<void*> buffers_;
  std::vector<void*> parameters_;
};

}  // namespace

std::vector<std::shared_ptr<Buffer>> run(const Program& program, const RunArguments& arguments) {
  return DeviceExecution(program, arguments).run();
}

}  // namespace deepseek::cuda
