#include "deepseek/builder.h"

#include <algorithm>
#include <stdexcept>

namespace deepseek {
namespace {

// Walks the finished steps once: numbers them, says which slots each touches, finds the loops.
class Walk {
 public:
  explicit Walk(size_t loops) : active_(loops, 0) {}

  void visit(Steps& steps) {
    for (Step& step : steps) {
      step.number = next_++;
      std::visit([&](auto& what) { visit(what, step.number); }, step.what);
    }
  }

  struct Region {
    int first;
    int last;
    bool contains(int step) const { return first <= step && step <= last; }
  };

  struct Touch {
    int slot;
    int step;
  };

  const std::vector<Touch>& touches() const { return touches_; }
  const std::vector<Region>& loops() const { return loops_; }
  const std::vector<int>& hosts() const { return hosts_; }
  size_t num_sizes() const { return num_sizes_; }

 private:
  void touch(const Argument& argument, int step) {
    if (argument.loop >= 0 && active_[static_cast<size_t>(argument.loop)] == 0) {
      throw std::invalid_argument("step " + std::to_string(step) + " uses the index of loop " +
                                  std::to_string(argument.loop) + " outside of its body");
    }
    touches_.push_back({argument.slot, step});
  }

  void touch(const std::vector<Argument>& arguments, int step) {
    for (const Argument& argument : arguments) {
      touch(argument, step);
    }
  }

  void place_sizes(size_t& at, size_t count) {
    at = num_sizes_;
    num_sizes_ += count;
  }

  void visit(LaunchStep& launch, int step) {
    for (LaunchRow& row : launch.rows) {
      touch(row.buffers, step);
      place_sizes(row.sizes_at, row.sizes.size());
    }
  }

  void visit(ExternStep& call, int step) {
    touch(call.buffers, step);
    place_sizes(call.sizes_at, call.sizes.size());
  }

  void visit(HostStep& host, int step) {
    touch(host.buffers, step);
    place_sizes(host.sizes_at, host.sizes.size());
    hosts_.push_back(step);
  }

  void visit(CopyStep& copy, int step) {
    touch(copy.dst, step);
    touch(copy.src, step);
  }

  void visit(SyncStep&, int) {}

  void visit(CollectiveStep& call, int step) {
    for (const auto& argument : {call.given, call.taken}) {
      if (argument) {
        touch(*argument, step);
      }
    }
    hosts_.push_back(step);  // it can fail
  }

  void visit(IfStep& branch, int step) {
    touch(branch.predicate, step);
    visit(branch.then);
    visit(branch.otherwise);
  }

  void visit(WhileStep& loop, int step) {
    visit(loop.condition);
    touch(loop.predicate, next_ - 1);
    visit(loop.body);
    loops_.push_back({step, next_ - 1});
  }

  void visit(ForStep& loop, int step) {
    if (loop.count_slot) {
      touch(*loop.count_slot, step);
    }
    active_[static_cast<size_t>(loop.loop)] = 1;
    visit(loop.body);
    active_[static_cast<size_t>(loop.loop)] = 0;
    loops_.push_back({step, next_ - 1});
  }

  int next_ = 0;
  size_t num_sizes_ = 0;
  std::vector<char> active_;
  std::vector<Touch> touches_;
  std::vector<Region> loops_;
  std::vector<int> hosts_;
};

void set_lifetimes(std::vector<Slot>& slots, const Walk& walk) {
  for (const auto& [slot, step] : walk.touches()) {
    Slot& touched = slots[static_cast<size_t>(slot)];
    touched.first = touched.first < 0 ? step : std::min(touched.first, step);
    touched.last = std::max(touched.last, step);
  }
  // What a loop shares with the outside, or keeps from one round to the next (which therefore was
  // written before it), must live during all of it.
  for (const Walk::Region& loop : walk.loops()) {
    std::vector<char> inside(slots.size(), 0);
    std::vector<char> outside(slots.size(), 0);
    for (const auto& [slot, step] : walk.touches()) {
      (loop.contains(step) ? inside : outside)[static_cast<size_t>(slot)] = 1;
    }
    for (size_t i = 0; i < slots.size(); ++i) {
      if (inside[i] != 0 && outside[i] != 0) {
        slots[i].first = std::min(slots[i].first, loop.first);
        slots[i].last = std::max(slots[i].last, loop.last);
      }
    }
  }
}

}  // namespace

// ---- blocks ------------------------------------------------------------------------------------

void Block::add(decltype(Step::what) what, std::string label) {
  builder_.require_open();
  if (used_) {
    throw std::invalid_argument("a block that is already part of a step cannot grow");
  }
  steps_.push_back({std::move(what), std::move(label), -1});
}

Steps Block::take(Block& block) {
  if (&block.builder_ != &builder_ || block.used_ || &block == this || &block == &builder_.main()) {
    throw std::invalid_argument("a block must come from the same builder and be used once");
  }
  block.used_ = true;
  return std::move(block.steps_);
}

void Block::launch(std::shared_ptr<const Code> code, std::string_view symbol, std::vector<Row> rows,
                   Expr scratch, Expr grain, std::string label) {
  void* address = code->symbol(symbol);
  if (address == nullptr) {
    std::string names;
    for (const auto& [name, _] : code->symbols()) {
      names += (names.empty() ? "" : ", ") + name;
    }
    throw std::invalid_argument("the code has no kernel '" + std::string(symbol) +
                                "'; it has: " + names);
  }
  if (label.empty()) {
    label = symbol;
  }
  launch(reinterpret_cast<Kernel>(address), std::move(rows), std::move(scratch), std::move(grain),
         std::move(label));
  std::get<LaunchStep>(steps_.back().what).code = std::move(code);
}

void Block::launch(Kernel kernel, std::vector<Row> rows, Expr scratch, Expr grain,
                   std::string label) {
  if (rows.empty()) {
    throw std::invalid_argument("a launch needs at least one row");
  }
  LaunchStep launch{nullptr, kernel, {}, builder_.expr(scratch), builder_.expr(grain)};
  for (const Row& row : rows) {
    launch.rows.push_back(
        {builder_.arguments(row.buffers), builder_.exprs(row.sizes), builder_.expr(row.grid), 0});
  }
  add(std::move(launch), std::move(label));
}

void Block::call(std::string_view routine, std::vector<Ref> buffers, std::vector<Expr> sizes,
                 std::string label) {
  const Routine* found = find_routine(routine);
  if (found == nullptr) {
    std::string names;
    for (const Routine* known : routines()) {
      names += (names.empty() ? "" : ", ") + std::string(known->name);
    }
    throw std::invalid_argument("no runtime routine '" + std::string(routine) +
                                "'; there are: " + names);
  }
  if (label.empty()) {
    label = routine;
  }
  add(ExternStep{found, builder_.arguments(buffers), builder_.exprs(sizes), 0}, std::move(label));
}

void Block::host(HostFunction function, std::vector<Ref> buffers, std::vector<Expr> sizes,
                 std::string label) {
  add(HostStep{std::move(function), builder_.arguments(buffers), builder_.exprs(sizes), 0},
      std::move(label));
}

void Block::copy(Ref dst, Ref src, Expr nbytes, std::string label) {
  CopyStep copy{builder_.argument(dst), builder_.argument(src), builder_.expr(nbytes)};
  const SlotKind kind = builder_.program_->slots()[static_cast<size_t>(dst.slot)].kind;
  if (kind == SlotKind::kInput || kind == SlotKind::kConstant) {
    throw std::invalid_argument("copy: slot " + std::to_string(dst.slot) +
                                " is an input or a constant and cannot be written");
  }
  add(std::move(copy), std::move(label));
}

void Block::sync(std::string label) {
  add(SyncStep{}, std::move(label));
}

void Block::collective(std::string group, int ranks, Message message, Expr count,
                       std::optional<Ref> given, std::optional<Ref> taken, std::string label) {
  if (ranks < 1) {
    throw std::invalid_argument("a collective of " + std::to_string(ranks) + " ranks");
  }
  CollectiveStep step{std::move(group), ranks, message, builder_.expr(count), {}, {}};
  if (given) {
    step.given = builder_.argument(*given);
  }
  if (taken) {
    step.taken = builder_.argument(*taken);
  }
  add(std::move(step), std::move(label));
}

void Block::branch(Ref predicate, Block& then, Block& otherwise, std::string label) {
  const Argument argument = builder_.argument(predicate);
  Steps first = take(then);
  add(IfStep{argument, std::move(first), take(otherwise)}, std::move(label));
}

void Block::loop_while(Block& condition, Ref predicate, Block& body, std::string label) {
  const Argument argument = builder_.argument(predicate);
  Steps first = take(condition);
  add(WhileStep{std::move(first), argument, take(body)}, std::move(label));
}

void Block::loop_for(int loop, Expr count, Block& body, std::optional<Ref> count_slot,
                     std::string label) {
  if (loop < 0 || loop >= builder_.program_->num_loops() ||
      builder_.loop_used_[static_cast<size_t>(loop)] != 0) {
    throw std::invalid_argument("loop " + std::to_string(loop) +
                                " must come from loop() and be used in one for");
  }
  ForStep step{loop, builder_.expr(count), {}, {}};
  if (count_slot) {
    step.count_slot = builder_.argument(*count_slot);
  }
  step.body = take(body);
  builder_.loop_used_[static_cast<size_t>(loop)] = 1;
  add(std::move(step), std::move(label));
}

// ---- the builder -------------------------------------------------------------------------------

ProgramBuilder::ProgramBuilder(int symbols, std::string name) : program_(new Program) {
  if (symbols < 0) {
    throw std::invalid_argument("the number of symbols is negative");
  }
  program_->num_symbols_ = symbols;
  program_->name_ = std::make_shared<const std::string>(std::move(name));
  block();
}

void ProgramBuilder::require_open() const {
  if (built_) {
    throw std::logic_error("the program is built and cannot change");
  }
}

int ProgramBuilder::expr(const Expr& expr) {
  require_open();
  const Expr checked(expr.items(), program_->num_symbols_);
  const auto [found, added] =
      expr_ids_.emplace(checked.text(), static_cast<int>(program_->exprs_.size()));
  if (added) {
    program_->exprs_.push_back(checked);
  }
  return found->second;
}

std::vector<int> ProgramBuilder::exprs(const std::vector<Expr>& list) {
  std::vector<int> ids;
  ids.reserve(list.size());
  for (const Expr& item : list) {
    ids.push_back(expr(item));
  }
  return ids;
}

Argument ProgramBuilder::argument(const Ref& ref) {
  if (ref.slot < 0 || ref.slot >= static_cast<int>(program_->slots_.size())) {
    throw std::invalid_argument("there is no slot " + std::to_string(ref.slot));
  }
  if (ref.loop >= program_->num_loops_ || ref.loop < -1) {
    throw std::invalid_argument("there is no loop " + std::to_string(ref.loop));
  }
  Argument argument{ref.slot};
  if (ref.offset) {
    argument.offset = expr(*ref.offset);
  }
  if (ref.loop >= 0) {
    argument.loop = ref.loop;
    argument.stride = expr(ref.stride.value());
  }
  return argument;
}

std::vector<Argument> ProgramBuilder::arguments(const std::vector<Ref>& refs) {
  std::vector<Argument> result;
  result.reserve(refs.size());
  for (const Ref& ref : refs) {
    result.push_back(argument(ref));
  }
  return result;
}

int ProgramBuilder::add_slot(Slot slot) {
  require_open();
  program_->slots_.push_back(std::move(slot));
  return static_cast<int>(program_->slots_.size()) - 1;
}

int ProgramBuilder::input(Expr nbytes, std::string label) {
  const int index = static_cast<int>(program_->inputs_.size());
  const int slot = add_slot({SlotKind::kInput, expr(nbytes), index, std::move(label), -1, {}});
  program_->inputs_.push_back(slot);
  return slot;
}

int ProgramBuilder::output(Expr nbytes, std::optional<int> may_alias, std::string label) {
  const int index = static_cast<int>(program_->outputs_.size());
  int alias = -1;
  if (may_alias) {
    const auto at = std::find(program_->inputs_.begin(), program_->inputs_.end(), *may_alias);
    if (at == program_->inputs_.end()) {
      throw std::invalid_argument("may_alias: slot " + std::to_string(*may_alias) +
                                  " is not an input");
    }
    alias = static_cast<int>(at - program_->inputs_.begin());
    for (const int other : program_->outputs_) {
      if (program_->slots_[static_cast<size_t>(other)].may_alias == alias) {
        throw std::invalid_argument("may_alias: slot " + std::to_string(*may_alias) +
                                    " is already taken over by another output");
      }
    }
  }
  if (label.empty()) {
    label = "output " + std::to_string(index) + " of " + program_->name();
  }
  const int slot = add_slot({SlotKind::kOutput, expr(nbytes), index, std::move(label), alias, {}});
  program_->outputs_.push_back(slot);
  return slot;
}

int ProgramBuilder::temp(Expr nbytes, std::string label) {
  const int index = static_cast<int>(program_->temps_.size());
  const int slot = add_slot({SlotKind::kTemp, expr(nbytes), index, std::move(label), -1, {}});
  program_->temps_.push_back(slot);
  return slot;
}

int ProgramBuilder::constant(std::shared_ptr<Buffer> buffer, std::string label) {
  const int nbytes = expr(static_cast<int64_t>(buffer->nbytes()));
  return add_slot({SlotKind::kConstant, nbytes, 0, std::move(label), -1, std::move(buffer)});
}

int ProgramBuilder::loop() {
  require_open();
  loop_used_.push_back(0);
  return program_->num_loops_++;
}

Block& ProgramBuilder::block() {
  require_open();
  blocks_.push_back(std::unique_ptr<Block>(new Block(*this)));
  return *blocks_.back();
}

std::shared_ptr<Program> ProgramBuilder::build() {
  require_open();
  for (size_t i = 1; i < blocks_.size(); ++i) {
    if (!blocks_[i]->used_ && !blocks_[i]->steps_.empty()) {
      throw std::invalid_argument("a block with steps is not part of the program");
    }
  }
  Program& program = *program_;
  program.steps_ = blocks_.front()->steps_;
  Walk walk(static_cast<size_t>(program.num_loops_));
  walk.visit(program.steps_);
  set_lifetimes(program.slots_, walk);
  program.num_sizes_ = walk.num_sizes();
  for (int last : walk.hosts()) {
    for (const Walk::Region& loop : walk.loops()) {
      if (loop.contains(last)) {
        last = std::max(last, loop.last);
      }
    }
    program.last_host_ = std::max(program.last_host_, last);
  }
  built_ = true;
  return std::move(program_);
}

}  // namespace deepseek
