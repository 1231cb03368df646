#include "deepseek/thread_pool.h"

#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace deepseek {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kSpin =
    std::chrono::microseconds(100);  // a program's steps follow each other closer
constexpr int kChunksPerWorker = 8;
constexpr int kMostThreads = 1024;
constexpr uint64_t kOpen = uint64_t{1} << 31;  // workers may join the job
constexpr uint64_t kActive = kOpen - 1;        // how many have joined
constexpr uint64_t kGeneration = uint64_t{1} << 32;

thread_local bool inside = false;  // this thread is running a task

int threads_from_environment() {
  const char* text = std::getenv("DS_NUM_THREADS");
  if (text == nullptr || *text == '\0') {
    return hardware_threads();
  }
  char* end = nullptr;
  const long value = std::strtol(text, &end, 10);
  if (*end != '\0' || value < 1 || value > kMostThreads) {
    throw std::invalid_argument("DS_NUM_THREADS must be a number from 1 to " +
                                std::to_string(kMostThreads) + ", got '" + text + "'");
  }
  return static_cast<int>(value);
}

// Polls for a while without giving up the processor, then gives it up between looks.
template <typename Condition>
bool spin_until(Condition condition) {
  const auto deadline = Clock::now() + kSpin;
  for (int round = 0;; ++round) {
    if (condition()) {
      return true;
    }
    __builtin_ia32_pause();
    if (round % 64 == 63 && Clock::now() > deadline) {
      return false;
    }
  }
}

}  // namespace

int hardware_threads() {
  cpu_set_t set;
  int count = sched_getaffinity(0, sizeof set, &set) == 0
                  ? CPU_COUNT(&set)
                  : static_cast<int>(std::thread::hardware_concurrency());
  std::ifstream file("/sys/fs/cgroup/cpu.max");
  double quota = 0;
  double period = 0;
  if (file >> quota >> period && period > 0) {  // "max" leaves the stream failed
    count = std::min(count, std::max(1, static_cast<int>(quota / period + 0.5)));
  }
  return std::clamp(count, 1, kMostThreads);
}

struct ThreadPool::State {
  struct Job {
    int64_t count;
    int64_t chunk;
    int max_workers;
    Run run;
    void* context;
  };

  // Held by the caller whose job it is; others find it taken and work alone.
  std::mutex owner;
  std::vector<std::thread> workers;
  std::atomic<int> threads{1};

  // Written by the owner while no worker has joined.
  Job job{};
  alignas(64) std::atomic<int64_t> next{0};
  // Generation in the upper half, then whether the job is open, then the workers that joined it.
  alignas(64) std::atomic<uint64_t> ticket{0};
  std::atomic<bool> stop{false};
  std::atomic<bool> failed{false};
  std::exception_ptr failure;

  std::mutex sleep_mutex;
  std::condition_variable wake;
  std::atomic<int> sleepers{0};

  void start(int count) {
    threads.store(count);
    stop.store(false);
    for (int i = 1; i < count; ++i) {
      workers.emplace_back([this, i] { work(i); });
    }
  }

  void finish() {
    stop.store(true);
    {
      std::lock_guard lock(sleep_mutex);
      wake.notify_all();
    }
    for (std::thread& worker : workers) {
      worker.join();
    }
    workers.clear();
  }

  void work(int index) {
    inside = true;
    uint64_t seen = 0;  // generation that this worker is done with
    const auto pending = [&] {
      const uint64_t now = ticket.load();
      return stop.load() || ((now & kOpen) != 0 && now / kGeneration != seen);
    };
    while (!stop.load()) {
      if (!spin_until(pending)) {
        std::unique_lock lock(sleep_mutex);
        sleepers.fetch_add(1);
        wake.wait(lock, pending);
        sleepers.fetch_sub(1);
      }
      uint64_t now = ticket.load();
      while ((now & kOpen) != 0 && now / kGeneration != seen) {
        if (ticket.compare_exchange_weak(now, now + 1)) {
          seen = now / kGeneration;
          if (index < job.max_workers) {
            claim_chunks(index);
          }
          ticket.fetch_sub(1);
          break;
        }
      }
    }
  }

  void claim_chunks(int worker) {
    const Job mine = job;
    while (true) {
      const int64_t begin = next.fetch_add(mine.chunk, std::memory_order_relaxed);
      if (begin >= mine.count) {
        return;
      }
      try {
        mine.run(mine.context, worker, begin, std::min(mine.count, begin + mine.chunk));
      } catch (...) {
        if (!failed.exchange(true)) {
          failure = std::current_exception();
        }
        next.store(mine.count, std::memory_order_relaxed);
        return;
      }
    }
  }

  void run_job(const Job& wanted) {
    job = wanted;
    next.store(0, std::memory_order_relaxed);
    failed.store(false, std::memory_order_relaxed);
    failure = nullptr;
    const uint64_t generation = ticket.load() / kGeneration + 1;
    ticket.store(generation * kGeneration | kOpen);
    if (sleepers.load() > 0) {
      // Taking the mutex closes the gap between a worker's last look and its sleep.
      {
        std::lock_guard lock(sleep_mutex);
      }
      wake.notify_all();
    }
    inside = true;
    claim_chunks(0);
    inside = false;
    ticket.fetch_and(~kOpen);
    const auto all_left = [&] { return (ticket.load() & kActive) == 0; };
    while (!spin_until(all_left)) {
      sched_yield();
    }
    if (failed.load()) {
      std::rethrow_exception(std::exchange(failure, nullptr));
    }
  }
};

namespace {

std::atomic<ThreadPool*> global_pool{nullptr};
std::mutex global_mutex;
int inherited_threads = 0;  // after a fork: what the parent's pool had

// The workers are not in the child, so the old pool is left alone and a new one with as many
// threads is made when first needed.
void forget_pool() {
  if (const ThreadPool* old = global_pool.exchange(nullptr)) {
    inherited_threads = old->num_threads();
  }
  inside = false;
  global_mutex.unlock();
}

}  // namespace

ThreadPool& ThreadPool::global() {
  ThreadPool* pool = global_pool.load(std::memory_order_acquire);
  if (pool != nullptr) {
    return *pool;
  }
  std::lock_guard lock(global_mutex);
  pool = global_pool.load(std::memory_order_acquire);
  if (pool == nullptr) {
    static std::once_flag registered;
    std::call_once(registered, [] {
      pthread_atfork([] { global_mutex.lock(); }, [] { global_mutex.unlock(); }, forget_pool);
    });
    const int threads = inherited_threads > 0 ? inherited_threads : threads_from_environment();
    pool = new ThreadPool(threads);
    global_pool.store(pool, std::memory_order_release);
  }
  return *pool;
}

ThreadPool::ThreadPool(int threads) : state_(std::make_unique<State>()) {
  set_num_threads(threads);
}

ThreadPool::~ThreadPool() {
  state_->finish();
}

int ThreadPool::num_threads() const {
  return state_->threads.load();
}

void ThreadPool::set_num_threads(int threads) {
  if (threads < 1 || threads > kMostThreads) {
    throw std::invalid_argument("number of threads must be from 1 to " +
                                std::to_string(kMostThreads) + ", got " + std::to_string(threads));
  }
  if (inside) {
    throw std::logic_error("the number of threads cannot change inside a parallel task");
  }
  std::lock_guard lock(state_->owner);
  state_->finish();
  state_->start(threads);
}

void ThreadPool::parallel_for(int64_t count, int64_t grain, int max_workers, Run run,
                              void* context) {
  if (count <= 0) {
    return;
  }
  grain = std::max<int64_t>(grain, 1);
  const int workers = std::min(max_workers, num_threads());
  if (count <= grain || workers <= 1 || inside || !state_->owner.try_lock()) {
    run(context, 0, 0, count);
    return;
  }
  std::lock_guard lock(state_->owner, std::adopt_lock);
  const int64_t pieces = int64_t{workers} * kChunksPerWorker;
  const int64_t chunk = std::max(grain, (count + pieces - 1) / pieces);
  state_->run_job({count, chunk, workers, run, context});
}

}  // namespace deepseek
