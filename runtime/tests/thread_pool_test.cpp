#include "deepseek/thread_pool.h"

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <numeric>
#include <thread>
#include <vector>

#include "test.h"

namespace deepseek {
namespace {

int64_t sum_of_range(ThreadPool& pool, int64_t count, int64_t grain) {
  std::atomic<int64_t> sum{0};
  pool.parallel_for(count, grain, pool.num_threads(), [&](int, int64_t begin, int64_t end) {
    int64_t part = 0;
    for (int64_t i = begin; i < end; ++i) {
      part += i;
    }
    sum += part;
  });
  return sum;
}

TEST(every_index_runs_once) {
  ThreadPool pool(4);
  for (const int64_t count : {0, 1, 2, 31, 1000, 100'001}) {
    for (const int64_t grain : {1, 7, 1000}) {
      std::vector<std::atomic<int>> seen(static_cast<size_t>(count));
      pool.parallel_for(count, grain, 4, [&](int worker, int64_t begin, int64_t end) {
        CHECK(worker >= 0 && worker < 4 && begin < end);
        for (int64_t i = begin; i < end; ++i) {
          seen[static_cast<size_t>(i)].fetch_add(1);
        }
      });
      for (const auto& times : seen) {
        CHECK_EQUAL(times.load(), 1);
      }
    }
  }
}

TEST(workers_have_their_own_numbers) {
  ThreadPool pool(4);
  int64_t counts[4 * 64] = {};  // a cache line each; a race here is ThreadSanitizer's to find
  for (int round = 0; round < 200; ++round) {
    pool.parallel_for(64, 1, 3, [&](int worker, int64_t begin, int64_t end) {
      counts[worker * 64] += end - begin;
    });
  }
  CHECK_EQUAL(counts[0] + counts[64] + counts[128], 200 * 64);
  CHECK_EQUAL(counts[192], 0);  // max_workers was 3
}

TEST(jobs_follow_each_other_closely_and_after_sleep) {
  ThreadPool pool(3);
  for (int round = 0; round < 2000; ++round) {
    CHECK_EQUAL(sum_of_range(pool, 100, 1), 4950);
    if (round % 500 == 0) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  }
}

TEST(nested_work_runs_inline) {
  ThreadPool pool(4);
  std::atomic<int64_t> total{0};
  pool.parallel_for(16, 1, 4, [&](int, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const auto thread = std::this_thread::get_id();
      pool.parallel_for(100, 1, 4, [&](int worker, int64_t from, int64_t to) {
        CHECK_EQUAL(worker, 0);
        CHECK(std::this_thread::get_id() == thread);
        total += to - from;
      });
    }
  });
  CHECK_EQUAL(total.load(), 1600);
}

TEST(callers_on_several_threads_are_safe) {
  ThreadPool pool(3);
  std::vector<std::thread> callers;
  std::atomic<int> wrong{0};
  for (int i = 0; i < 4; ++i) {
    callers.emplace_back([&] {
      for (int round = 0; round < 300; ++round) {
        wrong += sum_of_range(pool, 200, 3) != 19900;
      }
    });
  }
  for (int threads = 1; threads < 6; ++threads) {
    pool.set_num_threads(threads);
  }
  for (std::thread& caller : callers) {
    caller.join();
  }
  CHECK_EQUAL(wrong.load(), 0);
}

TEST(the_first_exception_reaches_the_caller) {
  ThreadPool pool(4);
  for (int round = 0; round < 50; ++round) {
    CHECK_THROWS(std::runtime_error, "task",
                 pool.parallel_for(1000, 1, 4, [&](int, int64_t begin, int64_t end) {
                   if (begin <= 500 && 500 < end) {
                     throw std::runtime_error("task 500");
                   }
                 }));
    CHECK_EQUAL(sum_of_range(pool, 100, 1), 4950);
  }
}

TEST(thread_counts_are_checked) {
  ThreadPool pool(2);
  CHECK_THROWS(std::invalid_argument, "got 0", pool.set_num_threads(0));
  CHECK_THROWS(std::logic_error, "inside a parallel task",
               pool.parallel_for(8, 1, 2, [&](int, int64_t, int64_t) { pool.set_num_threads(3); }));
  CHECK_EQUAL(pool.num_threads(), 2);
}

#ifndef __SANITIZE_THREAD__  // which does not support threads after a fork
TEST(a_forked_child_gets_its_own_threads) {
  ThreadPool::global().set_num_threads(3);
  CHECK_EQUAL(sum_of_range(ThreadPool::global(), 1000, 1), 499500);
  const pid_t child = fork();
  if (child == 0) {
    ThreadPool& pool = ThreadPool::global();
    _exit(pool.num_threads() == 3 && sum_of_range(pool, 1000, 1) == 499500 ? 0 : 1);
  }
  int status = -1;
  waitpid(child, &status, 0);
  CHECK_EQUAL(status, 0);
  CHECK_EQUAL(sum_of_range(ThreadPool::global(), 1000, 1), 499500);
}
#endif

}  // namespace
}  // namespace deepseek
