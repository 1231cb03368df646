#include "deepseek/executor.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "deepseek/profile.h"
#include "deepseek/thread_pool.h"

namespace deepseek {
namespace {

constexpr int64_t kCopyGrain = int64_t{256} << 10;

// One call of a Program: its memory, where its loops stand, and the walk over its steps.
class Execution {
 public:
  Execution(const Program& program, const RunArguments& arguments)
      : program_(program),
        arguments_(arguments),
        binding_(program.bind(arguments.symbols)),
        threads_(ThreadPool::global()),
        max_workers_(threads_.num_threads()),
        profile_(profile_enabled()),
        data_(program.slots().size()),
        loop_index_(static_cast<size_t>(program.num_loops())) {
    check_inputs();
    make_outputs();
    place_temps();
  }

  std::vector<std::shared_ptr<Buffer>> run() {
    run_steps(program_.steps());
    program_.counters().runs.fetch_add(1, std::memory_order_relaxed);
    return std::move(outputs_);
  }

 private:
  int64_t value(int id) const { return binding_->values[static_cast<size_t>(id)]; }

  // ---- before the first write ----

  void check_inputs() {
    const auto& slots = program_.inputs();
    if (arguments_.inputs.size() != slots.size()) {
      throw std::invalid_argument(program_.name() + ": wants " + std::to_string(slots.size()) +
                                  " inputs, got " + std::to_string(arguments_.inputs.size()));
    }
    if (!arguments_.donate.empty() && arguments_.donate.size() != slots.size()) {
      throw std::invalid_argument(program_.name() + ": donate has " +
                                  std::to_string(arguments_.donate.size()) + " flags for " +
                                  std::to_string(slots.size()) + " inputs");
    }
    for (size_t i = 0; i < slots.size(); ++i) {
      const auto slot = static_cast<size_t>(slots[i]);
      const Buffer& buffer = *arguments_.inputs[i];
      if (static_cast<int64_t>(buffer.nbytes()) != binding_->slot_nbytes[slot]) {
        throw std::invalid_argument(program_.name() + ": input " + std::to_string(i) + " (" +
                                    program_.slots()[slot].label + ") wants " +
                                    std::to_string(binding_->slot_nbytes[slot]) +
                                    " bytes, got a buffer of " + std::to_string(buffer.nbytes()));
      }
      data_[slot] = buffer.data();
    }
  }

  // A buffer that came in twice is still needed by its other reader.
  std::vector<const Buffer*> inputs_seen_twice() const {
    std::vector<const Buffer*> twice;
    if (std::find(arguments_.donate.begin(), arguments_.donate.end(), 1) ==
        arguments_.donate.end()) {
      return twice;
    }
    // An open hash table: sorting a hundred inputs takes as long as running a small Program.
    std::vector<const Buffer*> met(std::bit_ceil(2 * arguments_.inputs.size()));
    for (const auto& buffer : arguments_.inputs) {
      size_t at = (reinterpret_cast<uintptr_t>(buffer.get()) >> 4) & (met.size() - 1);
      while (met[at] != nullptr && met[at] != buffer.get()) {
        at = (at + 1) & (met.size() - 1);
      }
      if (met[at] == nullptr) {
        met[at] = buffer.get();
      } else {
        twice.push_back(buffer.get());
      }
    }
    return twice;
  }

  bool takes_over(const Slot& slot, const std::vector<const Buffer*>& twice) const {
    if (slot.may_alias < 0 || arguments_.donate.empty()) {
      return false;
    }
    const auto input = static_cast<size_t>(slot.may_alias);
    const Buffer* buffer = arguments_.inputs[input].get();
    return arguments_.donate[input] != 0 && buffer->exports() == 0 &&
           program_.alias_allowed(slot) &&
           static_cast<int64_t>(buffer->nbytes()) == value(slot.nbytes) &&
           std::find(twice.begin(), twice.end(), buffer) == twice.end();
  }

  void make_outputs() {
    const std::vector<const Buffer*> twice = inputs_seen_twice();
    outputs_.reserve(program_.outputs().size());
    for (const int index : program_.outputs()) {
      const Slot& slot = program_.slots()[static_cast<size_t>(index)];
      if (takes_over(slot, twice)) {
        outputs_.push_back(arguments_.inputs[static_cast<size_t>(slot.may_alias)]);
        outputs_.back()->note_write();
        first_donated_ = std::min(first_donated_, slot.first);
      } else {
        outputs_.push_back(Buffer::allocate(static_cast<size_t>(value(slot.nbytes)), slot.label));
      }
      data_[static_cast<size_t>(index)] = outputs_.back()->data();
    }
  }

  void place_temps() {
    if (!program_.temps().empty()) {  // views of empty ones need an owner too
      arena_ = Buffer::allocate(static_cast<size_t>(binding_->arena_bytes),
                                "arena of " + program_.name());
    }
    char* arena = arena_ ? arena_->data() : nullptr;
    for (size_t i = 0; i < program_.temps().size(); ++i) {
      data_[static_cast<size_t>(program_.temps()[i])] = arena + binding_->offsets[i];
    }
    for (size_t i = 0; i < program_.slots().size(); ++i) {
      if (program_.slots()[i].kind == SlotKind::kConstant) {
        data_[i] = program_.slots()[i].constant->data();
      }
    }
    if (binding_->scratch_bytes > 0) {
      scratch_stride_ =
          (static_cast<size_t>(binding_->scratch_bytes) + Pool::kPage - 1) & ~(Pool::kPage - 1);
      scratch_ = Buffer::allocate(scratch_stride_ * static_cast<size_t>(max_workers_) + Pool::kPage,
                                  "scratch of " + program_.name());
      const auto address = reinterpret_cast<uintptr_t>(scratch_->data());
      scratch_data_ =
          reinterpret_cast<char*>((address + Pool::kPage - 1) & ~uintptr_t{Pool::kPage - 1});
    }
  }

  // ---- the walk ----

  void run_steps(const Steps& steps) {
    for (const Step& step : steps) {
      donated_written_ = donated_written_ || step.number >= first_donated_;
      if (!donated_written_ && arguments_.interrupt.check != nullptr) {
        arguments_.interrupt.check(arguments_.interrupt.context);
      }
      const int64_t start = profile_ ? monotonic_ns() : 0;
      std::visit([&](const auto& what) { execute(what); }, step.what);
      if (profile_) {
        record_step({program_.shared_name(), step.number, start, monotonic_ns()});
      }
    }
  }

  char* resolve(const Argument& argument) const {
    char* data = data_[static_cast<size_t>(argument.slot)];
    if (argument.offset >= 0) {
      data += value(argument.offset);
    }
    if (argument.loop >= 0) {
      data += loop_index_[static_cast<size_t>(argument.loop)] * value(argument.stride);
    }
    return data;
  }

  void resolve_into_pointers(const std::vector<Argument>& arguments) {
    for (const Argument& argument : arguments) {
      pointers_.push_back(resolve(argument));
    }
  }

  std::span<const int64_t> sizes(size_t at, size_t count) const {
    return {binding_->sizes.data() + at, count};
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
      const auto index = static_cast<size_t>(argument.slot);
      const Slot& slot = program_.slots()[index];
      char* data = resolve(argument);
      const auto nbytes = static_cast<size_t>(binding_->slot_nbytes[index] - (data - data_[index]));
      arguments.push_back({owner_of(slot), data, nbytes,
                           slot.kind == SlotKind::kTemp || slot.kind == SlotKind::kOutput});
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
    program_.counters().collectives.fetch_add(1, std::memory_order_relaxed);
    const auto group = find_communicator(call.group);
    if (group->size() != call.ranks) {
      throw CollectiveError("group '" + call.group + "' has " + std::to_string(group->size()) +
                            " ranks; " + program_.name() + " was compiled for " +
                            std::to_string(call.ranks));
    }
    Message message = call.message;
    message.count = value(call.count);
    group->run(message, call.given ? resolve(*call.given) : nullptr,
               call.taken ? resolve(*call.taken) : nullptr, arguments_.interrupt);
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

  const Program& program_;
  const RunArguments& arguments_;
  std::shared_ptr<const Binding> binding_;
  ThreadPool& threads_;
  int max_workers_;
  bool profile_;
  std::vector<char*> data_;  // of the slots
  std::vector<int64_t> loop_index_;
  std::vector<std::shared_ptr<Buffer>> outputs_;
  std::shared_ptr<Buffer> arena_;
  std::shared_ptr<Buffer> scratch_;
  char* scratch_data_ = nullptr;
  size_t scratch_stride_ = 0;
  int first_donated_ = std::numeric_limits<int>::max();
  bool donated_written_ = false;
  std::vector<void*> pointers_;
  std::vector<RowAt> rows_;
};

}  // namespace

std::vector<std::shared_ptr<Buffer>> run(const Program& program, const RunArguments& arguments) {
  return Execution(program, arguments).run();
}

}  // namespace deepseek
