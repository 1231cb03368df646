// The thread pool: parallel_for with chunks claimed from a counter.
//
// The caller works too and never waits for a worker that is still asleep. A nested call, and a call
// while another thread uses the pool, runs on its own thread: work is never oversubscribed.
#pragma once

#include <cstdint>
#include <memory>
#include <type_traits>

namespace deepseek {

class ThreadPool {
 public:
  // Called as run(context, worker, begin, end); worker < max_workers of the call.
  using Run = void (*)(void* context, int worker, int64_t begin, int64_t end);

  // The process's pool; rebuilt in the child after a fork. Throws if DS_NUM_THREADS is malformed.
  static ThreadPool& global();

  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const;
  void set_num_threads(int threads);

  // Covers [0, count) in chunks of at least `grain`. The first exception is thrown to the caller.
  void parallel_for(int64_t count, int64_t grain, int max_workers, Run run, void* context);

  template <typename F>
  void parallel_for(int64_t count, int64_t grain, int max_workers, F&& body) {
    using Body = std::remove_reference_t<F>;
    parallel_for(
        count, grain, max_workers,
        [](void* context, int worker, int64_t begin, int64_t end) {
          (*static_cast<Body*>(context))(worker, begin, end);
        },
        const_cast<void*>(static_cast<const void*>(&body)));
  }

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Hardware threads that this process may run on (affinity and control group respected).
int hardware_threads();

}  // namespace deepseek
