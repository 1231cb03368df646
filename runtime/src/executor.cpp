#include "deepseek/executor.h"

#include <algorithm>
#include <cstring>

#include "deepseek/cuda_executor.h"
#include "deepseek/pool.h"
#include "deepseek/thread_pool.h"
#include "execution.h"

namespace deepseek {
namespace {

constexpr int64_t kCopyGrain = int64_t{256} << 10;

// A call on the machine itself.
class HostExecution : Execution {
 public:
  HostExecution(const Program& program, const RunArguments& arguments)
      : Execution(program, arguments, Pool::global()),
        threads_(ThreadPool::global()),
        max_workers_(threads_.num_threads()) {
    check_inputs();
    make_outputs([](const Buffer&) { return true; });
    place_temps();
    place_constants();
    place_scratch();
  }

  std::vector<std::shared_ptr<Buffer>> run() {
    run_steps(program_.steps());
    program_.counters().runs.fetch_add(1, std::memory_order_relaxed);
    return std::move(outputs_);
  }

 private:
  void place_constants() {
    for (size_t i = 0; i < program_.slots().size(); ++i) {
      if (program_.slots()[i].kind == SlotKind::kConstant) {
        data_[i] = program_.slots()[i].constant->data();
      }
    }
  }

  void place_scratch() {
    if (binding_->scratch_bytes > 0) {
      scratch_stride_ =
          (static_cast<size_t>(binding_->scratch_bytes) + Pool::kPage - 1) & ~(Pool::kPage - 1);
      scratch_ = allocate(scratch_stride_ * static_cast<size_t>(max_workers_) + Pool::kPage,
                          "scratch of " + program_.name());
      const auto address = reinterpret_cast<uintptr_t>(scratch_->data());
      scratch_data_ =
          reinterpret_cast<char*>((address + Pool::kPage - 1) & ~uintptr_t{Pool::kPage - 1});
    }
  }

  // ---- the walk ----

  void run_steps(const Steps& steps) {
    for (const Step& step : steps) {
      before(step);
      const int64_t start = profile_ ? monotonic_ns() : 0;
      std::visit([&](const auto& what) { execute(what); }, step.what);
      if (profile_) {
        record_step({program_.shared_name(), step.number, start, monotonic_ns()});
      }
    }
  }

  void resolve_into_pointers(const std::vector<Argument>& arguments) {
    for (const Argument& argument : arguments) {
      pointers_.push_back(resolve(argument));
    }
  }

  void execute(const LaunchStep& launch) {
    program_.counters().launches.fetch_add(1, std::memory_order_relaxed);
    pointers_.clear();
    rows_.clear();
    int64_t tasks = 0;
    for (const LaunchRow& row : launch.rows) {
      rows_.push_back({tasks, pointers_.size(), binding_->sizes.data() + row.sizes_at});
      resolve_into_pointers(row.buffers);
      tasks += value(row.grid);
    }
    const auto work = [&](int worker, int64_t begin, int64_t end) {
      char* scratch = scratch_data_ + static_cast<size_t>(worker) * scratch_stride_;
      auto row = std::upper_bound(rows_.begin(), rows_.end(), begin,
                                  [](int64_t at, const RowAt& r) { return at < r.begin; }) -
                 1;
      while (begin < end) {
        const int64_t row_end = row + 1 == rows_.end() ? tasks : row[1].begin;
        const int64_t stop = std::min(end, row_end);
        if (begin < stop) {
          launch.kernel(pointers_.data() + row->pointers, row->sizes, begin - row->begin,
                        stop - row->begin, scratch);
        }
        begin = stop;
        ++row;
      }
    };
    threads_.parallel_for(tasks, value(launch.grain), max_workers_, work);
  }

  void execute(const ExternStep& call) {
    program_.counters().externs.fetch_add(1, std::memory_order_relaxed);
    pointers_.clear();
    resolve_into_pointers(call.buffers);
    call.routine->run({pointers_, sizes(call.sizes_at, call.sizes.size()), scratch_data_,
                       scratch_stride_, max_workers_});
  }

  void execute(const HostStep& host) {
    program_.counters().hosts.fetch_add(1, std::memory_order_relaxed);
    std::vector<HostArgument> arguments;
    for (const Argument& argument : host.buffers) {
      const Slot& slot = slot_of(argument);
      char* data = resolve(argument);
      arguments.push_back({owner_of(slot), data, nbytes_from(argument, data), writable(slot)});
    }
    host.function(arguments, sizes(host.sizes_at, host.sizes.size()));
  }

  std::shared_ptr<Buffer> owner_of(const Slot& slot) const {
    switch (slot.kind) {
      case SlotKind::kInput:
        return arguments_.inputs[static_cast<size_t>(slot.index)];
      case SlotKind::kOutput:
        return outputs_[static_cast<size_t>(slot.index)];
      case SlotKind::kConstant:
        return slot.constant;
      case SlotKind::kTemp:
        break;
    }
    return arena_;
  }

  void execute(const CopyStep& copy) {
    program_.counters().copies.fetch_add(1, std::memory_order_relaxed);
    char* dst = resolve(copy.dst);
    const char* src = resolve(copy.src);
    const int64_t nbytes = value(copy.nbytes);
    if (copy.dst.slot == copy.src.slot) {
      std::memmove(dst, src, static_cast<size_t>(nbytes));  // may overlap
      return;
    }
    threads_.parallel_for(nbytes, kCopyGrain, max_workers_, [&](int, int64_t begin, int64_t end) {
      std::memcpy(dst + begin, src + begin, static_cast<size_t>(end - begin));
    });
  }

  void execute(const CollectiveStep& call) {
    const auto [group, message] = collective(call);
    group->run(message, call.given ? resolve(*call.given) : nullptr,
               call.taken ? resolve(*call.taken) : nullptr, arguments_.interrupt);
  }

  void execute(const DeviceLaunchStep&) {
    throw std::logic_error(program_.name() + ": a device's kernel in a program of the host");
  }

  void execute(const SyncStep&) {}  // the processor's steps are done when they return

  void execute(const IfStep& branch) {
    run_steps(*resolve(branch.predicate) != 0 ? branch.then : branch.otherwise);
  }

  void execute(const WhileStep& loop) {
    while (true) {
      run_steps(loop.condition);
      if (*resolve(loop.predicate) == 0) {
        return;
      }
      run_steps(loop.body);
    }
  }

  void execute(const ForStep& loop) {
    int64_t count = value(loop.count);
    if (loop.count_slot) {
      int64_t wanted = 0;
      std::memcpy(&wanted, resolve(*loop.count_slot), sizeof wanted);
      count = std::min(count, wanted);
    }
    int64_t& index = loop_index_[static_cast<size_t>(loop.loop)];
    for (index = 0; index < count; ++index) {
      run_steps(loop.body);
    }
  }

  struct RowAt {
    int64_t begin;  // first task in the launch's index space
    size_t pointers;
    const int64_t* sizes;
  };

  ThreadPool& threads_;
  int max_workers_;
  std::shared_ptr<Buffer> scratch_;
  char* scratch_data_ = nullptr;
  size_t scratch_stride_ = 0;
  std::vector<void*> pointers_;
  std::vector<RowAt> rows_;
};

}  // namespace

std::vector<std::shared_ptr<Buffer>> run(const Program& program, const RunArguments& arguments) {
  if (program.device() != kHost) {
    return cuda::run(program, arguments);
  }
  return HostExecution(program, arguments).run();
}

}  // namespace deepseek
