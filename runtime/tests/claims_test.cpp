#include "deepseek/claims.h"

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "test.h"

namespace deepseek {
namespace {

using namespace std::chrono_literals;

TEST(a_claim_is_here_or_elsewhere) {
  const auto buffer = Buffer::allocate(8);
  CHECK(claim_on(*buffer) == Claim::kNone);
  Writer writer;
  CHECK(writer.begin());
  CHECK(writing_here());
  writer.claim(*buffer);
  CHECK(claim_on(*buffer) == Claim::kHere);
  std::thread([&] {
    CHECK(claim_on(*buffer) == Claim::kElsewhere);
    CHECK(!writing_here());
    CHECK(!wait_for_claim(*buffer, 1ms));
  }).join();
  writer.finish();
  CHECK(claim_on(*buffer) == Claim::kNone);
  CHECK(wait_for_claim(*buffer, 0ms));
  CHECK(!writing_here());
}

TEST(a_call_further_up_keeps_its_claim) {
  const auto buffer = Buffer::allocate(8);
  Writer outer;
  CHECK(outer.begin());
  outer.claim(*buffer);
  Writer inner;
  CHECK(inner.begin());
  bool refused = false;
  try {
    inner.claim(*buffer);
  } catch (const StillWriting&) {
    refused = true;
  }
  CHECK(refused);
  inner.finish();
  CHECK(claim_on(*buffer) == Claim::kHere);
}

TEST(whoever_waits_goes_on_when_the_claim_ends) {
  const auto buffer = Buffer::allocate(8);
  int value = 0;
  Writer writer;
  CHECK(writer.begin());
  writer.claim(*buffer);
  std::thread waiting([&] {
    while (!wait_for_claim(*buffer, 5ms)) {
    }
    CHECK_EQUAL(value, 7);
  });
  std::this_thread::sleep_for(10ms);
  value = 7;
  writer.finish();
  waiting.join();
}

TEST(two_that_wait_for_each_other_are_told) {
  const auto mine = Buffer::allocate(8);
  const auto other = Buffer::allocate(8);
  Writer writer;
  CHECK(writer.begin());
  writer.claim(*mine);
  CHECK(waits_for_us(*mine));
  std::atomic<bool> claimed{false};
  std::thread second([&] {
    Writer also;
    CHECK(also.begin());
    also.claim(*other);
    claimed.store(true);
    while (!wait_for_claim(*mine, 5ms)) {
    }
  });
  while (!claimed.load()) {
    std::this_thread::yield();
  }
  while (!waits_for_us(*other)) {  // until the other thread waits
    std::this_thread::yield();
  }
  writer.finish();
  second.join();
  CHECK(!waits_for_us(*other));
}

TEST(a_trace_excludes_writers_of_other_threads) {
  Writer early;
  std::atomic<bool> traced{false};
  CHECK(early.begin());
  std::thread tracer([&] {
    CHECK(!begin_trace(1ms));  // a writer has begun
    while (!begin_trace(5ms)) {
    }
    CHECK(begin_trace(0ms));  // nests
    end_trace();
    traced.store(true);
    Writer own;
    CHECK(own.begin());
    own.finish();
    std::this_thread::sleep_for(10ms);
    traced.store(false);
    end_trace();
  });
  std::this_thread::sleep_for(10ms);
  Writer nested;
  CHECK(nested.begin());  // what a writer calls goes on, or the trace would wait for ever
  CHECK(wait_for_trace(0ms));
  nested.finish();
  std::thread([&] {
    Writer late;
    CHECK(!late.begin());
    CHECK(!wait_for_trace(0ms));
  }).join();
  early.finish();
  while (!traced.load()) {
    std::this_thread::yield();
  }
  Writer late;
  while (!late.begin()) {
    wait_for_trace(5ms);
  }
  CHECK(!traced.load());
  tracer.join();
}

TEST(a_trace_that_is_given_up_excludes_nobody) {
  Writer writer;
  CHECK(writer.begin());
  std::thread([] {
    CHECK(!begin_trace(1ms));
    end_trace();
  }).join();
  std::thread([] {
    Writer other;
    CHECK(other.begin());
  }).join();
}

TEST(many_writers_and_traces_take_turns) {
  const auto buffer = Buffer::allocate(sizeof(int));
  auto& value = *reinterpret_cast<int*>(buffer->data());
  value = 0;
  std::mutex gil;  // as Python has one: claims are made under it
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 200; ++round) {
        while (true) {
          std::unique_lock lock(gil);
          Writer writer;
          if (claim_on(*buffer) != Claim::kNone) {
            lock.unlock();
            wait_for_claim(*buffer, 50ms);
            continue;
          }
          if (!writer.begin()) {
            lock.unlock();
            wait_for_trace(50ms);
            continue;
          }
          writer.claim(*buffer);
          lock.unlock();
          ++value;
          break;
        }
      }
    });
  }
  std::thread tracer([&] {
    for (int round = 0; round < 50; ++round) {
      while (!begin_trace(50ms)) {
      }
      const int before = value;
      std::this_thread::yield();
      CHECK_EQUAL(value, before);
      end_trace();
    }
  });
  for (std::thread& thread : threads) {
    thread.join();
  }
  tracer.join();
  CHECK_EQUAL(value, 800);
}

TEST(a_child_has_no_claims_of_threads_it_does_not_have) {
  const auto buffer = Buffer::allocate(8);
  const auto own = Buffer::allocate(8);
  Writer here;
  CHECK(here.begin());
  std::atomic<bool> claimed{false};
  std::atomic<bool> done{false};
  std::thread other([&] {
    Writer writer;
    CHECK(writer.begin());
    writer.claim(*buffer);
    claimed.store(true);
    while (!done.load()) {
      std::this_thread::yield();
    }
  });
  while (!claimed.load()) {
    std::this_thread::yield();
  }
  const pid_t pid = fork();
  if (pid == 0) {
    const bool free = claim_on(*buffer) == Claim::kNone && wait_for_claim(*buffer, 0ms);
    here.finish();
    _exit(free && begin_trace(1ms) && !writing_here() ? 0 : 1);
  }
  int status = 1;
  waitpid(pid, &status, 0);
  done.store(true);
  other.join();
  CHECK_EQUAL(status, 0);
}

}  // namespace
}  // namespace deepseek
