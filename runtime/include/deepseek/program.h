// Program: immutable steps over one arena, with sizes that depend on symbols.
//
// bind() evaluates every size for one tuple of symbol values and packs the arena; bindings are
// cached. Programs are made by a ProgramBuilder and run by run() of executor.h.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "deepseek/buffer.h"
#include "deepseek/collective.h"
#include "deepseek/expr.h"
#include "deepseek/loader.h"
#include "deepseek/routines.h"

namespace deepseek {

using Kernel = void (*)(void* const* buffers, const int64_t* sizes, int64_t begin, int64_t end,
                        void* scratch);

// What a host function is given.
struct HostArgument {
  std::shared_ptr<Buffer> owner;  // keeps the memory alive
  char* data;
  size_t nbytes;
  bool writable;
};
using HostFunction =
    std::function<void(std::span<const HostArgument> arguments, std::span<const int64_t> sizes)>;

// Expressions are numbers into the binding's values.

struct Argument {
  int slot;
  int offset = -1;
  int loop = -1;
  int stride = -1;
};

struct LaunchRow {
  std::vector<Argument> buffers;
  std::vector<int> sizes;
  int grid;
  size_t sizes_at = 0;  // where the evaluated sizes lie in Binding::sizes
};

struct Step;
using Steps = std::vector<Step>;

struct LaunchStep {
  std::shared_ptr<const Code> code;
  Kernel kernel;
  std::vector<LaunchRow> rows;
  int scratch;
  int grain;
};

struct ExternStep {
  const Routine* routine;
  std::vector<Argument> buffers;
  std::vector<int> sizes;
  size_t sizes_at = 0;
};

struct HostStep {
  HostFunction function;
  std::vector<Argument> buffers;
  std::vector<int> sizes;
  size_t sizes_at = 0;
};

struct CopyStep {
  Argument dst;
  Argument src;
  int nbytes;
};

struct SyncStep {};

// What a group's ranks do together. The group is looked up at each run: it may have been made anew.
struct CollectiveStep {
  std::string group;
  int ranks;
  Message message;
  int count;  // expression
  std::optional<Argument> given;
  std::optional<Argument> taken;
};

struct IfStep {
  Argument predicate;
  Steps then;
  Steps otherwise;
};

struct WhileStep {
  Steps condition;
  Argument predicate;
  Steps body;
};

struct ForStep {
  int loop;
  int count;
  std::optional<Argument> count_slot;
  Steps body;
};

struct Step {
  std::variant<LaunchStep, ExternStep, HostStep, CopyStep, SyncStep, IfStep, WhileStep, ForStep,
               CollectiveStep>
      what;
  std::string label;
  int number = -1;
};

std::string_view kind_name(const Step& step);

enum class SlotKind : uint8_t { kInput, kOutput, kTemp, kConstant };

struct Slot {
  SlotKind kind;
  int nbytes = -1;  // expression; constants have their buffer's size
  int index = 0;    // position among the slots of its kind
  std::string label;
  int may_alias = -1;                // outputs: position of an input
  std::shared_ptr<Buffer> constant;  // constants
  int first = -1;                    // steps that touch it, widened to whole loops
  int last = -1;
};

// Everything that depends on the symbols' values.
struct Binding {
  std::vector<int64_t> symbols;
  std::vector<int64_t> values;  // of every expression
  std::vector<int64_t> sizes;   // size arguments, contiguous for each call
  std::vector<int64_t> slot_nbytes;
  std::vector<int64_t> offsets;  // of the temps, by position among the temps
  int64_t arena_bytes = 0;
  int64_t lower_bound = 0;
  int64_t scratch_bytes = 0;  // per thread
};

struct Counters {
  std::atomic<uint64_t> runs{0};
  std::atomic<uint64_t> launches{0};
  std::atomic<uint64_t> externs{0};
  std::atomic<uint64_t> hosts{0};
  std::atomic<uint64_t> copies{0};
  std::atomic<uint64_t> collectives{0};
  std::atomic<uint64_t> bindings{0};
};

class Program {
 public:
  static constexpr size_t kMaxBindings = 64;

  const std::string& name() const { return *name_; }
  const std::shared_ptr<const std::string>& shared_name() const { return name_; }
  const std::vector<Slot>& slots() const { return slots_; }
  const std::vector<int>& inputs() const { return inputs_; }
  const std::vector<int>& outputs() const { return outputs_; }
  const std::vector<int>& temps() const { return temps_; }
  const Steps& steps() const { return steps_; }
  int num_loops() const { return num_loops_; }
  Counters& counters() const { return counters_; }
  // True for outputs that may take over a donated input: no host step or collective can fail after
  // their first write.
  bool alias_allowed(const Slot& slot) const { return slot.first > last_host_; }
  std::vector<std::pair<std::string_view, std::string>> list_steps() const;

  std::shared_ptr<const Binding> bind(std::span<const int64_t> symbols) const;

 private:
  friend class ProgramBuilder;
  Program() = default;
  std::shared_ptr<const Binding> make_binding(std::span<const int64_t> symbols) const;
  void bind_steps(const Steps& steps, Binding& binding, std::vector<int64_t>& counts) const;

  std::shared_ptr<const std::string> name_;
  int num_symbols_ = 0;
  int num_loops_ = 0;
  int last_host_ = -1;  // last step that may fail, or the end of the loop around it
  size_t num_sizes_ = 0;
  std::vector<Expr> exprs_;
  std::vector<Slot> slots_;
  std::vector<int> inputs_;
  std::vector<int> outputs_;
  std::vector<int> temps_;
  Steps steps_;
  mutable Counters counters_;
  mutable std::mutex mutex_;
  mutable std::list<std::shared_ptr<const Binding>> bindings_;  // most recently used first
};

}  // namespace deepseek
