#include "deepseek/program.h"

#include <algorithm>
#include <stdexcept>

#include "deepseek/arena.h"

namespace deepseek {
namespace {

template <typename... F>
struct Overloaded : F... {
  using F::operator()...;
};

std::string describe(const Step& step) {
  return "step " + std::to_string(step.number) + " (" + std::string(kind_name(step)) +
         (step.label.empty() ? "" : " " + step.label) + ")";
}

void list(const Steps& steps, std::vector<std::pair<std::string_view, std::string>>& out) {
  for (const Step& step : steps) {
    out.emplace_back(kind_name(step), step.label);
    std::visit(Overloaded{[&](const IfStep& branch) {
                            list(branch.then, out);
                            list(branch.otherwise, out);
                          },
                          [&](const WhileStep& loop) {
                            list(loop.condition, out);
                            list(loop.body, out);
                          },
                          [&](const ForStep& loop) { list(loop.body, out); }, [](const auto&) {}},
               step.what);
  }
}

}  // namespace

std::string_view kind_name(const Step& step) {
  constexpr std::string_view kNames[] = {"launch", "extern", "host", "copy",      "sync",
                                         "if",     "while",  "for",  "collective"};
  static_assert(std::size(kNames) == std::variant_size_v<decltype(step.what)>);
  return kNames[step.what.index()];
}

std::vector<std::pair<std::string_view, std::string>> Program::list_steps() const {
  std::vector<std::pair<std::string_view, std::string>> out;
  list(steps_, out);
  return out;
}

std::shared_ptr<const Binding> Program::bind(std::span<const int64_t> symbols) const {
  std::lock_guard lock(mutex_);
  for (auto it = bindings_.begin(); it != bindings_.end(); ++it) {
    if (std::equal(symbols.begin(), symbols.end(), (*it)->symbols.begin(), (*it)->symbols.end())) {
      bindings_.splice(bindings_.begin(), bindings_, it);
      return bindings_.front();
    }
  }
  bindings_.push_front(make_binding(symbols));
  counters_.bindings.fetch_add(1, std::memory_order_relaxed);
  if (bindings_.size() > kMaxBindings) {
    bindings_.pop_back();
  }
  return bindings_.front();
}

std::shared_ptr<const Binding> Program::make_binding(std::span<const int64_t> symbols) const {
  if (symbols.size() != static_cast<size_t>(num_symbols_)) {
    throw std::invalid_argument(name() + ": wants " + std::to_string(num_symbols_) +
                                " symbols, got " + std::to_string(symbols.size()));
  }
  auto binding = std::make_shared<Binding>();
  binding->symbols.assign(symbols.begin(), symbols.end());
  binding->values.reserve(exprs_.size());
  for (const Expr& expr : exprs_) {
    binding->values.push_back(expr.evaluate(symbols));
  }
  for (size_t i = 0; i < slots_.size(); ++i) {
    const int64_t nbytes = binding->values[static_cast<size_t>(slots_[i].nbytes)];
    if (nbytes < 0) {
      throw std::invalid_argument(name() + ": slot " + std::to_string(i) + " (" + slots_[i].label +
                                  ") has " + std::to_string(nbytes) + " bytes");
    }
    binding->slot_nbytes.push_back(nbytes);
  }
  std::vector<int64_t> sizes;
  std::vector<int64_t> first;
  std::vector<int64_t> last;
  for (const int slot : temps_) {
    const Slot& temp = slots_[static_cast<size_t>(slot)];
    const bool touched = temp.first >= 0;
    sizes.push_back(touched ? binding->slot_nbytes[static_cast<size_t>(slot)] : 0);
    first.push_back(temp.first);
    last.push_back(temp.last);
  }
  Packing packing = pack_arena(sizes, first, last);
  binding->offsets = std::move(packing.offsets);
  binding->arena_bytes = packing.total;
  binding->lower_bound = live_lower_bound(sizes, first, last);
  binding->sizes.resize(num_sizes_);
  std::vector<int64_t> counts(static_cast<size_t>(num_loops_), 0);
  bind_steps(steps_, *binding, counts);
  return binding;
}

namespace {

// Where the views of an argument begin, over all rounds of its loop.
struct Starts {
  __int128 least;
  __int128 most;
};

Starts starts_of(const Argument& argument, const Binding& binding,
                 const std::vector<int64_t>& counts) {
  const auto value = [&](int id) { return binding.values[static_cast<size_t>(id)]; };
  const __int128 begin = argument.offset >= 0 ? value(argument.offset) : 0;
  if (argument.loop < 0) {
    return {begin, begin};
  }
  const __int128 rounds = std::max<int64_t>(counts[static_cast<size_t>(argument.loop)], 1);
  const __int128 end = begin + (rounds - 1) * value(argument.stride);
  return {std::min(begin, end), std::max(begin, end)};
}

}  // namespace

// Checks every size and every view, so that a run cannot fail halfway.
void Program::bind_steps(const Steps& steps, Binding& binding, std::vector<int64_t>& counts) const {
  const auto value = [&](int id) { return binding.values[static_cast<size_t>(id)]; };
  const auto fill_sizes = [&](const std::vector<int>& sizes, size_t at) {
    for (const int id : sizes) {
      binding.sizes[at++] = value(id);
    }
  };
  for (const Step& step : steps) {
    const auto fail = [&](const std::string& what) {
      throw std::invalid_argument(name() + ", " + describe(step) + ": " + what);
    };
    // The bytes that every view of the argument has; at least `least` are needed.
    const auto view = [&](const Argument& argument, int64_t least) -> int64_t {
      const auto [lowest, highest] = starts_of(argument, binding, counts);
      const int64_t nbytes = binding.slot_nbytes[static_cast<size_t>(argument.slot)];
      if (lowest < 0 || highest + least > nbytes) {
        fail("a view of slot " + std::to_string(argument.slot) + " leaves its " +
             std::to_string(nbytes) + " bytes");
      }
      return nbytes - static_cast<int64_t>(highest);
    };
    std::visit(
        Overloaded{[&](const LaunchStep& launch) {
                     int64_t tasks = 0;
                     for (const LaunchRow& row : launch.rows) {
                       for (const Argument& argument : row.buffers) {
                         view(argument, 0);
                       }
                       fill_sizes(row.sizes, row.sizes_at);
                       if (value(row.grid) < 0 ||
                           __builtin_add_overflow(tasks, value(row.grid), &tasks)) {
                         fail("the grid has " + std::to_string(value(row.grid)) + " tasks");
                       }
                     }
                     if (value(launch.scratch) < 0) {
                       fail("scratch has " + std::to_string(value(launch.scratch)) + " bytes");
                     }
                     binding.scratch_bytes = std::max(binding.scratch_bytes, value(launch.scratch));
                   },
                   [&](const ExternStep& call) {
                     std::vector<int64_t> nbytes;
                     for (const Argument& argument : call.buffers) {
                       nbytes.push_back(view(argument, 0));
                     }
                     fill_sizes(call.sizes, call.sizes_at);
                     const std::span<const int64_t> sizes(binding.sizes.data() + call.sizes_at,
                                                          call.sizes.size());
                     call.routine->check(sizes, nbytes);
                     binding.scratch_bytes =
                         std::max(binding.scratch_bytes, call.routine->scratch_bytes(sizes));
                   },
                   [&](const HostStep& host) {
                     for (const Argument& argument : host.buffers) {
                       view(argument, 0);
                     }
                     fill_sizes(host.sizes, host.sizes_at);
                   },
                   [&](const CopyStep& copy) {
                     if (value(copy.nbytes) < 0) {
                       fail("copies " + std::to_string(value(copy.nbytes)) + " bytes");
                     }
                     view(copy.dst, value(copy.nbytes));
                     view(copy.src, value(copy.nbytes));
                   },
                   [](const SyncStep&) {},
                   [&](const CollectiveStep& call) {
                     Message message = call.message;
                     message.count = value(call.count);
                     if (message.count < 0) {
                       fail("a collective of " + std::to_string(message.count) + " elements");
                     }
                     if (call.given) {
                       view(*call.given, message.given_bytes());
                     }
                     if (call.taken) {
                       view(*call.taken, message.taken_bytes(call.ranks));
                     }
                   },
                   [&](const IfStep& branch) {
                     view(branch.predicate, 1);
                     bind_steps(branch.then, binding, counts);
                     bind_steps(branch.otherwise, binding, counts);
                   },
                   [&](const WhileStep& loop) {
                     view(loop.predicate, 1);
                     bind_steps(loop.condition, binding, counts);
                     bind_steps(loop.body, binding, counts);
                   },
                   [&](const ForStep& loop) {
                     if (value(loop.count) < 0) {
                       fail("runs " + std::to_string(value(loop.count)) + " times");
                     }
                     if (loop.count_slot) {
                       view(*loop.count_slot, 8);
                     }
                     counts[static_cast<size_t>(loop.loop)] = value(loop.count);
                     if (value(loop.count) > 0) {
                       bind_steps(loop.body, binding, counts);
                     }
                   }},
        step.what);
  }
}

}  // namespace deepseek
