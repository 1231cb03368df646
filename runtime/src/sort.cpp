#include "deepseek/sort.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

#include "deepseek/thread_pool.h"

namespace deepseek {
namespace {

// buffers: x, values, indices (int64); sizes: rows, n, dtype code, descending.
enum { kX, kValues, kIndices, kBuffers };
enum { kRows, kN, kDtype, kDescending, kSizes };

constexpr int64_t kItemBytes[] = {1, 1, 2, 4, 8, 1, 2, 4, 8, 2, 2, 4, 8};
static_assert(std::size(kItemBytes) == std::size(kSortDtypes));

// From here on a radix sort beats comparisons.
constexpr int64_t kRadix = 256;
// Rows given to a thread hold at least this many elements.
constexpr int64_t kGrain = 16384;

struct Entry {
  uint64_t key;
  int64_t index;
};

// Maps values to unsigned keys in the same order: integers by moving their zero; floats by turning
// negative ones around, with both zeros equal and NaN above everything.
template <typename T>
struct UnsignedKey {
  static uint64_t of(T bits) { return bits; }
};

template <typename T>
struct SignedKey {
  static uint64_t of(T bits) {
    return static_cast<T>(bits ^ static_cast<T>(T{1} << (8 * sizeof(T) - 1)));
  }
};

template <typename T, int kMantissa>
struct FloatKey {
  static uint64_t of(T bits) {
    constexpr T kSign = static_cast<T>(T{1} << (8 * sizeof(T) - 1));
    constexpr T kInfinity = static_cast<T>(
        static_cast<T>(kSign - 1) & static_cast<T>(~static_cast<T>((T{1} << kMantissa) - 1)));
    const T magnitude = static_cast<T>(bits & static_cast<T>(~kSign));
    if (magnitude > kInfinity) {
      return static_cast<T>(~T{0});
    }
    if (magnitude == 0) {
      return kSign;
    }
    return (bits & kSign) != 0 ? static_cast<T>(~bits) : static_cast<T>(bits | kSign);
  }
};

// Stable, least significant byte first; `entries` and `spare` swap roles with each pass.
Entry* radix_sort(Entry* entries, Entry* spare, int64_t n, int key_bytes) {
  for (int byte = 0; byte < key_bytes; ++byte) {
    const int shift = 8 * byte;
    int64_t start[256] = {};
    for (int64_t i = 0; i < n; ++i) {
      ++start[(entries[i].key >> shift) & 255];
    }
    if (start[(entries[0].key >> shift) & 255] == n) {
      continue;  // all alike in this byte
    }
    int64_t sum = 0;
    for (int64_t& count : start) {
      sum += std::exchange(count, sum);
    }
    for (int64_t i = 0; i < n; ++i) {
      spare[start[(entries[i].key >> shift) & 255]++] = entries[i];
    }
    std::swap(entries, spare);
  }
  return entries;
}

template <typename T, typename Key>
void sort_row(const T* x, T* values, int64_t* indices, int64_t n, bool descending, Entry* scratch) {
  for (int64_t i = 0; i < n; ++i) {
    const uint64_t key = Key::of(x[i]);
    scratch[i] = {descending ? ~key : key, i};
  }
  Entry* sorted = scratch;
  if (n >= kRadix) {
    sorted = radix_sort(scratch, scratch + n, n, sizeof(T));
  } else {
    std::sort(scratch, scratch + n, [](const Entry& a, const Entry& b) {
      return a.key != b.key ? a.key < b.key : a.index < b.index;
    });
  }
  for (int64_t i = 0; i < n; ++i) {
    indices[i] = sorted[i].index;
    values[i] = x[sorted[i].index];
  }
}

template <typename T, typename Key>
void sort_rows(const RoutineCall& call) {
  const int64_t n = call.sizes[kN];
  if (n == 0) {
    return;
  }
  const int64_t grain = std::max<int64_t>(1, kGrain / n);
  ThreadPool::global().parallel_for(
      call.sizes[kRows], grain, call.max_workers, [&](int worker, int64_t begin, int64_t end) {
        auto* scratch = reinterpret_cast<Entry*>(call.scratch +
                                                 static_cast<size_t>(worker) * call.scratch_stride);
        for (int64_t row = begin; row < end; ++row) {
          sort_row<T, Key>(static_cast<const T*>(call.buffers[kX]) + row * n,
                           static_cast<T*>(call.buffers[kValues]) + row * n,
                           static_cast<int64_t*>(call.buffers[kIndices]) + row * n, n,
                           call.sizes[kDescending] != 0, scratch);
        }
      });
}

using SortRows = void (*)(const RoutineCall& call);

constexpr SortRows kByDtype[] = {
    sort_rows<uint8_t, UnsignedKey<uint8_t>>,    sort_rows<uint8_t, SignedKey<uint8_t>>,
    sort_rows<uint16_t, SignedKey<uint16_t>>,    sort_rows<uint32_t, SignedKey<uint32_t>>,
    sort_rows<uint64_t, SignedKey<uint64_t>>,    sort_rows<uint8_t, UnsignedKey<uint8_t>>,
    sort_rows<uint16_t, UnsignedKey<uint16_t>>,  sort_rows<uint32_t, UnsignedKey<uint32_t>>,
    sort_rows<uint64_t, UnsignedKey<uint64_t>>,  sort_rows<uint16_t, FloatKey<uint16_t, 10>>,
    sort_rows<uint16_t, FloatKey<uint16_t, 7>>,  sort_rows<uint32_t, FloatKey<uint32_t, 23>>,
    sort_rows<uint64_t, FloatKey<uint64_t, 52>>,
};
static_assert(std::size(kByDtype) == std::size(kSortDtypes));

void check(std::span<const int64_t> sizes, std::span<const int64_t> nbytes) {
  if (sizes.size() != kSizes || nbytes.size() != kBuffers) {
    throw std::invalid_argument(
        "sort wants buffers (x, values, indices) and sizes (rows, n, dtype, descending), got " +
        std::to_string(nbytes.size()) + " buffers and " + std::to_string(sizes.size()) + " sizes");
  }
  const int64_t dtype = sizes[kDtype];
  if (dtype < 0 || dtype >= static_cast<int64_t>(std::size(kSortDtypes))) {
    throw std::invalid_argument("sort: no dtype has code " + std::to_string(dtype));
  }
  constexpr int64_t kMost = int64_t{1} << 48;
  if (sizes[kRows] < 0 || sizes[kN] < 0 || (sizes[kN] > 0 && sizes[kRows] > kMost / sizes[kN])) {
    throw std::invalid_argument("sort: cannot sort " + std::to_string(sizes[kRows]) + " rows of " +
                                std::to_string(sizes[kN]));
  }
  const int64_t count = sizes[kRows] * sizes[kN];
  const int64_t item = kItemBytes[dtype];
  if (nbytes[kX] < count * item || nbytes[kValues] < count * item || nbytes[kIndices] < count * 8) {
    throw std::invalid_argument("sort: a buffer is too small for " + std::to_string(count) +
                                " elements of " + std::string(kSortDtypes[dtype]));
  }
}

int64_t scratch_bytes(std::span<const int64_t> sizes) {
  const int64_t entries = sizes[kN] >= kRadix ? 2 * sizes[kN] : sizes[kN];
  return entries * static_cast<int64_t>(sizeof(Entry));
}

void run(const RoutineCall& call) {
  kByDtype[call.sizes[kDtype]](call);
}

}  // namespace

const Routine kSort = {"sort", check, scratch_bytes, run};

}  // namespace deepseek
