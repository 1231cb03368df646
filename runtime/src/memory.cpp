#include "deepseek/memory.h"

#include <algorithm>
#include <bit>
#include <cstdio>
#include <map>

namespace deepseek {

std::string human(size_t bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1024 && unit + 1 < std::size(kUnits)) {
    value /= 1024;
    ++unit;
  }
  char text[48];
  std::snprintf(text, sizeof text, unit == 0 ? "%.0f %s" : "%.1f %s", value, kUnits[unit]);
  return text;
}

Memory::Memory(int device) : device_(device) {
  live_.previous = live_.next = &live_;
}

size_t Memory::size_class(size_t nbytes, size_t smallest, size_t large, size_t page) {
  if (nbytes <= 512) {
    return nbytes == 0 ? smallest : (nbytes + smallest - 1) & ~(smallest - 1);
  }
  const size_t eighth = std::bit_floor(nbytes) / 8;
  const size_t step = std::max(nbytes >= large ? page : smallest, eighth);
  return (nbytes + step - 1) & ~(step - 1);
}

void Memory::enter(LiveBlock& block, size_t nbytes, std::string label) {
  block.nbytes = nbytes;
  block.label = std::move(label);
  block.previous = live_.previous;
  block.next = &live_;
  live_.previous->next = &block;
  live_.previous = &block;
  stats_.in_use += nbytes;
  stats_.peak = std::max(stats_.peak, stats_.in_use);
  stats_.peak_reserved = std::max(stats_.peak_reserved, stats_.reserved);
  ++stats_.allocations;
  ++stats_.live_blocks;
}

void Memory::leave(LiveBlock& block) noexcept {
  block.previous->next = block.next;
  block.next->previous = block.previous;
  stats_.in_use -= block.nbytes;
  --stats_.live_blocks;
}

size_t Memory::effective_limit() const {
  return stats_.limit ? std::min(*stats_.limit, stats_.physical) : stats_.physical;
}

std::string Memory::describe_failure(size_t nbytes) const {
  std::map<std::string, size_t> held;
  for (const LiveBlock* block = live_.next; block != &live_; block = block->next) {
    held[block->label.empty() ? "(unlabelled)" : block->label] += block->nbytes;
  }
  std::vector<std::pair<std::string, size_t>> top(held.begin(), held.end());
  std::stable_sort(top.begin(), top.end(),
                   [](const auto& a, const auto& b) { return a.second > b.second; });
  const std::string place = device_ == kHost ? "" : " on cuda:" + std::to_string(device_);
  const std::string whole = device_ == kHost ? "machine" : "device";
  std::string text = "out of memory" + place + ": asked for " + human(nbytes) + " while " +
                     human(stats_.in_use) + " are in use; the " +
                     (stats_.limit ? "limit is " : whole + " has ") + human(effective_limit());
  for (size_t i = 0; i < std::min<size_t>(top.size(), 5); ++i) {
    text += (i == 0 ? "; held by: " : ", ") + top[i].first + " " + human(top[i].second);
  }
  if (top.size() > 5) {
    text += ", and " + std::to_string(top.size() - 5) + " more";
  }
  return text + ". Drop tensors that are not needed, use smaller batches, or raise the limit.";
}

std::string Memory::label_of(const LiveBlock& block) {
  std::lock_guard lock(mutex_);
  return block.label;
}

void Memory::set_label(LiveBlock& block, std::string label) {
  std::lock_guard lock(mutex_);
  block.label = std::move(label);
}

PoolStats Memory::stats() {
  std::lock_guard lock(mutex_);
  return stats_;
}

std::vector<std::pair<std::string, size_t>> Memory::live_blocks() {
  std::vector<std::pair<std::string, size_t>> blocks;
  {
    std::lock_guard lock(mutex_);
    blocks.reserve(stats_.live_blocks);
    for (const LiveBlock* block = live_.next; block != &live_; block = block->next) {
      blocks.emplace_back(block->label, block->nbytes);
    }
  }
  std::stable_sort(blocks.begin(), blocks.end(),
                   [](const auto& a, const auto& b) { return a.second > b.second; });
  return blocks;
}

void Memory::reset_peak() {
  std::lock_guard lock(mutex_);
  stats_.peak = stats_.in_use;
  stats_.peak_reserved = stats_.reserved;
}

}  // namespace deepseek
