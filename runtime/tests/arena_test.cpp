#include "deepseek/arena.h"

#include <algorithm>
#include <random>

#include "test.h"

namespace deepseek {
namespace {

using Numbers = std::vector<int64_t>;

void check_apart(const Numbers& sizes, const Numbers& first, const Numbers& last,
                 const Packing& packing) {
  for (size_t i = 0; i < sizes.size(); ++i) {
    CHECK_EQUAL(packing.offsets[i] % kArenaAlignment, 0);
    CHECK(packing.offsets[i] + sizes[i] <= packing.total);
    for (size_t j = 0; j < i; ++j) {
      const bool together = first[i] <= last[j] && first[j] <= last[i];
      const bool apart = packing.offsets[i] + sizes[i] <= packing.offsets[j] ||
                         packing.offsets[j] + sizes[j] <= packing.offsets[i];
      CHECK(!together || apart || sizes[i] == 0 || sizes[j] == 0);
    }
  }
}

TEST(a_chain_needs_two_blocks) {
  Numbers sizes(20, 1000);
  Numbers first;
  Numbers last;
  for (int64_t i = 0; i < 20; ++i) {
    first.push_back(i);
    last.push_back(i + 1);
  }
  const Packing packing = pack_arena(sizes, first, last);
  CHECK_EQUAL(packing.total, 2048);
  CHECK_EQUAL(live_lower_bound(sizes, first, last), 2048);
  check_apart(sizes, first, last, packing);
}

TEST(random_blocks_never_overlap) {
  std::mt19937 random(3);
  for (int round = 0; round < 40; ++round) {
    Numbers sizes;
    Numbers first;
    Numbers last;
    for (unsigned i = random() % 50; i > 0; --i) {
      sizes.push_back(static_cast<int64_t>(random() % 5 == 0 ? 0 : random() % 10000));
      first.push_back(static_cast<int64_t>(random() % 40));
      last.push_back(first.back() + static_cast<int64_t>(random() % 10));
    }
    const Packing packing = pack_arena(sizes, first, last);
    check_apart(sizes, first, last, packing);
    CHECK(live_lower_bound(sizes, first, last) <= packing.total);
    CHECK(pack_arena(sizes, first, last).offsets == packing.offsets);
  }
}

TEST(bad_blocks_are_refused) {
  CHECK_THROWS(std::invalid_argument, "size -1", pack_arena(Numbers{-1}, Numbers{0}, Numbers{0}));
  CHECK_THROWS(std::invalid_argument, "before it begins",
               pack_arena(Numbers{1}, Numbers{3}, Numbers{2}));
  CHECK_EQUAL(pack_arena(Numbers{}, Numbers{}, Numbers{}).total, 0);
}

}  // namespace
}  // namespace deepseek
