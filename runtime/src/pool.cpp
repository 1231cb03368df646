#include "deepseek/pool.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <limits>

namespace deepseek {
namespace {

size_t physical_memory() {
  size_t bytes =
      static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<size_t>(sysconf(_SC_PAGE_SIZE));
  std::ifstream file("/sys/fs/cgroup/memory.max");
  size_t group = 0;
  if (file >> group) {  // the word "max" leaves the stream failed
    bytes = std::min(bytes, group);
  }
  return bytes;
}

// Maps `capacity` bytes; from a huge page on, aligned to one so that the kernel may use them.
void* map_pages(size_t capacity) {
  const bool huge = capacity >= 2 * Pool::kHuge;
  const size_t slack = huge ? Pool::kHuge : 0;
  void* start =
      mmap(nullptr, capacity + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (start == MAP_FAILED) {
    return nullptr;
  }
  if (!huge) {
    return start;
  }
  const auto address = reinterpret_cast<uintptr_t>(start);
  const uintptr_t aligned = (address + Pool::kHuge - 1) & ~(uintptr_t{Pool::kHuge} - 1);
  const size_t before = aligned - address;
  if (before > 0) {
    munmap(start, before);
  }
  if (slack > before) {
    munmap(reinterpret_cast<void*>(aligned + capacity), slack - before);
  }
  void* block = reinterpret_cast<void*>(aligned);
  madvise(block, capacity, MADV_HUGEPAGE);  // a hint: without huge pages all works as before
  return block;
}

void* system_allocate(size_t capacity) {
  return capacity >= Pool::kLarge ? map_pages(capacity)
                                  : std::aligned_alloc(Pool::kAlignment, capacity);
}

void system_free(void* data, size_t capacity) {
  if (capacity >= Pool::kLarge) {
    munmap(data, capacity);
  } else {
    std::free(data);
  }
}

}  // namespace

Pool& Pool::global() {
  static Pool* pool = [] {
    auto* made = new Pool;  // never destroyed: buffers may outlive every other static
    pthread_atfork([] { Pool::global().lock(); }, [] { Pool::global().unlock(); },
                   [] { Pool::global().unlock(); });
    return made;
  }();
  return *pool;
}

Pool::Pool() : Memory(kHost) {
  stats_.physical = physical_memory();
}

Pool::~Pool() {
  empty_cache();
}

size_t Pool::capacity_for(size_t nbytes) {
  return size_class(nbytes, kAlignment, kLarge, kPage);
}

void Pool::acquire(LiveBlock& block, size_t nbytes, std::string label) {
  std::lock_guard lock(mutex_);
  constexpr size_t kSane = std::numeric_limits<size_t>::max() / 4;
  const size_t limit = effective_limit();
  if (nbytes > kSane || stats_.in_use + nbytes > limit) {
    ++stats_.failures;
    throw OutOfMemory(describe_failure(nbytes));
  }
  const size_t capacity = capacity_for(nbytes);
  if (take_cached(block, capacity)) {
    ++stats_.cache_hits;
  } else {
    while (stats_.in_use + nbytes + stats_.cached > limit && evict_oldest()) {
    }
    block.data = system_allocate(capacity);
    while (block.data == nullptr && evict_oldest()) {
      block.data = system_allocate(capacity);
    }
    if (block.data == nullptr) {
      ++stats_.failures;
      throw OutOfMemory(describe_failure(nbytes));
    }
    block.capacity = capacity;
    stats_.reserved += capacity;
  }
  enter(block, nbytes, std::move(label));
}

// A large request also takes a block up to a quarter larger.
bool Pool::take_cached(LiveBlock& block, size_t capacity) {
  const size_t most = capacity >= kLarge ? capacity + capacity / 4 : capacity;
  for (auto it = free_.lower_bound(capacity); it != free_.end() && it->first <= most; ++it) {
    if (!it->second.empty()) {
      block.data = it->second.back().data;
      block.capacity = it->first;
      it->second.pop_back();
      stats_.cached -= block.capacity;
      return true;
    }
  }
  return false;
}

void Pool::release(LiveBlock& block) noexcept {
  std::lock_guard lock(mutex_);
  leave(block);
  try {
    free_[block.capacity].push_back({block.data, ++clock_});
    stats_.cached += block.capacity;
  } catch (const std::bad_alloc&) {
    system_free(block.data, block.capacity);
    stats_.reserved -= block.capacity;
  }
  // Perfect reuse needs at most the peak; sizes that differ from call to call may not pile up.
  const size_t keep = std::max(stats_.peak, size_t{64} << 20);
  const size_t limit = effective_limit();
  while ((stats_.cached > keep || stats_.in_use + stats_.cached > limit) && evict_oldest()) {
  }
}

bool Pool::evict_oldest() {
  auto oldest = free_.end();
  for (auto it = free_.begin(); it != free_.end(); ++it) {
    if (!it->second.empty() &&
        (oldest == free_.end() || it->second.front().stamp < oldest->second.front().stamp)) {
      oldest = it;
    }
  }
  if (oldest == free_.end()) {
    return false;
  }
  system_free(oldest->second.front().data, oldest->first);
  oldest->second.erase(oldest->second.begin());
  stats_.cached -= oldest->first;
  stats_.reserved -= oldest->first;
  return true;
}

void Pool::set_limit(std::optional<size_t> nbytes) {
  std::lock_guard lock(mutex_);
  stats_.limit = nbytes;
  while (stats_.in_use + stats_.cached > effective_limit() && evict_oldest()) {
  }
}

size_t Pool::empty_cache() {
  std::lock_guard lock(mutex_);
  const size_t before = stats_.cached;
  for (auto& [capacity, blocks] : free_) {
    for (const FreeBlock& block : blocks) {
      system_free(block.data, capacity);
    }
  }
  free_.clear();
  stats_.reserved -= before;
  stats_.cached = 0;
  return before;
}

}  // namespace deepseek
