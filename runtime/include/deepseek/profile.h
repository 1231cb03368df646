// Per-step timing, collected while it is switched on.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace deepseek {

struct ProfileRecord {
  std::shared_ptr<const std::string> program;
  int step;
  int64_t start_ns;  // CLOCK_MONOTONIC
  int64_t end_ns;
};

void set_profile(bool on);
bool profile_enabled();
void record_step(ProfileRecord record);
std::vector<ProfileRecord> take_profile();
int64_t monotonic_ns();

}  // namespace deepseek
