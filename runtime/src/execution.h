// One call of a Program: its sizes and its memory, wherever that lies. What walks the steps derives
// from it.
#pragma once

#include <algorithm>
#include <bit>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "deepseek/executor.h"
#include "deepseek/profile.h"

namespace deepseek {

class Execution {
 protected:
  Execution(const Program& program, const RunArguments& arguments, Memory& memory)
      : program_(program),
        arguments_(arguments),
        memory_(memory),
        binding_(program.bind(arguments.symbols)),
        profile_(profile_enabled()),
        data_(program.slots().size()),
        loop_index_(static_cast<size_t>(program.num_loops())) {}

  int64_t value(int id) const { return binding_->values[static_cast<size_t>(id)]; }

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
        throw std::invalid_argument(name_of_input(i) + " wants " +
                                    std::to_string(binding_->slot_nbytes[slot]) +
                                    " bytes, got a buffer of " + std::to_string(buffer.nbytes()));
      }
      // What the host holds, a device is given a copy of.
      if (buffer.device() != program_.device() && buffer.device() != kHost) {
        throw std::invalid_argument(name_of_input(i) +
                                    " lies on cuda:" + std::to_string(buffer.device()) +
                                    ", and the program runs on " + device_name(program_.device()));
      }
      data_[slot] = buffer.data();
    }
  }

  std::string name_of_input(size_t i) const {
    const auto slot = static_cast<size_t>(program_.inputs()[i]);
    return program_.name() + ": input " + std::to_string(i) + " (" + program_.slots()[slot].label +
           ")";
  }

  // Outputs take donated inputs over, where `may_take` lets them, or get memory of their own.
  template <typename MayTake>
  void make_outputs(MayTake may_take) {
    const std::vector<const Buffer*> twice = inputs_seen_twice();
    outputs_.reserve(program_.outputs().size());
    for (const int index : program_.outputs()) {
      const Slot& slot = program_.slots()[static_cast<size_t>(index)];
      if (takes_over(slot, twice) &&
          may_take(*arguments_.inputs[static_cast<size_t>(slot.may_alias)])) {
        outputs_.push_back(arguments_.inputs[static_cast<size_t>(slot.may_alias)]);
        outputs_.back()->note_write();
        first_donated_ = std::min(first_donated_, slot.first);
      } else {
        outputs_.push_back(allocate(static_cast<size_t>(value(slot.nbytes)), slot.label));
      }
      data_[static_cast<size_t>(index)] = outputs_.back()->data();
    }
  }

  void place_temps() {
    if (!program_.temps().empty()) {  // views of empty ones need an owner too
      arena_ = allocate(static_cast<size_t>(binding_->arena_bytes), "arena of " + program_.name());
    }
    char* arena = arena_ ? arena_->data() : nullptr;
    for (size_t i = 0; i < program_.temps().size(); ++i) {
      data_[static_cast<size_t>(program_.temps()[i])] = arena + binding_->offsets[i];
    }
  }

  std::shared_ptr<Buffer> allocate(size_t nbytes, std::string label) const {
    return std::make_shared<Buffer>(memory_, nbytes, std::move(label));
  }

  // Whether a step may still be refused, or stopped, without harm to what was donated.
  void before(const Step& step) {
    donated_written_ = donated_written_ || step.number >= first_donated_;
    if (!donated_written_ && arguments_.interrupt.check != nullptr) {
      arguments_.interrupt.check(arguments_.interrupt.context);
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

  // The group of a collective step, and what this rank asks it for.
  std::pair<std::shared_ptr<Communicator>, Message> collective(const CollectiveStep& call) const {
    program_.counters().collectives.fetch_add(1, std::memory_order_relaxed);
    auto group = find_communicator(call.group);
    if (group->size() != call.ranks) {
      throw CollectiveError("group '" + call.group + "' has " + std::to_string(group->size()) +
                            " ranks; " + program_.name() + " was compiled for " +
                            std::to_string(call.ranks));
    }
    Message message = call.message;
    message.count = value(call.count);
    return {std::move(group), message};
  }

  std::span<const int64_t> sizes(size_t at, size_t count) const {
    return {binding_->sizes.data() + at, count};
  }

  // How many bytes a view has, to the end of its slot.
  size_t nbytes_from(const Argument& argument, const char* data) const {
    const auto index = static_cast<size_t>(argument.slot);
    return static_cast<size_t>(binding_->slot_nbytes[index] - (data - data_[index]));
  }

  const Slot& slot_of(const Argument& argument) const {
    return program_.slots()[static_cast<size_t>(argument.slot)];
  }

  static bool writable(const Slot& slot) {
    return slot.kind == SlotKind::kTemp || slot.kind == SlotKind::kOutput;
  }

  const Program& program_;
  const RunArguments& arguments_;
  Memory& memory_;
  std::shared_ptr<const Binding> binding_;
  bool profile_;
  std::vector<char*> data_;  // of the slots
  std::vector<int64_t> loop_index_;
  std::vector<std::shared_ptr<Buffer>> outputs_;
  std::shared_ptr<Buffer> arena_;
  int first_donated_ = std::numeric_limits<int>::max();
  bool donated_written_ = false;

 private:
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
           buffer->device() == program_.device() && program_.alias_allowed(slot) &&
           static_cast<int64_t>(buffer->nbytes()) == value(slot.nbytes) &&
           std::find(twice.begin(), twice.end(), buffer) == twice.end();
  }
};

}  // namespace deepseek
