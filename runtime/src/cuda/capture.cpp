#include <algorithm>

#include "deepseek/cuda_executor.h"
#include "deepseek/program.h"

namespace deepseek::cuda {
namespace {

// How many launches and copies the steps always come to; none where what they do depends on values,
// or the host has a part in it.
std::optional<int64_t> fixed_work(const Steps& steps, const Binding& binding) {
  int64_t work = 0;
  for (const Step& step : steps) {
    if (const auto* launch = std::get_if<DeviceLaunchStep>(&step.what)) {
      work += static_cast<int64_t>(launch->rows.size());
    } else if (const auto* copy = std::get_if<CopyStep>(&step.what)) {
      if (copy->dst.slot == copy->src.slot) {
        return {};  // they may overlap, and memory between them cannot be had during a capture
      }
      ++work;
    } else if (const auto* loop = std::get_if<ForStep>(&step.what)) {
      const auto body = fixed_work(loop->body, binding);
      if (loop->count_slot || !body) {
        return {};
      }
      work += *body * binding.values[static_cast<size_t>(loop->count)];
    } else if (!std::holds_alternative<SyncStep>(step.what)) {
      return {};
    }
  }
  return work;
}

}  // namespace

void Captured::reset() noexcept {
  if (device.try_activate()) {
    if (exec != nullptr) {
      driver().graph_exec_destroy(exec);  // launches that go on are finished first
    }
    if (graph != nullptr) {
      driver().graph_destroy(graph);
    }
  }
  exec = nullptr;
  graph = nullptr;
  launches.clear();
  copies.clear();
}

std::shared_ptr<Captured> ProgramState::graph_of(const Program& program,
                                                 const std::shared_ptr<const Binding>& binding) {
  // One launch costs the same alone; a graph of very many takes long to make.
  constexpr int64_t kFewest = 2;
  constexpr int64_t kMost = 20'000;
  std::lock_guard lock(mutex_);
  const auto found = std::find_if(graphs_.begin(), graphs_.end(),
                                  [&](const Entry& entry) { return entry.binding == binding; });
  if (found != graphs_.end()) {
    graphs_.splice(graphs_.begin(), graphs_, found);
  } else {
    const int64_t work = fixed_work(program.steps(), *binding).value_or(0);
    const bool worth = work >= kFewest && work <= kMost;
    graphs_.push_front({binding, worth ? std::make_shared<Captured>(device_) : nullptr});
    if (graphs_.size() > kMaxGraphs) {
      graphs_.pop_back();
    }
  }
  return graphs_.front().graph;
}

const Buffer& ProgramState::constant(size_t slot, const Buffer& host) {
  std::lock_guard lock(mutex_);
  auto& held = constants_[slot];
  if (!held) {
    held = copied(host, device_.index());
  }
  return *held;
}

Settings& settings() {
  static Settings settings;
  return settings;
}

}  // namespace deepseek::cuda
