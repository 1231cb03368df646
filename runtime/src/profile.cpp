#include "deepseek/profile.h"

#include <atomic>
#include <ctime>
#include <mutex>
#include <utility>

namespace deepseek {
namespace {

std::atomic<bool> enabled{false};
std::mutex mutex;
std::vector<ProfileRecord> records;

}  // namespace

void set_profile(bool on) {
  enabled.store(on, std::memory_order_relaxed);
}

bool profile_enabled() {
  return enabled.load(std::memory_order_relaxed);
}

void record_step(ProfileRecord record) {
  std::lock_guard lock(mutex);
  records.push_back(std::move(record));
}

std::vector<ProfileRecord> take_profile() {
  std::lock_guard lock(mutex);
  return std::exchange(records, {});
}

int64_t monotonic_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

}  // namespace deepseek
