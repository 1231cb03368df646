#include "deepseek/pool.h"

#include <cstring>
#include <random>
#include <thread>

#include "deepseek/buffer.h"
#include "test.h"

namespace deepseek {
namespace {

TEST(capacities_lose_an_eighth_at_most) {
  for (size_t nbytes = 1; nbytes < (size_t{1} << 32); nbytes = nbytes * 9 / 7 + 1) {
    const size_t capacity = Pool::capacity_for(nbytes);
    CHECK(capacity >= nbytes);
    CHECK(capacity % Pool::kAlignment == 0);
    CHECK(capacity < Pool::kLarge || capacity % Pool::kPage == 0);
    CHECK(capacity <= nbytes + nbytes / 8 + Pool::kAlignment);
    CHECK_EQUAL(Pool::capacity_for(capacity), capacity);
  }
}

TEST(blocks_of_all_sizes_can_be_written) {
  Pool pool;
  for (const size_t nbytes : {size_t{0}, size_t{1}, size_t{513}, Pool::kLarge, Pool::kLarge + 1,
                              2 * Pool::kHuge, 9 * Pool::kHuge + 17}) {
    Buffer buffer(pool, nbytes, "x");
    std::memset(buffer.data(), 7, nbytes);
    CHECK_EQUAL(reinterpret_cast<uintptr_t>(buffer.data()) %
                    (nbytes >= Pool::kLarge ? Pool::kPage : Pool::kAlignment),
                uintptr_t{0});
  }
  CHECK_EQUAL(pool.stats().in_use, size_t{0});
  CHECK_EQUAL(pool.stats().reserved, pool.stats().cached);
  pool.empty_cache();
  CHECK_EQUAL(pool.stats().reserved, size_t{0});
}

TEST(freed_blocks_come_back) {
  Pool pool;
  const char* first = nullptr;
  {
    Buffer buffer(pool, size_t{10} << 20, "x");
    first = buffer.data();
  }
  const Buffer smaller(pool, size_t{9} << 20, "y");
  CHECK(smaller.data() == first);
  CHECK_EQUAL(pool.stats().cache_hits, uint64_t{1});
  const Buffer other(pool, size_t{9} << 20, "z");
  CHECK(other.data() != first);
}

TEST(the_limit_frees_the_cache_before_it_fails) {
  Pool pool;
  pool.set_limit(size_t{10} << 20);
  {
    const Buffer buffer(pool, size_t{8} << 20, "x");
  }
  const Buffer held(pool, size_t{4} << 20, "held");
  CHECK_EQUAL(pool.stats().cached, size_t{0});
  CHECK_THROWS(OutOfMemory, "held 4.0 MiB", Buffer(pool, size_t{7} << 20, "more"));
  const Buffer fits(pool, size_t{6} << 20, "fits");
  CHECK_EQUAL(pool.live_blocks().front().first, "fits");
}

TEST(cached_memory_stays_below_the_peak) {
  Pool pool;
  for (size_t mib = 20; mib < 200; mib += 9) {
    const Buffer buffer(pool, mib << 20, "x");
  }
  CHECK(pool.stats().cached <= pool.stats().peak);
}

TEST(threads_share_a_pool) {
  Pool pool;
  std::vector<std::thread> threads;
  for (unsigned seed = 0; seed < 4; ++seed) {
    threads.emplace_back([&pool, seed] {
      std::mt19937 random(seed);
      std::vector<std::unique_ptr<Buffer>> held(8);
      for (int i = 0; i < 400; ++i) {
        auto& slot = held[random() % held.size()];
        slot = std::make_unique<Buffer>(pool, random() % 100'000, "x");
        std::memset(slot->data(), static_cast<int>(seed), slot->nbytes());
        slot->set_label("y");
      }
      for (const auto& buffer : held) {
        for (size_t i = 0; buffer && i < buffer->nbytes(); ++i) {
          CHECK_EQUAL(static_cast<unsigned>(buffer->data()[i]), seed);
        }
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  CHECK_EQUAL(pool.stats().in_use, size_t{0});
}

}  // namespace
}  // namespace deepseek
